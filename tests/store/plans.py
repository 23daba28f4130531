"""The plans the server makes of the store's statements, taken while they really run.

`Explained` stands in for the database: before a statement runs, its plan is made and executed in a
transaction that is undone, once for any parameters and once for these, with what each node did.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.store.pool import Connection, Database
from core.store.queries import all_queries

MODES = ("force_custom_plan", "force_generic_plan")
_PARTITION = re.compile(r"_p\d+$")
_PARTITION_INDEX = re.compile(r"_p\d+_")


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a plan, with what it did."""

    kind: str
    relation: str | None
    index: str | None
    #: Rows it gave, all rounds together.
    rows: float
    #: Rows it looked at and threw away.
    removed: float

    def __str__(self) -> str:
        where = f" on {self.relation}" if self.relation else ""
        return f"{self.kind}{where}{f' by {self.index}' if self.index else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one statement, made in one way."""

    statement: str
    mode: str
    nodes: list[Node]

    @property
    def indexes(self) -> set[str]:
        return {node.index for node in self.nodes if node.index}

    @property
    def scans(self) -> list[Node]:
        """The nodes that read tables."""
        return [node for node in self.nodes if node.relation and "Scan" in node.kind]


@dataclass(slots=True)
class Explained:
    """A database that notes the plans of what it runs; see the module."""

    db: Database
    plans: list[Plan] = field(default_factory=list)
    _names: dict[str, str] = field(
        default_factory=lambda: {sql: name for name, sql in all_queries().items()}
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    async def fetch(self, sql: str, *args: Any) -> Any:
        async with self.db.connection() as connection:
            return await _Explained(connection, self).fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    async def execute(self, sql: str, *args: Any) -> Any:
        await self.fetch(sql, *args)
        return ""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.db.transaction() as connection:
            yield _Explained(connection, self)

    async def note(self, connection: Connection, sql: str, args: tuple[Any, ...]) -> None:
        """Note the plans of a statement."""
        name = self._names.get(sql, "built")
        prepared = await connection.raw.prepare(sql)
        kinds = [_type(parameter) for parameter in prepared.get_parameters()]
        types = ", ".join(kinds)
        values = f"({', '.join(map(_literal, kinds, args))})" if args else ""
        for mode in MODES:
            undone = connection.raw.transaction()
            await undone.start()
            await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await connection.execute(f"PREPARE noted{f' ({types})' if types else ''} AS {sql}")
            explained = await connection.fetchval(
                f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE noted{values}"
            )
            await undone.rollback()
            await connection.execute("DEALLOCATE noted")
            root = json.loads(explained) if isinstance(explained, str) else explained
            self.plans.append(Plan(name, mode, list(_nodes(root[0]["Plan"]))))


class _Explained:
    def __init__(self, connection: Connection, book: Explained) -> None:
        self._connection = connection
        self._book = book

    async def fetch(self, sql: str, *args: Any) -> Any:
        await self._book.note(self._connection, sql, args)
        return await self._connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    async def execute(self, sql: str, *args: Any) -> Any:
        await self.fetch(sql, *args)
        return ""

    async def copy(self, *args: Any, **more: Any) -> None:
        await self._connection.copy(*args, **more)


def _type(parameter: Any) -> str:
    name: str = parameter.name
    return name if parameter.kind != "array" else f"{name.removesuffix('[]')}[]"


def _literal(kind: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if kind.endswith("[]"):
        items = ",".join(_item(kind.removesuffix("[]"), item) for item in value)
        return _quoted("{" + items + "}")
    return _quoted(_text(kind, value))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _item(kind: str, value: Any) -> str:
    if value is None:
        return "NULL"
    return '"' + _text(kind, value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(kind: str, value: Any) -> str:
    match value:
        case _ if kind == "jsonb":
            return orjson.dumps(value).decode()
        case bytes():
            return "\\x" + value.hex()
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _nodes(node: dict[str, Any]) -> Iterator[Node]:
    loops = node.get("Actual Loops", 1)
    removed = sum(
        node.get(f"Rows Removed by {what}", 0)
        for what in ("Filter", "Index Recheck", "Join Filter")
    )
    relation = node.get("Relation Name")
    index = node.get("Index Name")
    yield Node(
        kind=node["Node Type"],
        relation=_PARTITION.sub("", relation) if relation else None,
        index=_PARTITION_INDEX.sub("_", index) if index else None,
        rows=node.get("Actual Rows", 0) * loops,
        removed=removed * loops,
    )
    for child in node.get("Plans", ()):
        yield from _nodes(child)


FILL = """
INSERT INTO jobs (
    project_id, phase, is_forced, is_incremental, created_from, creator, created_at, started_at,
    ended_at, expires_at, runtime_limit_s, result_code, result_msg, task_num, prepare_task_id
)
SELECT
    $1::bigint, 'closed', n % 5 = 0, true, 'api', 'ann', at.at, at.at, at.at, at.at, 3600,
    CASE WHEN n % 10 = 0 THEN 211 ELSE 0 END, 'success', 1, n
FROM generate_series(1, $2::bigint) AS n
CROSS JOIN LATERAL (SELECT now() - make_interval(secs => 10 + $2 - n) AS at) AS at
"""
#: A queue as long as a bad day makes it: ready, delayed and running tasks of one job.
BACKLOG = """
WITH job AS (
    INSERT INTO jobs (
        project_id, phase, is_forced, is_incremental, created_from, creator, created_at,
        started_at, expires_at, runtime_limit_s, task_num, open_tasks, prepare_task_id
    )
    SELECT
        $1::bigint, 'running', true, true, 'api', 'ann', now() - interval '1 hour',
        now() - interval '1 hour', now() + interval '1 day', 3600, $2::integer, $2::integer,
        nextval('tasks_id_seq')
    RETURNING id
),
scan AS (
    INSERT INTO scans (job_id, project_id, scan_type)
    SELECT job.id, $1::bigint, 1 FROM job
),
worker AS (
    INSERT INTO workers (name, instance_hash, engines, slots, isolation)
    SELECT 'rex', decode(md5(n::text), 'hex'), '[]', 10, 'group'
    FROM generate_series(1, 200) AS n
    RETURNING id
),
beat AS (
    INSERT INTO worker_beats (worker_id, seen_at)
    SELECT worker.id, now() + interval '1 day' FROM worker
),
task AS (
    INSERT INTO tasks (job_id, kind, engine, module, class_id, spec)
    SELECT job.id, 'engine', 'lines', 'codemetric', $3::integer, '{}'
    FROM job, generate_series(1, $2::integer) AS n
    RETURNING id, job_id
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, project_id, class_id, sort_key)
    SELECT task.id, task.job_id, $1::bigint, $3::integer, 1000 + task.id
    FROM task
    WHERE task.id % 4 > 1
),
pending AS (
    INSERT INTO task_pending (
        task_id, job_id, project_id, class_id, sort_key, failures, resets, not_before, reason
    )
    SELECT
        task.id, task.job_id, $1::bigint, $3::integer, 0, 1, 0, now() + interval '1 day', 'retry'
    FROM task
    WHERE task.id % 4 = 1
)
INSERT INTO task_leases (
    task_id, job_id, project_id, worker_id, number, token_hash, claim_id, claim_index, class_id,
    sort_key, failures, resets, started_at
)
SELECT
    task.id, task.job_id, $1::bigint, w.id, 1, decode(md5(task.id::text), 'hex'),
    gen_random_uuid(), 0, $3::integer, 0, 0, 0, now()
FROM task
INNER JOIN (
    SELECT worker.id, row_number() OVER () AS n FROM worker
) AS w ON w.n = 1 + (task.id / 4) % 200
WHERE task.id % 4 = 0
"""
#: Open jobs of which no task is in the queue yet.
FLOOD = """
WITH job AS (
    INSERT INTO jobs (
        project_id, phase, is_forced, is_incremental, created_from, creator, expires_at,
        runtime_limit_s, task_num, open_tasks, prepare_task_id
    )
    SELECT
        $1::bigint, 'queued', true, true, 'api', 'ann', now() + interval '1 day', 3600, 1, 1,
        nextval('tasks_id_seq')
    FROM generate_series(1, $2::integer)
    RETURNING id
)
INSERT INTO scans (job_id, project_id, scan_type)
SELECT job.id, $1::bigint, 1 FROM job
"""
FILLS = (
    """
    INSERT INTO scans (job_id, project_id, scan_type)
    SELECT n, $1::bigint, 1 FROM generate_series(1, $2::bigint) AS n
    """,
    """
    INSERT INTO tasks (id, job_id, kind, engine, module, class_id, spec)
    OVERRIDING SYSTEM VALUE
    SELECT n, n, 'engine', 'lines', 'codemetric', 1, '{}'
    FROM generate_series(1, $2::bigint) AS n, (SELECT $1::bigint) AS ignored
    """,
    """
    INSERT INTO task_outcomes (task_id, job_id, outcome, reason, result_code, result_msg, attempt_id)
    SELECT
        n, n, CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END,
        CASE WHEN n % 10 = 0 THEN 'engine_failed' END, CASE WHEN n % 10 = 0 THEN 211 ELSE 0 END,
        'success', n
    FROM generate_series(1, $2::bigint) AS n, (SELECT $1::bigint) AS ignored
    """,
    """
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, body_hash, outcome, reason,
        offered_at
    )
    SELECT
        n, n, n, 1 + n % 50, 1, decode(md5(n::text), 'hex'), decode(md5(n::text), 'hex'),
        CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END,
        CASE WHEN n % 10 = 0 THEN 'engine_failed' END, now()
    FROM generate_series(1, $2::bigint) AS n, (SELECT $1::bigint) AS ignored
    """,
    """
    INSERT INTO events (kind, project_id, job_id)
    SELECT 'job.closed', $1::bigint, n FROM generate_series(1, $2::bigint) AS n
    """,
)
