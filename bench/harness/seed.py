"""Rows as a busy server would have left them, written by the database itself.

Only where making them through Kennel's doors would take longer than what is measured: ready tasks
by the hundred thousand, finished jobs by the million.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import asyncpg

from bench.harness.simulated import ENGINE

#: Rows one statement makes: less than a partition holds, so that the next is always there.
_CHUNK = 500_000

_SPEC = (
    '{"source": {"scm_url": "https://git.example.org/acme/web.git", "branch": "main",'
    ' "revision": "%s", "cache_key": "repo-1"}, "limits": {"wall_s": 60, "idle_s": 60,'
    ' "output_bytes": 1048576, "file_bytes": 1048576, "memory_bytes": 1073741824}}' % ("a" * 40)
)

_READY = """
WITH job AS (
    INSERT INTO jobs (
        project_id, phase, is_forced, is_incremental, created_from, creator, expires_at,
        runtime_limit_s, task_num, open_tasks, prepare_task_id
    )
    SELECT
        $1 + n % $5, 'queued', true, false, 'bench', 'ann', now() + interval '1 day', 3600, 1, 1, 0
    FROM generate_series(0, $2::bigint - 1) AS n
    RETURNING id, project_id
),
scan AS (
    INSERT INTO scans (job_id, project_id, scan_type, full_reason)
    SELECT job.id, job.project_id, 2, 'requested'
    FROM job
),
task AS (
    INSERT INTO tasks (job_id, kind, engine, module, class_id, spec)
    SELECT job.id, 'engine', $6, 'codelint', $3, $4::text::jsonb
    FROM job
    RETURNING id, job_id, class_id
)
INSERT INTO task_ready (task_id, job_id, project_id, class_id, sort_key)
SELECT task.id, task.job_id, job.project_id, task.class_id, task.id
FROM task INNER JOIN job ON task.job_id = job.id
"""

#: (table, statement): finished jobs $1 to $2, a tenth of them in the big project $3, the others
#: in the $4 projects after it. Ids are given, so that one pass a table is enough.
_HISTORY = (
    """
    INSERT INTO jobs (
        id, project_id, phase, is_forced, is_incremental, created_from, creator, created_at,
        started_at, ended_at, expires_at, runtime_limit_s, result_code, result_msg, task_num,
        prepare_task_id
    )
    OVERRIDING SYSTEM VALUE
    SELECT
        n, CASE WHEN n % 10 = 0 THEN $3::bigint ELSE $3 + 1 + n % $4::bigint END, 'closed',
        n % 7 = 0, true,
        (ARRAY['api', 'web', 'jenkins'])[1 + n % 3], 'user' || n % 50, at, at + interval '1 s',
        at + interval '9 s', at + interval '1 day', 3600,
        (ARRAY[0, 0, 0, 0, 0, 0, 1, 101, 230, 297])[1 + n / 10 % 10],
        CASE WHEN n / 10 % 10 < 6 THEN 'success' ELSE 'it ended as number ' || n % 1000 END, 1, n
    FROM (
        SELECT n, now() - ($5::bigint - n) * interval '100 ms' - interval '1 h' AS at
        FROM generate_series($1::bigint, $2::bigint) AS n
    ) AS made
    """,
    """
    INSERT INTO scans (id, job_id, project_id, scan_type, created_at)
    OVERRIDING SYSTEM VALUE
    SELECT n, n, CASE WHEN n % 10 = 0 THEN $3::bigint ELSE $3 + 1 + n % $4::bigint END, 1,
        now() - ($5::bigint - n) * interval '100 ms' - interval '1 h'
    FROM generate_series($1::bigint, $2::bigint) AS n
    """,
    """
    INSERT INTO tasks (id, job_id, kind, engine, module, class_id, spec, created_at)
    OVERRIDING SYSTEM VALUE
    SELECT n, n, 'engine', 'lines', 'codemetric', 1, '{}',
        now() - ($3::bigint - n) * interval '100 ms' - interval '1 h'
    FROM generate_series($1::bigint, $2::bigint) AS n
    """,
    """
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, outcome, offered_at, started_at,
        ended_at
    )
    SELECT n, n, n, 1, 1, int8send(n), 'succeeded', at, at, at
    FROM (
        SELECT n, now() - ($3::bigint - n) * interval '100 ms' - interval '59 min' AS at
        FROM generate_series($1::bigint, $2::bigint) AS n
    ) AS made
    """,
    """
    INSERT INTO task_outcomes (
        task_id, job_id, outcome, result_code, result_msg, attempt_id, closed_at
    )
    SELECT n, n, 'succeeded', 0, 'success', n,
        now() - ($3::bigint - n) * interval '100 ms' - interval '59 min'
    FROM generate_series($1::bigint, $2::bigint) AS n
    """,
)
_PLACES = (5, 5, 3, 3, 3)
#: History is written by the million: what a partition of tasks holds.
_HISTORY_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class World:
    """An organisation with projects; their numbers follow one another."""

    org_sid: str
    team: str
    repo_id: int
    scheme_id: int
    first_project: int
    projects: int

    @property
    def prefix(self) -> str:
        """Path up to a project's number."""
        return (
            f"/server/main/api/orgs/{self.org_sid}/teams/{self.team}/repos/{self.repo_id}/projects/"
        )

    def path(self, project_id: int | None = None) -> str:
        return f"{self.prefix}{project_id or self.first_project}"


