"""The loops take the projects in turns, and the jobs of a turn side by side."""

from __future__ import annotations

import asyncio

import pytest

from core.store import admissions, settling
from core.store.store import Store
from scheduler.lanes import abreast
from tests.store import lifecycle as life
from tests.store.history import add_project
from tests.store.queueing import prepared


async def test_one_prepared_job_of_each_project_is_planned_before_anybodys_second(
    store: Store, project_id: int
) -> None:
    worker, modest = await life.add_worker(store), await add_project(store.db)
    greedy = [await prepared(store, project_id, worker) for _ in range(3)]
    late = await prepared(store, modest, worker)

    found = [job.job_id for job in await admissions.prepared(store, limit=2)]

    assert found == [greedy[0], late]


async def test_one_ended_job_of_each_project_is_settled_before_anybodys_second(
    store: Store, project_id: int
) -> None:
    worker, modest = await life.add_worker(store), await add_project(store.db)
    ended = []
    for project in (project_id, project_id, project_id, modest):
        ended.append(await life.planned_job(store, project, worker, is_forced=True))
        await life.finish(store, await life.claim_and_start(store, worker))

    found = [job.job_id for job in await settling.settleable(store, limit=2)]

    assert found == [ended[0], ended[3]]


async def test_one_job_of_each_project_is_saved_before_anybodys_second(
    store: Store, project_id: int
) -> None:
    worker, modest = await life.add_worker(store), await add_project(store.db)
    saving = []
    for project in (project_id, project_id, project_id, modest):
        saving.append(await life.planned_job(store, project, worker, is_forced=True))
        await life.finish(store, await life.claim_and_start(store, worker))
    await store.db.execute("UPDATE jobs SET phase = 'saving', saving_at = now()")

    found = [job_id for job_id, _ in await settling.saving(store, limit=2)]

    assert found == [saving[0], saving[3]]


async def test_as_many_are_worked_on_at_the_same_time_as_there_are_lanes() -> None:
    under_way: list[int] = []
    everybody, both = asyncio.Event(), asyncio.Event()

    async def work(item: int) -> bool:
        under_way.append(item)
        if len(under_way) == 2:
            both.set()
        await everybody.wait()
        return item % 2 == 0

    done = asyncio.create_task(abreast(range(5), work, lanes=2))
    await both.wait()

    assert under_way == [0, 1]
    everybody.set()
    assert await done == 3
    assert under_way == [0, 1, 2, 3, 4]


async def test_the_first_error_ends_what_is_under_way_beside_it_and_is_raised() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def work(item: str) -> bool:
        if item == "broken":
            await begun.wait()
            raise ConnectionError(item)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)
        return True

    with pytest.raises(ConnectionError, match="broken"):
        await abreast(["broken", "slow", "never begun"], work, lanes=2)
    assert ended == ["slow"]
