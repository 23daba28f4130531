"""One job's trouble is its own: what an iteration meets with one job never stops the others."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from structlog.contextvars import bound_contextvars

from core.domain.codes import ResultCode
from core.domain.ids import JobId
from core.domain.outcomes import Reason
from core.domain.states import JobPhase
from core.runtime.logs import get_logger
from core.store import jobs
from core.store.pool import is_unavailable
from core.store.store import Store

log = get_logger(__name__)

Result = TypeVar("Result")

MESSAGE = "internal error of the scheduler; its log says more"


async def isolated(
    store: Store,
    job_id: JobId,
    work: Awaitable[Result],
    *,
    code: ResultCode,
    phases: Sequence[JobPhase],
) -> Result | None:
    """Await *work* on one job; an error of it closes that job with *code* and ends there.

    Trouble with the database is everybody's and nobody's fault: it is raised, and the job stays.

    Args:
        store: The store.
        job_id: The job; bound to the log while it is worked on.
        work: What is done with it.
        code: What the job closes with.
        phases: Closed only while it is in one of these.

    Returns:
        What *work* returned; None after an error.
    """
    with bound_contextvars(job_id=job_id):
        try:
            return await work
        except Exception as error:
            if is_unavailable(error):
                raise
            # The edge of this job: without it one bad row would hold up every later one.
            log.exception("job.broken")
            await jobs.close(
                store,
                [job_id],
                code=code,
                message=MESSAGE,
                reason=Reason.JOB_CLOSED,
                phases=phases,
            )
            return None
