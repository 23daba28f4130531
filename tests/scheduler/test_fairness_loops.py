"""Limits and deadlines as the loops keep them."""

from __future__ import annotations

import asyncio

import pytest

from core.domain.ids import JobId, ProjectId
from core.domain.outcomes import Outcome
from core.domain.states import JobPhase
from core.runtime.settings import SchedulerSettings
from core.store import jobs, projects, shares
from core.store.shares import ShareChange
from core.store.store import Store
from scheduler.expirer import Expirer
from scheduler.promoter import Promoter
from tests.store import lifecycle as life

TOPICS = ("settle", "prepared", "jobs")


async def limited(store: Store, project_id: int, max_running: int) -> None:
    await projects.change(
        store, ProjectId(project_id), share=ShareChange(sets_limit=True, max_running=max_running)
    )


async def waiting_jobs(store: Store, project_id: int, count: int) -> list[JobId]:
    """Jobs whose preparations wait for the project's limit."""
    made = [
        (await jobs.create(store, life.new_job(project_id, is_forced=True))).job_id
        for _ in range(count)
    ]
    token, _ = await life.admit(store)
    for job_id in made:
        assert await life.prepare(store, token, job_id)
    return made


async def ended(store: Store, job_id: JobId) -> int | None:
    job = (await jobs.closed(store, [job_id])).get(job_id)
    return None if job is None else job.result_code


async def overdue(store: Store, job_id: JobId) -> None:
    await store.db.execute(
        "UPDATE jobs SET expires_at = now() - interval '1 second' WHERE id = $1", job_id
    )


async def test_a_promoter_hears_that_a_task_has_ended(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await limited(store, project_id, 1)
    await waiting_jobs(store, project_id, 2)
    with (
        store.signals.subscribe("delayed") as wake,
        store.signals.subscribe(*TOPICS) as ends,
    ):
        promoter = Promoter(store, wake, ends=ends)
        assert await promoter.tick() == 1
        assert await promoter.tick() == 0
        running = await life.claim_and_start(store, worker)
        async with asyncio.timeout(60):
            while await wake.wait(0):
                pass  # what made them pending
            waits = asyncio.create_task(promoter.wait(60))
            await life.finish(store, running)
            assert await waits

        assert await promoter.tick() == 1


async def test_ends_of_tasks_wake_no_promoter_while_nothing_waits_for_a_limit(
    store: Store, project_id: int
) -> None:
    with (
        store.signals.subscribe("delayed") as wake,
        store.signals.subscribe(*TOPICS) as ends,
    ):
        promoter = Promoter(store, wake, ends=ends)
        await promoter.tick()
        store.signals.publish(*TOPICS)

        assert not await promoter.wait(0.01)


async def test_many_promoters_keep_a_limit_while_tasks_come_and_go(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    await limited(store, project_id, 3)
    made = await waiting_jobs(store, project_id, 15)
    most = 0
    with store.signals.subscribe("delayed") as wake:
        promoters = [Promoter(store, wake) for _ in range(4)]
        served: list[JobId] = []
        async with asyncio.timeout(100):
            while len(served) < len(made):
                await asyncio.gather(*(promoter.tick() for promoter in promoters))
                claimed = await life.claim(store, worker, 9)
                most = max(most, len(claimed))
                for one in claimed:
                    assert await life.start(store, one)
                    await life.finish(store, one)
                    served.append(one.offer.job_id)

    assert most == 3
    assert sorted(served) == made


async def test_a_new_limit_holds_from_the_first_promotion_on(store: Store, project_id: int) -> None:
    await shares.reserve(store, ProjectId(project_id), 5, cost=1, bonus=0, horizon_s=60)
    await waiting_jobs(store, project_id, 3)
    with store.signals.subscribe("delayed") as wake:
        promoter = Promoter(store, wake)
        # House is kept for the clock: the next time is seconds away.
        await promoter.tick()
        await limited(store, project_id, 3)
        await waiting_jobs(store, project_id, 3)

        assert await promoter.tick() == 0

    assert await store.db.fetchval("SELECT count(*) FROM task_ready") == 3


async def test_idle_a_promoter_asks_once(store: Store, project_id: int) -> None:
    with store.signals.subscribe("delayed") as wake:
        promoter = Promoter(store, wake)

        assert await promoter.tick() == 0

    assert await store.db.fetchval("SELECT count(*) FROM task_grants") == 0


async def test_clocks_of_finished_projects_are_forgotten_by_the_promoter(
    store: Store, project_id: int
) -> None:
    await shares.reserve(store, ProjectId(project_id), 5, cost=1, bonus=0, horizon_s=60)
    await store.db.execute("UPDATE share_clocks SET charged_at = now() - interval '1 minute'")
    with store.signals.subscribe("delayed") as wake:
        await Promoter(store, wake).tick()

    assert await store.db.fetchval("SELECT count(*) FROM share_clocks") == 0


# --- deadlines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("fits", "code"), [(True, 297), (False, 313)])
async def test_a_job_that_waited_for_too_long_says_whether_a_worker_fitted(
    store: Store, project_id: int, fits: bool, code: int
) -> None:
    if fits:
        await life.add_worker(store)
    (job_id,) = await waiting_jobs(store, project_id, 1)
    await overdue(store, job_id)

    assert await Expirer(store, SchedulerSettings()).tick() == 1

    assert await ended(store, job_id) == code
    assert await store.db.fetchval("SELECT count(*) FROM task_ready") == 0


@pytest.mark.parametrize(("fits", "code"), [(True, 297), (False, 313)])
async def test_waiting_for_a_limit_is_waiting(
    store: Store, project_id: int, fits: bool, code: int
) -> None:
    if fits:
        await life.add_worker(store)
    await limited(store, project_id, 0)
    (job_id,) = await waiting_jobs(store, project_id, 1)
    await overdue(store, job_id)

    assert await Expirer(store, SchedulerSettings()).tick() == 1

    assert await ended(store, job_id) == code
    assert await store.db.fetchval("SELECT count(*) FROM task_pending") == 0


async def test_a_start_moves_the_deadline_to_the_run_time(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute("UPDATE jobs SET runtime_limit_s = 7200")
    await life.claim_and_start(store, worker)

    left = await store.db.fetchval("SELECT expires_at - started_at FROM jobs WHERE id = $1", job_id)

    assert left.total_seconds() == 7200


async def test_a_job_that_runs_for_too_long_closes_and_its_task_is_lost(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    running = await life.claim_and_start(store, worker)
    await overdue(store, job_id)

    assert await Expirer(store, SchedulerSettings()).tick() == 1

    assert await ended(store, job_id) == 297
    outcome = await store.db.fetchval(
        "SELECT outcome FROM task_outcomes WHERE task_id = $1", running.offer.task_id
    )
    assert Outcome(outcome) is Outcome.CANCELLED


async def test_a_job_that_is_saved_for_too_long_closes_with_its_own_code(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.finish(store, await life.claim_and_start(store, worker))
    await store.db.execute(
        "UPDATE jobs SET phase = $1, saving_at = now() - interval '2 hours'", JobPhase.SAVING.value
    )
    expirer = Expirer(store, SchedulerSettings(saving_limit_s=3 * 3600))
    assert await expirer.tick() == 0

    assert await Expirer(store, SchedulerSettings(saving_limit_s=3600)).tick() == 1

    assert await ended(store, job_id) == 199
