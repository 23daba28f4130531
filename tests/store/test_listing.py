"""The list of jobs against a real server: each filter, its edges, pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.domain.ids import ProjectId
from core.domain.states import JobState
from core.store.listing import JobFilter, list_jobs
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import NOON, add_job, add_project, close_job


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


async def found(store: Store, project: int, **conditions: Any) -> list[int]:
    page = await list_jobs(
        store,
        ProjectId(project),
        JobFilter(**conditions),
        limit=100,
        offset=0,
    )
    assert page.count == len(page.items)
    return [job.id for job in page.items]


async def test_a_project_without_jobs_has_an_empty_page(store: Store) -> None:
    project = await add_project(store.db)

    page = await list_jobs(store, ProjectId(project), JobFilter(), limit=10, offset=0)

    assert (page.count, page.items) == (0, [])


async def test_the_newest_job_comes_first_and_other_projects_are_not_seen(store: Store) -> None:
    project, other = await add_project(store.db), await add_project(store.db)
    jobs = [await add_job(store.db, project) for _ in range(3)]
    await add_job(store.db, other)

    assert await found(store, project) == jobs[::-1]


async def test_a_page_is_cut_out_of_all_and_counts_all(store: Store) -> None:
    project = await add_project(store.db)
    jobs = [await add_job(store.db, project) for _ in range(5)]

    page = await list_jobs(store, ProjectId(project), JobFilter(), limit=2, offset=1)
    beyond = await list_jobs(store, ProjectId(project), JobFilter(), limit=2, offset=10**15)

    assert page.count == 5
    assert [job.id for job in page.items] == [jobs[3], jobs[2]]
    assert (beyond.count, beyond.items) == (5, [])


async def test_an_item_carries_its_scan_and_its_times(store: Store) -> None:
    project = await add_project(store.db)
    await close_job(
        store.db,
        project,
        code_line_num=10,
        comment_line_num=2,
        blank_line_num=3,
        total_line_num=15,
        creator="汪汪",
        created_from="jenkins",
    )

    (job,) = (await list_jobs(store, ProjectId(project), JobFilter(), limit=10, offset=0)).items

    assert job.state is JobState.CLOSED
    assert (job.result_code, job.result_msg) == (0, "success")
    assert (job.code_line_num, job.comment_line_num, job.blank_line_num) == (10, 2, 3)
    assert job.total_line_num == 15
    assert job.created_at == NOON
    assert job.started_at == NOON + timedelta(seconds=1.25)
    assert job.ended_at == NOON + timedelta(seconds=3.75)
    assert (job.creator, job.created_from) == ("汪汪", "jenkins")
    assert job.scan_id == await store.db.fetchval("SELECT id FROM scans WHERE job_id = $1", job.id)


async def test_both_ends_of_a_time_range_are_inside(store: Store) -> None:
    project = await add_project(store.db)
    early, noon, late = [
        await add_job(store.db, project, created_at=NOON + timedelta(microseconds=shift))
        for shift in (-1, 0, 1)
    ]

    assert await found(store, project, create_time_gte=NOON) == [late, noon]
    assert await found(store, project, create_time_lte=NOON) == [noon, early]
    assert await found(store, project, create_time_gte=NOON, create_time_lte=NOON) == [noon]


async def test_a_range_of_codes_is_inclusive_and_open_jobs_have_no_code(store: Store) -> None:
    project = await add_project(store.db)
    await add_job(store.db, project)
    success = await close_job(store.db, project)
    cancelled = await close_job(store.db, project, code=301, msg="User( ann ) Canceled: x . ")

    assert await found(store, project, result_code_gte=0) == [cancelled, success]
    assert await found(store, project, result_code_gte=1, result_code_lte=301) == [cancelled]
    assert await found(store, project, result_code_lte=-1) == []


async def test_any_of_the_asked_states_matches(store: Store) -> None:
    project = await add_project(store.db)
    waiting = await add_job(store.db, project)
    running = await add_job(store.db, project, phase="running", started_at=NOON, prepare_task_id=1)
    closed = await close_job(store.db, project)

    assert await found(store, project, states=[JobState.WAITING, JobState.CLOSED]) == [
        closed,
        waiting,
    ]
    assert await found(store, project, states=[JobState.RUNNING]) == [running]
    assert await found(store, project, states=[JobState.SAVING]) == []


@pytest.mark.parametrize("part", ["100%_", "0%_\\", "%", "_\\d/", "/", "\\"])
async def test_wildcards_of_sql_are_letters_like_any_other(store: Store, part: str) -> None:
    project = await add_project(store.db)
    wild = await close_job(store.db, project, msg="at 100%_\\d/ of it")
    await close_job(store.db, project, msg="at 100 of it")

    assert await found(store, project, result_msg=part) == [wild]


@pytest.mark.parametrize("column", ["result_msg", "created_from", "creator"])
async def test_a_part_of_a_text_matches_in_any_case(store: Store, column: str) -> None:
    project = await add_project(store.db)
    values = {"result_msg": "x", "created_from": "x", "creator": "x"} | {column: "Rex the Dog"}
    job = await close_job(
        store.db,
        project,
        msg=values["result_msg"],
        created_from=values["created_from"],
        creator=values["creator"],
    )
    await close_job(store.db, project, msg="cat", created_from="cat", creator="cat")

    assert await found(store, project, **{column: "x THE d"}) == [job]
    assert await found(store, project, **{column: "'; DROP TABLE jobs --"}) == []


async def test_all_conditions_hold_together(store: Store) -> None:
    project = await add_project(store.db)
    job = await close_job(store.db, project, creator="ann", created_from="ci")
    await close_job(store.db, project, creator="bob", created_from="ci")
    await close_job(store.db, project, creator="ann", created_from="web")

    everything: dict[str, Any] = {
        "create_time_gte": NOON,
        "create_time_lte": NOON,
        "result_code_gte": 0,
        "result_code_lte": 0,
        "result_msg": "SUCC",
        "created_from": "ci",
        "creator": "ann",
        "states": [JobState.CLOSED],
    }

    assert await found(store, project, **everything) == [job]
