"""One look for all loops: whom it wakes, and when it looks next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from core.domain.outcomes import Reason
from core.runtime.settings import LeaseSettings, Settings
from core.store import jobs
from core.store.duties import Duties
from core.store.maintenance import MOST_DEAD_ROWS
from core.store.notify import Subscription
from core.store.store import Store
from scheduler.lookout import Lookout
from tests.store import lifecycle as life
from tests.store.history import close_job

LOOPS = [field.name for field in fields(Duties)]
SETTINGS = Settings(data_dir=Path("/nonexistent"), lease=LeaseSettings(lease_s=30, start_s=20))


class Watched:
    """A lookout, and whom it has woken since one last asked."""

    def __init__(self, store: Store, stack: ExitStack) -> None:
        self.wakes: dict[str, Subscription] = {
            name: stack.enter_context(store.signals.subscribe()) for name in LOOPS
        }
        told = stack.enter_context(store.signals.subscribe("delayed"))
        self.lookout = Lookout(store, SETTINGS, self.wakes, told)

    async def woken(self) -> set[str]:
        assert await self.lookout.tick() == 0
        return {name for name, wake in self.wakes.items() if await wake.wait(0)}


@pytest.fixture
async def watched(store: Store) -> AsyncIterator[Watched]:
    with ExitStack() as stack:
        yield Watched(store, stack)


async def test_nobody_is_woken_while_there_is_nothing_to_do(
    store: Store, project_id: int, watched: Watched
) -> None:
    assert await watched.woken() == set()
    await life.add_worker(store)

    assert await watched.woken() == set()


async def a_waiting_job(store: Store, project_id: int) -> None:
    await jobs.create(store, life.new_job(project_id))


async def an_admission_that_has_ended(store: Store, project_id: int) -> None:
    await jobs.create(store, life.new_job(project_id))
    await life.admit(store)
    await store.db.execute("UPDATE jobs SET admission_expires_at = now() - interval '1 s'")


async def a_finished_preparation(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    created = await jobs.create(store, life.new_job(project_id))
    token, _ = await life.admit(store)
    assert await life.prepare(store, token, created.job_id)
    await life.finish(store, await life.claim_and_start(store, worker), result={"prepare": {}})


async def a_closed_task(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    await life.finish(store, await life.claim_and_start(store, worker))


async def a_job_being_saved(store: Store, project_id: int) -> None:
    await a_closed_task(store, project_id)
    await store.db.execute("UPDATE jobs SET phase = 'saving', saving_at = now()")


async def a_job_saved_for_too_long(store: Store, project_id: int) -> None:
    await a_closed_task(store, project_id)
    await store.db.execute("UPDATE jobs SET phase = 'saving', saving_at = now() - interval '1 day'")


async def a_delayed_task_that_is_due(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await life.finish(store, task, reason=Reason.CHECKOUT_FAILED)
    await store.db.execute("UPDATE task_pending SET not_before = now()")


async def a_worker_gone_silent(store: Store, project_id: int) -> None:
    await life.add_worker(store)
    await store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '31 s'")


async def an_offer_nobody_starts(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    assert await life.claim(store, worker)
    await store.db.execute("UPDATE task_leases SET offered_at = now() - interval '21 s'")


async def a_running_task(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)


async def an_overdue_job(store: Store, project_id: int) -> None:
    await jobs.create(store, life.new_job(project_id))
    await store.db.execute("UPDATE jobs SET expires_at = now() - interval '1 s'")


async def a_closed_job(store: Store, project_id: int) -> None:
    await close_job(store.db, project_id)


async def many_dead_rows(store: Store, project_id: int) -> None:
    async with store.db.connection() as connection:
        await connection.execute(
            "INSERT INTO uncounted_jobs (project_id, job_id) SELECT $1, n"
            " FROM generate_series(1, $2::bigint + 1) AS n",
            project_id,
            MOST_DEAD_ROWS,
        )
        await connection.execute("DELETE FROM uncounted_jobs")
        # statistics reach the others at leisure
        await connection.execute("SELECT pg_stat_force_next_flush()")


@pytest.mark.parametrize(
    ("situation", "woken"),
    [
        (a_waiting_job, {"admitter"}),
        (an_admission_that_has_ended, {"admitter"}),
        (a_finished_preparation, {"planner"}),
        (a_closed_task, {"settler"}),
        (a_job_being_saved, {"settler"}),
        (a_job_saved_for_too_long, {"settler", "expirer"}),
        (a_delayed_task_that_is_due, {"promoter", "sweeper"}),
        (a_worker_gone_silent, {"reaper"}),
        (an_offer_nobody_starts, {"reaper", "sweeper"}),
        (a_running_task, {"sweeper"}),
        (an_overdue_job, {"admitter", "expirer"}),
        (a_closed_job, {"tallier"}),
        (many_dead_rows, {"vacuumer"}),
    ],
)
async def test_a_loop_is_woken_when_there_is_work_for_it(
    store: Store,
    project_id: int,
    watched: Watched,
    situation: Callable[[Store, int], Awaitable[None]],
    woken: set[str],
) -> None:
    await situation(store, project_id)

    assert await watched.woken() == woken


@pytest.mark.parametrize(
    ("statement", "loop"),
    [
        ("UPDATE worker_beats SET seen_at = now() - interval '29 s'", "reaper"),
        (
            """UPDATE jobs SET phase = 'resolving', admission_token = gen_random_uuid(),
            admission_expires_at = now() + interval '1 s'""",
            "admitter",
        ),
    ],
)
async def test_the_next_look_comes_at_the_moment_the_next_lease_ends(
    store: Store, project_id: int, watched: Watched, statement: str, loop: str
) -> None:
    await life.add_worker(store)
    await jobs.create(store, life.new_job(project_id))
    await store.db.execute(
        "UPDATE jobs SET phase = 'closed', result_code = 0, result_msg = 'x',"
        " ended_at = now() WHERE $1 = 'reaper'",
        loop,
    )
    await store.db.execute(statement)
    assert loop not in await watched.woken()

    async with asyncio.timeout(10):
        # Not a wake-up, and long before the time is over.
        assert not await watched.lookout.wait(60)

    assert loop in await watched.woken()


async def test_who_delays_a_task_has_the_lookout_look_at_once(
    store: Store, watched: Watched
) -> None:
    assert await watched.woken() == set()

    store.signals.publish("delayed")

    async with asyncio.timeout(10):
        assert await watched.lookout.wait(60)


async def test_the_lookout_waits_while_the_database_is_away(store: Store, watched: Watched) -> None:
    assert await watched.woken() == set()
    await store.db.close()

    # A wait that fails would end the loop, and with it the scheduler.
    assert not await watched.lookout.wait(0.01)
