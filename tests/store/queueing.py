"""Jobs brought to the queue by somebody else than the worker under test."""

from __future__ import annotations

from collections.abc import Sequence

from core.domain.ids import JobId, WorkerId
from core.domain.states import FullReason, ScanType
from core.store import admissions, classes, jobs
from core.store.admissions import PlannedTask
from core.store.classes import Requirement
from core.store.store import Store
from tests.store import lifecycle as life


async def plan(store: Store, job_id: JobId, requirements: Sequence[Requirement]) -> None:
    tasks = [
        PlannedTask(one.engine, "codelint", await classes.ensure_class(store, one), {})
        for one in requirements
    ]
    assert await admissions.plan(
        store,
        job_id,
        tasks,
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        base_revision=None,
        sort_key=1,
        preferred_worker_id=None,
    )


async def prepared(store: Store, project_id: int, worker: WorkerId) -> JobId:
    """A job whose preparation has ended."""
    job_id = (await jobs.create(store, life.new_job(project_id, is_forced=True))).job_id
    token, _ = await life.admit(store)
    assert await life.prepare(store, token, job_id)
    await life.finish(store, await life.claim_and_start(store, worker))
    return job_id


async def queued(store: Store, projects: Sequence[int], engine: str = "lines") -> list[JobId]:
    """Jobs with a ready task each, in the queue in this order, whatever waits already."""
    preparer = await life.add_worker(store, engines=())
    job_ids = []
    for project_id in projects:
        job_id = await prepared(store, project_id, preparer)
        await plan(store, job_id, [Requirement(engine)])
        job_ids.append(job_id)
    await store.db.execute("UPDATE workers SET lost_at = now() WHERE id = $1", preparer)
    return job_ids
