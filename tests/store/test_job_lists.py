"""Lists of thousands of jobs against the same jobs filtered in Python: counts, pages, bounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.domain.ids import JobId, ProjectId
from core.domain.outcomes import Reason
from core.domain.states import JobState
from core.store import counting, jobs, listing
from core.store.listing import JobFilter, TooBroad, list_jobs
from core.store.pool import Database
from core.store.queries import query
from core.store.store import Store
from tests.store.history import NOON, add_job, add_project, close_job

CODES = (0, 1, 2, 211, 301)
CREATORS = ("ann", "Bob", "50%_\\", "汪汪", "")
CHANNELS = ("api", "jenkins", "Web/Hook")
MESSAGES = ("success", "step 7 of 12 failed", "step 12 of 7 failed", "#1", "no number", "A 100%\n")


@dataclass(frozen=True)
class Row:
    """A job as the test remembers it."""

    id: int
    phase: str
    created_at: datetime
    code: int | None
    msg: str | None
    creator: str
    created_from: str

    @property
    def state(self) -> JobState:
        return {"waiting": JobState.WAITING, "running": JobState.RUNNING}.get(
            self.phase, JobState.CLOSED
        )


def some_rows(count: int, chance: random.Random) -> list[Row]:
    """Jobs over many blocks of ids; time follows the ids but for some, as after an import."""
    rows = []
    ids = sorted(chance.sample(range(1, 2**20), count))
    for job_id in ids:
        phase = chance.choices(("closed", "waiting", "running"), (95, 3, 2))[0]
        jitter = chance.choice((0, 0, 0, chance.randrange(-40_000, 40_000)))
        rows.append(
            Row(
                id=job_id,
                phase=phase,
                created_at=NOON + timedelta(seconds=job_id + jitter),
                code=chance.choice(CODES) if phase == "closed" else None,
                msg=chance.choice(MESSAGES) if phase == "closed" else None,
                creator=chance.choice(CREATORS),
                created_from=chance.choice(CHANNELS),
            )
        )
    return rows


async def write(db: Database, project: int, rows: Sequence[Row]) -> None:
    """Enter *rows* as they are, and their scans."""
    async with db.transaction() as connection:
        await connection.executemany(
            "INSERT INTO jobs (id, project_id, phase, is_forced, is_incremental, created_from,"
            " creator, created_at, started_at, ended_at, expires_at, runtime_limit_s, result_code,"
            " result_msg, prepare_task_id)"
            " OVERRIDING SYSTEM VALUE VALUES"
            " ($1, $2, $3, true, true, $4, $5, $6, $7, $8, $6, 60, $9, $10, 1)",
            [
                (
                    row.id,
                    project,
                    row.phase,
                    row.created_from,
                    row.creator,
                    row.created_at,
                    None if row.phase == "waiting" else row.created_at,
                    row.created_at if row.phase == "closed" else None,
                    row.code,
                    row.msg,
                )
                for row in rows
            ],
        )
        await connection.execute(
            "INSERT INTO scans (job_id, project_id, scan_type)"
            " SELECT id, project_id, 1 FROM jobs WHERE id = ANY($1)",
            [row.id for row in rows],
        )


def passes(row: Row, wanted: JobFilter) -> bool:
    """The filter, in Python."""
    texts = ((wanted.creator, row.creator), (wanted.created_from, row.created_from))
    return (
        (wanted.create_time_gte is None or row.created_at >= wanted.create_time_gte)
        and (wanted.create_time_lte is None or row.created_at <= wanted.create_time_lte)
        and (
            wanted.result_code_gte is None
            or (row.code is not None and row.code >= wanted.result_code_gte)
        )
        and (
            wanted.result_code_lte is None
            or (row.code is not None and row.code <= wanted.result_code_lte)
        )
        and all(part is None or part.lower() in text.lower() for part, text in texts)
        and (
            wanted.result_msg is None
            or (row.msg is not None and wanted.result_msg.lower() in row.msg.lower())
        )
        and (wanted.states is None or row.state in wanted.states)
    )


def some_filter(chance: random.Random) -> JobFilter:
    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.4 else None

    moments = sorted(NOON + timedelta(seconds=chance.randrange(2**20)) for _ in range(2))
    return JobFilter(
        create_time_gte=maybe(moments[0]),
        create_time_lte=maybe(moments[1]),
        result_code_gte=maybe(chance.choice((0, 1, 2, 100, 400))),
        result_code_lte=maybe(chance.choice((0, 2, 250, 399))),
        result_msg=maybe(chance.choice(("S", "step 7", "12", "#", "%", "failed", "of 1", "zzz"))),
        created_from=maybe(chance.choice(("api", "E", "/"))),
        creator=maybe(chance.choice(("N", "bo", "%_\\", "汪", "nobody"))),
        states=maybe(chance.sample(list(JobState), chance.randrange(1, 4))),
    )


async def check(
    store: Store, project: int, rows: Sequence[Row], wanted: JobFilter, **page: int
) -> None:
    """Compare a page with what Python makes of all *rows*."""
    found = await list_jobs(store, ProjectId(project), wanted, **page)
    expected = [row.id for row in reversed(rows) if passes(row, wanted)]

    assert found.count == len(expected), (wanted, page)
    first, end = page["offset"], page["offset"] + page["limit"]
    assert [job.id for job in found.items] == expected[first:end], (wanted, page)


async def count_all(store: Store) -> int:
    total = 0
    while counted := await counting.count_closed(store, limit=700):
        total = total + counted
    return total


@pytest.mark.parametrize("seed", range(2))
async def test_every_mixture_of_filters_lists_what_plain_python_keeps(
    store: Store, project_id: int, seed: int
) -> None:
    chance = random.Random(seed)
    rows = some_rows(1200, chance)
    other = await add_project(store.db)
    await write(store.db, project_id, rows[:1000])
    await write(store.db, other, [replace(row, id=row.id + 2**20) for row in rows[:50]])
    await count_all(store)
    # a fifth of them is not counted yet
    await write(store.db, project_id, rows[1000:])

    for _ in range(60):
        await check(
            store,
            project_id,
            rows,
            some_filter(chance),
            limit=chance.choice((1, 10, 1000)),
            offset=chance.choice((0, 0, 1, 7, 100, 500, 10**15)),
        )


@pytest.mark.parametrize("is_counted", [True, False])
async def test_a_page_far_from_the_front_is_cut_where_plain_python_cuts_it(
    store: Store, project_id: int, is_counted: bool
) -> None:
    chance = random.Random(7)
    rows = some_rows(6000, chance)
    await write(store.db, project_id, rows)
    if is_counted:
        await count_all(store)

    for wanted in (
        JobFilter(),
        JobFilter(result_code_gte=0, result_code_lte=2),
        JobFilter(states=[JobState.CLOSED]),
        JobFilter(create_time_gte=NOON + timedelta(seconds=300_000)),
        JobFilter(creator="n", created_from="e"),
        JobFilter(result_msg="success"),
        JobFilter(result_msg="step 7"),
    ):
        for offset in (listing.SHALLOW, listing.SHALLOW + 1, 2500, 4000, 5699, 5999, 6000):
            await check(store, project_id, rows, wanted, limit=50, offset=offset)


async def test_a_number_in_a_message_is_searched_for_in_the_message_itself(
    store: Store, project_id: int
) -> None:
    found = [
        await close_job(store.db, project_id, code=2, msg=f'{{"job_id": {n}, "scan_id": 1}}')
        for n in (123, 124, 1240)
    ]
    await count_all(store)

    async def ids(part: str) -> list[int]:
        wanted = JobFilter(result_msg=part)
        page = await list_jobs(store, ProjectId(project_id), wanted, limit=10, offset=0)
        assert page.count == len(page.items)
        return [job.id for job in page.items]

    assert await ids("_id") == found[::-1]
    assert await ids("124") == [found[2], found[1]]
    assert await ids('"job_id": 124,') == [found[1]]
    assert await ids("#") == []
    labels = await store.db.fetch("SELECT value FROM job_labels WHERE kind = 'result_msg'")
    assert {row["value"] for row in labels} == {
        '{"job_id": ####, "scan_id": #}',
        '{"job_id": ###, "scan_id": #}',
    }


async def test_labels_beyond_those_that_are_listed_are_found_too(
    store: Store, project_id: int
) -> None:
    await store.db.execute(
        "INSERT INTO job_labels (project_id, kind, value)"
        " SELECT $1, kind, 'x' || n FROM generate_series(1, 10000) AS n,"
        " unnest(ARRAY['creator', 'created_from', 'result_msg']) AS kind",
        project_id,
    )
    rows = some_rows(300, random.Random(3))
    await write(store.db, project_id, rows)
    await count_all(store)

    assert await store.db.fetchval("SELECT count(*) FROM job_labels") == 30_000
    for wanted in (
        JobFilter(creator="N"),
        JobFilter(creator="x"),
        JobFilter(result_msg="failed", created_from="e"),
        JobFilter(result_msg="12", result_code_gte=2),
    ):
        await check(store, project_id, rows, wanted, limit=20, offset=3)


async def test_counts_are_exact_at_every_moment_while_jobs_close_and_are_counted(
    store: Store, project_id: int
) -> None:
    chance = random.Random(11)
    open_jobs = [JobId(await add_job(store.db, project_id)) for _ in range(120)]
    await write(
        store.db, project_id, [replace(row, id=row.id + 2**20) for row in some_rows(2500, chance)]
    )
    whole = len(open_jobs) + 2500
    is_done = asyncio.Event()

    async def close_some(mine: Sequence[JobId]) -> None:
        for job_id in mine:
            await jobs.close(store, [job_id], code=301, message="x", reason=Reason.CANCELLED)

    async def count_some() -> None:
        while not is_done.is_set():
            await counting.count_closed(store, limit=17)

    async def look() -> int:
        looks = 0
        project = ProjectId(project_id)
        while not is_done.is_set():
            shallow = await list_jobs(store, project, JobFilter(), limit=10, offset=0)
            deep = await list_jobs(store, project, JobFilter(), limit=1, offset=2600)
            timed = JobFilter(create_time_gte=NOON - timedelta(days=100))
            everything = await list_jobs(store, project, timed, limit=1, offset=0)
            assert (shallow.count, deep.count, everything.count) == (whole, whole, whole)
            looks = looks + 1
        return looks

    async with asyncio.TaskGroup() as group:
        counting_tasks = [group.create_task(count_some()) for _ in range(2)]
        looking = group.create_task(look())
        async with asyncio.TaskGroup() as closers:
            for n in range(4):
                closers.create_task(close_some(open_jobs[n::4]))
        is_done.set()

    assert looking.result() > 0
    assert len(counting_tasks) == 2
    await count_all(store)
    counted = await store.db.fetch(
        "SELECT result_code, sum(jobs)::int AS jobs FROM job_counts"
        " WHERE project_id = $1 AND grain = 3 GROUP BY 1",
        project_id,
    )
    real = await store.db.fetch(
        "SELECT result_code, count(*)::int AS jobs FROM jobs"
        " WHERE project_id = $1 AND phase = 'closed' GROUP BY 1",
        project_id,
    )
    assert {tuple(row) for row in counted} == {tuple(row) for row in real}


async def test_whichever_statement_closes_a_job_it_is_to_be_counted_once(
    store: Store, project_id: int
) -> None:
    born_closed = await close_job(store.db, project_id)
    closed = await add_job(store.db, project_id)
    await jobs.cancel(store, JobId(closed), remarks="x", by="ann")
    await jobs.cancel(store, JobId(closed), remarks="again", by="ann")
    running = await add_job(
        store.db, project_id, phase="running", started_at=NOON, prepare_task_id=1, task_num=1
    )
    await store.db.execute("UPDATE jobs SET open_tasks = 1 WHERE id = $1", running)

    found = await store.db.fetch("SELECT job_id FROM uncounted_jobs ORDER BY job_id")

    assert [row["job_id"] for row in found] == [born_closed, closed]
    assert await count_all(store) == 2
    assert await count_all(store) == 0


async def test_a_list_that_takes_too_long_ends_with_advice(store: Store, project_id: int) -> None:
    async with store.db.transaction() as busy:
        await busy.execute("LOCK TABLE job_labels IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(TooBroad, match=r"longer than 0\.1 s"):
            await list_jobs(
                store,
                ProjectId(project_id),
                JobFilter(creator="x"),
                limit=1,
                offset=0,
                time_limit_s=0.1,
            )

    # the limit went with its transaction
    assert await store.db.fetchval("SHOW statement_timeout") == "30s"


LISTS: dict[str, JobFilter] = {
    "none": JobFilter(),
    "codes": JobFilter(result_code_gte=100, result_code_lte=399),
    "times": JobFilter(
        create_time_gte=NOON + timedelta(seconds=1000),
        create_time_lte=NOON + timedelta(seconds=2000),
    ),
    "creator": JobFilter(creator="ann"),
    "number": JobFilter(result_msg="step 7"),
}


async def test_no_list_reads_jobs_of_other_projects(store: Store, project_id: int) -> None:
    await store.db.execute(
        "INSERT INTO projects (repo_id, scheme_id, branch, creator)"
        " SELECT repo_id, scheme_id, 'b' || n, creator FROM projects, generate_series(1, 19) AS n"
    )
    await store.db.execute(
        "INSERT INTO jobs (project_id, phase, is_forced, is_incremental, created_from, creator,"
        " created_at, started_at, ended_at, expires_at, runtime_limit_s, result_code, result_msg)"
        " SELECT $1::bigint + n % 20, 'closed', true, true, 'api', 'ann', at, at, at, at, 60,"
        " n % 300, 'step ' || n % 9"
        " FROM generate_series(1, 40000) AS n, LATERAL (SELECT $2::timestamptz + n * interval '1 s')"
        " AS t (at)",
        project_id,
        NOON,
    )
    await store.db.execute(
        "INSERT INTO scans (job_id, project_id, scan_type) SELECT id, project_id, 1 FROM jobs"
    )
    while await counting.count_closed(store, limit=10_000):
        pass
    await store.db.execute("ANALYZE")

    read = (
        "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
    )
    rows_read = {}
    async with store.db.connection() as connection, connection.raw.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, wanted in LISTS.items():
            before = await connection.fetchval(read)
            await list_in(connection, project_id, wanted)
            rows_read[name] = await connection.fetchval(read) - before

    # 2,000 of the 40,000 are the project's; some are read for the count and again for the page
    assert {name: rows for name, rows in rows_read.items() if rows > 2 * 2000 + 100} == {}


async def list_in(connection: Any, project_id: int, wanted: JobFilter) -> None:
    """Run a list's statements on *connection*."""
    if wanted == JobFilter():
        rows = await connection.fetch(
            query("listing/newest"), [project_id], [True], [0b1011], [10], [0]
        )
        assert rows[0]["total"] == 2000
        return
    asked = listing.Asked(ProjectId(project_id), wanted, 10, 0)
    page = await listing._filtered(connection, asked)
    assert page.count > 0


async def test_lists_asked_for_at_once_are_answered_each_for_itself(
    store: Store, project_id: int
) -> None:
    other, empty = await add_project(store.db), await add_project(store.db)
    jobs_of = {
        project: [await close_job(store.db, project) for _ in range(3)]
        for project in (project_id, other)
    }
    waiting = await add_job(store.db, project_id)

    pages = await listing.list_newest(
        store,
        [
            listing.Asked(ProjectId(other), JobFilter(), 2, 1),
            listing.Asked(ProjectId(empty), JobFilter(), 2, 0),
            listing.Asked(ProjectId(project_id), JobFilter(states=[JobState.WAITING]), 2, 0),
            listing.Asked(ProjectId(project_id), JobFilter(), 2, 0),
        ],
    )

    assert [page.count for page in pages] == [3, 0, 1, 4]
    assert [[job.id for job in page.items] for page in pages] == [
        jobs_of[other][1::-1],
        [],
        [waiting],
        [waiting, jobs_of[project_id][2]],
    ]