async def add_world(connection: asyncpg.Connection, projects: int) -> World:
    """Write an organisation and so many projects of one repository, a branch each."""
    sid = f"bench-{secrets.token_hex(4)}"
    org = await connection.fetchval(
        "INSERT INTO organizations (org_sid, name) VALUES ($1, $1) RETURNING id", sid
    )
    team = await connection.fetchval(
        "INSERT INTO teams (org_id, name, display_name) VALUES ($1, 't', 't') RETURNING id", org
    )
    repo = await connection.fetchval(
        "INSERT INTO repos (team_id, name, scm_url, creator)"
        " VALUES ($1, 'web', 'https://git.example.org/acme/web.git', 'ann') RETURNING id",
        team,
    )
    scheme = await connection.fetchval(
        "INSERT INTO schemes (repo_id, name, engines)"
        """ VALUES ($1, 's', '[{"name": "bench"}]') RETURNING id""",
        repo,
    )
    first = await connection.fetchval(
        "WITH made AS (INSERT INTO projects (repo_id, scheme_id, branch, creator)"
        " SELECT $1, $2, 'b' || n, 'ann' FROM generate_series(1, $3::integer) AS n RETURNING id)"
        " SELECT min(id) FROM made",
        repo,
        scheme,
        projects,
    )
    return World(sid, "t", repo, scheme, first, projects)


async def add_ready(
    connection: asyncpg.Connection, world: World, count: int, class_id: int, engine: str = ENGINE
) -> None:
    """Make so many tasks ready, one of a job each, spread over the world's projects."""
    for done in range(0, count, _CHUNK):
        await connection.execute("SELECT ensure_partitions()")
        await connection.execute(
            _READY,
            world.first_project,
            min(_CHUNK, count - done),
            class_id,
            _SPEC,
            world.projects,
            engine,
        )


async def add_history(connection: asyncpg.Connection, world: World, count: int) -> None:
    """Write so many finished jobs with a task each into an empty database.

    Without triggers: the keys are right by the way they are made, and what a trigger would have
    noted of closed jobs is noted at the end. An hour old at least, and a tenth of a second apart.
    """
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("SET maintenance_work_mem = '1GB'")
    indexes = await _drop_indexes(connection, "jobs")
    for first in range(1, count + 1, _HISTORY_CHUNK):
        last = min(first + _HISTORY_CHUNK - 1, count)
        for sequence in ("tasks_id_seq", "events_id_seq"):
            await connection.execute(f"SELECT setval('{sequence}', $1)", last)
        await connection.execute("SELECT ensure_partitions()")
        owned = [first, last, world.first_project, world.projects - 1, count]
        for statement, places in zip(_HISTORY, _PLACES, strict=True):
            await connection.execute(statement, *(owned if places == 5 else [first, last, count]))
    for table in ("jobs", "scans"):
        await connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), $1)", count
        )
    await connection.execute("SELECT setval('attempt_ids', $1)", count)
    for index in indexes:
        await connection.execute(index)
    # New tasks begin a partition of their own: the oldest can be dropped whole.
    await connection.execute("SELECT setval('tasks_id_seq', $1)", max(count, _HISTORY_CHUNK))
    await connection.execute("SELECT ensure_partitions()")
    await connection.execute(
        "INSERT INTO uncounted_jobs (project_id, job_id) SELECT project_id, id FROM jobs"
    )
    await connection.execute("RESET ALL")


async def _drop_indexes(connection: asyncpg.Connection, table: str) -> list[str]:
    """Drop the indexes of a table that are no constraints; return how to make them again.

    Built at the end they take seconds each; kept up row by row, minutes.
    """
    rows = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition"
        " FROM pg_index AS i WHERE indrelid = $1::text::regclass"
        " AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)",
        table,
    )
    for row in rows:
        await connection.execute(f"DROP INDEX {row['name']}")
    return [row["definition"] for row in rows]
