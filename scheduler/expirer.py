"""Close jobs past their deadline: waiting, running or being saved for too long."""

from __future__ import annotations

from core.domain.codes import ResultCode
from core.domain.outcomes import Reason
from core.domain.states import STATE_OF_PHASE, JobPhase, JobState
from core.runtime.logs import get_logger
from core.runtime.settings import SchedulerSettings
from core.store import deadlines, jobs
from core.store.deadlines import Overdue
from core.store.store import Store

log = get_logger(__name__)

BATCH = 100


class Expirer:
    """The loop over deadlines."""

    name = "expirer"

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self._store = store
        self._settings = settings

    async def tick(self) -> int:
        """Close what is overdue; return how many jobs."""
        done = 0
        for job in await deadlines.overdue(self._store, limit=BATCH):
            code, message = verdict(job)
            closed = await jobs.close(
                self._store,
                [job.job_id],
                code=code,
                message=message,
                reason=Reason.JOB_TIMEOUT,
                # Not if it has started meanwhile: it then has another deadline.
                phases=[job.phase],
                event="job.expired",
            )
            done += len(closed)
        saving = await deadlines.overdue_saving(
            self._store, limit_s=self._settings.saving_limit_s, limit=BATCH
        )
        if saving:
            closed = await jobs.close(
                self._store,
                saving,
                code=ResultCode.SAVING_TIMEOUT,
                message="Time out while closing.",
                reason=Reason.JOB_TIMEOUT,
                phases=[JobPhase.SAVING],
                event="job.expired",
            )
            done += len(closed)
        if done:
            log.warning("jobs.expired", jobs=done)
        return done


def verdict(job: Overdue) -> tuple[ResultCode, str]:
    """Return the code and message an overdue job closes with."""
    state = STATE_OF_PHASE[job.phase]
    if state is JobState.WAITING and not job.has_fitting_workers:
        return (
            ResultCode.NO_WORKER_FITS,
            "no live worker fits the engine, version or tag that a task of this job requires",
        )
    return ResultCode.JOB_TIMEOUT, f"Time out while {state.name.capitalize()}"
