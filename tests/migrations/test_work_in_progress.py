"""A database with work in every stage, taken down to the first schema and up again: nothing lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.domain.ids import JobId, ProjectId
from core.domain.outcomes import Reason
from core.store import attempts, blobs, counting, jobs, projects, reaping, schema, shares
from core.store.attempts import FinishVerdict
from core.store.blobs import Lease
from core.store.notify import Signals
from core.store.pool import create_pool
from core.store.shares import ShareChange
from core.store.store import Store
from scheduler import fairness
from tests.store import lifecycle as life
from tests.store.history import add_project


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    async with (
        await create_pool(url, size=4, application_name="kennel-test") as db,
        Signals(url) as signals,
    ):
        yield Store(db, signals)


async def queued(store: Store, project_id: int) -> JobId:
    """A job whose preparation is in the queue, or waits for a limit."""
    job_id = (await jobs.create(store, life.new_job(project_id, is_forced=True))).job_id
    token, _ = await life.admit(store)
    assert await life.prepare(store, token, job_id)
    return job_id


async def test_work_in_progress_outlasts_a_downgrade_and_an_upgrade(database_url: str) -> None:
    async with opened(database_url) as store:
        project, limited = await add_project(store.db), await add_project(store.db)
        worker = await life.add_worker(store)
        closed = (await jobs.create(store, life.new_job(project, is_forced=True))).job_id
        await jobs.cancel(store, closed, remarks="", by="ann")
        await counting.count_closed(store)
        running_job = await life.planned_job(store, project, worker, is_forced=True)
        running = await life.claim_and_start(store, worker)
        lease = Lease(running.offer.attempt_id, running.offer.token_hash, worker)
        assert await blobs.append_log(store, lease, offset=0, content=b"half", cap=100)
        retried_job = await life.planned_job(store, project, worker, is_forced=True)
        failing = await life.claim_and_start(store, worker)
        await life.finish(store, failing, reason=Reason.CHECKOUT_FAILED)
        ready_job = await queued(store, project)
        await projects.change(
            store, ProjectId(limited), share=ShareChange(sets_limit=True, max_running=0)
        )
        held_job = await queued(store, limited)

    await schema.downgrade(database_url, schema.known_revisions()[0])
    await schema.upgrade(database_url)

    async with opened(database_url) as store:
        (judged,) = await attempts.finish_many(
            store, [(worker, life.finished(running))], retry=life.RETRY
        )
        assert judged.verdict is FinishVerdict.ACCEPTED
        assert judged.log_bytes == 4
        await reaping.promote(store)
        await shares.promote(store, fairness.choose, recount=True)
        claimed = await life.claim(store, worker, 9)
        assert sorted(one.offer.job_id for one in claimed) == [retried_job, ready_job, held_job]
        numbers = {one.offer.job_id: one.offer.number for one in claimed}
        assert numbers == {retried_job: 2, ready_job: 1, held_job: 1}
        for one in claimed:
            assert await life.start(store, one)
            assert await life.finish(store, one) is FinishVerdict.ACCEPTED
        assert (
            await store.db.fetchval("SELECT open_tasks FROM jobs WHERE id = $1", running_job) == 0
        )
        assert await counting.count_closed(store) == 1
