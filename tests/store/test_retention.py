"""What is kept and what goes: ranges of the history, old jobs with their counts, lost workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from core.domain.ids import JobId, ProjectId, TaskId
from core.store import blobs, counting, details, maintenance
from core.store.listing import JobFilter, list_jobs
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import (
    add_job,
    add_task,
    add_worker,
    close_job,
    close_task,
    hold,
)

KEPT = timedelta(days=30)
LONG_AGO = timedelta(days=40)
FAMILY = ("tasks", "task_outcomes", "task_attempts", "artifacts", "blobs")


async def old_task(db: Database, job: int) -> int:
    """A closed task of long ago, in the first range, which is full."""
    task = await add_task(db, job)
    held = await hold(db, job, task)
    await close_task(db, job, held)
    await db.execute("UPDATE tasks SET created_at = now() - $1::interval", LONG_AGO)
    await db.execute("UPDATE task_outcomes SET closed_at = now() - $1::interval", LONG_AGO)
    await db.execute(
        "INSERT INTO blobs (task_id, attempt_id, name, position, content)"
        " VALUES ($1, $2, 'log', 0, 'abc')",
        task,
        held.attempt_id,
    )
    await fill_range(db)
    return task


async def fill_range(db: Database) -> None:
    await db.execute("SELECT setval('tasks_id_seq', 1000000)")
    await db.execute("SELECT ensure_partitions()")


async def exists(db: Database, table: str) -> bool:
    found: bool = await db.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    return found


async def test_a_range_that_ended_long_ago_is_dropped_whole(store: Store, project_id: int) -> None:
    job = await close_job(store.db, project_id, task_num=1)
    task = TaskId(await old_task(store.db, job))
    assert not await details.is_pruned(store, task)

    dropped = await maintenance.drop_partitions(store, KEPT)

    assert dropped == [f"{table}_p0" for table in FAMILY]
    assert not any([await exists(store.db, f"{table}_p0") for table in FAMILY])
    shown = await details.detail(store, ProjectId(project_id), JobId(job))
    assert shown is not None
    assert (shown.task_num, list(shown.tasks)) == (1, [])
    assert await details.task_scope(store, task, None) is None
    assert await details.is_pruned(store, task)
    assert not await details.is_pruned(store, TaskId(1_000_001))
    # made anew by nobody, and what comes next has its place
    assert await maintenance.ensure_partitions(store) == 0
    assert await add_task(store.db, job) == 1_000_001
    assert await maintenance.drop_partitions(store, KEPT) == []


async def test_a_range_with_a_task_of_an_open_job_stays(store: Store, project_id: int) -> None:
    closed = await close_job(store.db, project_id)
    await old_task(store.db, closed)
    opened = await add_job(store.db, project_id)
    await store.db.execute("UPDATE tasks SET job_id = $1", opened)

    assert await maintenance.drop_partitions(store, KEPT) == []

    await store.db.execute("UPDATE tasks SET job_id = $1", closed)
    assert len(await maintenance.drop_partitions(store, KEPT)) == len(FAMILY)


async def test_a_range_with_a_task_that_waits_for_its_sweep_stays(
    store: Store, project_id: int
) -> None:
    job = await close_job(store.db, project_id)
    task = await old_task(store.db, job)
    held = await hold(store.db, job, task)

    assert await maintenance.drop_partitions(store, KEPT) == []

    await store.db.execute("DELETE FROM task_leases WHERE attempt_id = $1", held.attempt_id)
    assert len(await maintenance.drop_partitions(store, KEPT)) == len(FAMILY)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE task_outcomes SET closed_at = now()",
        "UPDATE tasks SET created_at = now()",
        "SELECT setval('tasks_id_seq', 999999)",
    ],
)
async def test_a_range_that_is_young_or_still_filled_stays(
    store: Store, project_id: int, change: str
) -> None:
    await old_task(store.db, await close_job(store.db, project_id))
    await store.db.execute(change)

    assert await maintenance.drop_partitions(store, KEPT) == []
    assert await exists(store.db, "tasks_p0")


async def test_a_reader_in_the_way_is_not_waited_for(store: Store, project_id: int) -> None:
    await old_task(store.db, await close_job(store.db, project_id))
    async with store.db.transaction() as reader:
        await reader.fetch("SELECT * FROM task_attempts")

        assert await maintenance.drop_partitions(store, KEPT) == []
        # and whoever comes now does not stand behind it
        await store.db.execute("SELECT count(*) FROM tasks")

    assert len(await maintenance.drop_partitions(store, KEPT)) == len(FAMILY)


async def test_of_several_pruners_at_once_one_drops(store: Store, project_id: int) -> None:
    await old_task(store.db, await close_job(store.db, project_id))

    dropped = await asyncio.gather(
        *(maintenance.drop_partitions(store, KEPT) for _ in range(4)),
        maintenance.ensure_partitions(store),
    )

    assert sum(bool(names) for names in dropped[:4]) == 1


async def test_events_go_by_their_own_age(store: Store) -> None:
    await store.db.execute(
        "INSERT INTO events (kind, at) VALUES ('job.created', now() - $1::interval)", LONG_AGO
    )
    assert await maintenance.drop_partitions(store, KEPT) == []

    assert await maintenance.turn_partitions(store, KEPT) == 1
    await maintenance.ensure_partitions(store)

    assert await maintenance.drop_partitions(store, KEPT) == ["events_p0"]
    await store.db.execute("INSERT INTO events (kind) VALUES ('job.created')")
    assert await store.db.fetchval("SELECT min(id) FROM events") == 10_000_001


async def test_a_range_that_has_lasted_is_followed_by_the_next_one(
    store: Store, project_id: int
) -> None:
    job = await close_job(store.db, project_id)
    await add_task(store.db, job)
    assert await maintenance.turn_partitions(store, KEPT) == 0
    await store.db.execute("UPDATE tasks SET created_at = now() - $1::interval", LONG_AGO)

    assert await maintenance.turn_partitions(store, KEPT) == 1
    # an empty range has not lasted at all
    assert await maintenance.turn_partitions(store, KEPT) == 0

    await maintenance.ensure_partitions(store)
    assert await add_task(store.db, job) == 1_000_001
    assert await exists(store.db, "tasks_p2")


# --- jobs ---------------------------------------------------------------------------------------


async def old_job(db: Database, project: int, **columns: object) -> int:
    long_ago = datetime.now(UTC) - LONG_AGO
    times = {"created_at": long_ago, "started_at": long_ago, "ended_at": long_ago}
    return await close_job(db, project, **(times | columns))  # type: ignore[arg-type]


async def test_old_jobs_go_with_their_scans_findings_and_counts(
    store: Store, project_id: int
) -> None:
    old = [await old_job(store.db, project_id, creator=creator) for creator in ("ann", "bob")]
    young = await close_job(store.db, project_id, creator="bob")
    opened = await add_job(store.db, project_id)
    await store.db.execute(
        "INSERT INTO findings (scan_id, task_id, position, engine, rule, severity, path, line,"
        " \"column\", message) SELECT id, 1, 0, 'ruff', 'E1', 'error', 'a.py', 1, 1, 'm'"
        " FROM scans"
    )
    await counting.count_closed(store)

    forgotten = await maintenance.forget_jobs(store, KEPT, after=0)

    assert (forgotten.jobs, forgotten.go_on_after) == (len(old), None)
    for wanted, kept in (
        (JobFilter(), [opened, young]),
        (JobFilter(creator="b"), [young]),
        (JobFilter(creator="ann", result_code_gte=0), []),
        (JobFilter(result_code_gte=0), [young]),
    ):
        page = await list_jobs(store, ProjectId(project_id), wanted, limit=10, offset=0)
        assert (page.count, [job.id for job in page.items]) == (len(kept), kept)
    assert await store.db.fetchval("SELECT count(*) FROM scans") == 2
    assert await store.db.fetchval("SELECT count(*) FROM findings") == 2
    assert await store.db.fetchval("SELECT sum(jobs) FROM job_counts WHERE grain = 3") == 1


async def test_what_the_next_scan_builds_on_is_kept(store: Store, project_id: int) -> None:
    base = await old_job(store.db, project_id)
    older_base = await old_job(store.db, project_id)
    await store.db.execute(
        "UPDATE projects SET base_job_id = $1, base_revision = 'r',"
        " base_scan_id = (SELECT id FROM scans WHERE job_id = $1)",
        base,
    )
    opened = await add_job(store.db, project_id)
    await store.db.execute(
        "UPDATE scans SET base_scan_id = (SELECT id FROM scans WHERE job_id = $1)"
        " WHERE job_id = $2",
        older_base,
        opened,
    )
    await counting.count_closed(store)

    assert (await maintenance.forget_jobs(store, KEPT, after=0)).jobs == 0


async def test_a_job_that_is_not_counted_yet_is_forgotten_later(
    store: Store, project_id: int
) -> None:
    await old_job(store.db, project_id)

    assert (await maintenance.forget_jobs(store, KEPT, after=0)).jobs == 0
    await counting.count_closed(store)
    assert (await maintenance.forget_jobs(store, KEPT, after=0)).jobs == 1


async def test_old_jobs_go_in_batches_that_say_where_to_go_on(
    store: Store, project_id: int
) -> None:
    jobs = [await old_job(store.db, project_id) for _ in range(5)]
    await close_job(store.db, project_id)
    await counting.count_closed(store)

    first = await maintenance.forget_jobs(store, KEPT, after=0, limit=3)
    second = await maintenance.forget_jobs(store, KEPT, after=first.go_on_after or 0, limit=3)

    assert (first.jobs, first.go_on_after) == (3, jobs[2])
    assert (second.jobs, second.go_on_after) == (2, None)


async def test_two_that_forget_or_count_at_once_do_not_count_twice(
    store: Store, project_id: int
) -> None:
    for _ in range(30):
        await old_job(store.db, project_id)
    await close_job(store.db, project_id)

    await asyncio.gather(
        *(counting.count_closed(store, limit=4) for _ in range(12)),
        *(maintenance.forget_jobs(store, KEPT, after=0, limit=5) for _ in range(12)),
    )
    while await counting.count_closed(store):
        pass

    left = await store.db.fetchval("SELECT count(*) FROM jobs")
    page = await list_jobs(store, ProjectId(project_id), JobFilter(), limit=1, offset=0)
    assert page.count == left
    counts = await store.db.fetch("SELECT grain, sum(jobs)::int FROM job_counts GROUP BY 1")
    assert {tuple(row) for row in counts} == {(grain, left) for grain in range(4)}


# --- workers, dead rows -------------------------------------------------------------------------


async def test_workers_lost_long_ago_go_unless_they_hold_something(
    store: Store, project_id: int
) -> None:
    gone, lost_now, alive = [await add_worker(store.db) for _ in range(3)]
    job = await add_job(store.db, project_id)
    held = await hold(store.db, job, await add_task(store.db, job))
    await store.db.execute(
        "UPDATE workers SET lost_at = now() - $1::interval WHERE id = ANY($2)",
        LONG_AGO,
        [gone, held.worker_id],
    )
    await store.db.execute("UPDATE workers SET lost_at = now() WHERE id = $1", lost_now)
    await store.db.execute(
        "INSERT INTO worker_tokens (token_hash, worker_id, expires_at) VALUES ('x', $1, now())",
        gone,
    )
    await store.db.execute("INSERT INTO worker_beats (worker_id) VALUES ($1)", gone)

    assert await maintenance.forget_workers(store, KEPT) == 1

    left = await store.db.fetch("SELECT id FROM workers ORDER BY id")
    assert [row["id"] for row in left] == [lost_now, alive, held.worker_id]
    assert await store.db.fetchval("SELECT count(*) FROM worker_tokens") == 0
    assert await store.db.fetchval("SELECT count(*) FROM worker_beats") == 0


async def test_dead_rows_of_the_queue_are_vacuumed_where_they_are_many(store: Store) -> None:
    assert not await maintenance.vacuum_hot_tables(store, most_dead_rows=50)
    async with store.db.connection() as connection:
        await connection.execute(
            "INSERT INTO worker_beats (worker_id) SELECT n FROM generate_series(1, 100) AS n"
        )
        await connection.execute("DELETE FROM worker_beats")
        # statistics reach the others at leisure
        await connection.execute("SELECT pg_stat_force_next_flush()")

    assert await maintenance.vacuum_hot_tables(store, most_dead_rows=50)

    assert await store.db.fetchval(
        "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'worker_beats'"
    )


async def test_a_pruned_log_has_no_bytes(store: Store, project_id: int) -> None:
    job = await close_job(store.db, project_id)
    task = await old_task(store.db, job)
    scope = await details.task_scope(store, TaskId(task), None)
    assert scope is not None
    assert scope.last_attempt_id is not None
    attempt = scope.last_attempt_id
    assert await blobs.size(store, TaskId(task), attempt, blobs.LOG) == 3

    await maintenance.drop_partitions(store, KEPT)

    assert await blobs.size(store, TaskId(task), attempt, blobs.LOG) is None


async def test_a_partition_is_made_beside_a_long_read_and_holds_up_nobody(
    store: Store, database_url: str
) -> None:
    await store.db.execute(
        "SELECT setval('tasks_id_seq', 1000001), setval('events_id_seq', 1e7::bigint)"
    )
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetch("SELECT FROM tasks LIMIT 1")
        await reader.fetch("SELECT FROM events LIMIT 1")

        assert await maintenance.ensure_partitions(store) == 6

    await reader.close()
