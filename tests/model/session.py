"""A database for the machine: made once, emptied between examples, on a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from core.domain.ids import TokenId
from core.store import classes
from core.store.notify import Signals
from core.store.pool import create_pool
from core.store.store import Store
from tests.conftest import Postgres
from tests.model.books import RUNTIME_MINUTES, TICK_S, Project
from tests.model.machine import ENGINES, Session
from tests.model.operations import World
from tests.store.history import add_project

#: In this order: what is named first refers to what is named later.
_EMPTIED = (
    "task_pending", "task_ready", "task_leases", "task_attempts", "task_outcomes",
    "attempt_progress", "tasks", "idempotency_keys", "scans", "jobs", "worker_beats",
    "worker_classes", "worker_tokens", "workers", "events",
)  # fmt: skip
_TIMES = """
SELECT
    c.table_name,
    string_agg(format('%I = %I - interval ''' || $2 || ' seconds''', c.column_name, c.column_name), ', ')
        AS changes
FROM information_schema.columns AS c
WHERE c.table_name = ANY($1::text[]) AND c.data_type = 'timestamp with time zone'
GROUP BY c.table_name
"""


class _Altered:
    """Runs other statements in place of some, as mistakes in them would be."""

    def __init__(self, inner: Any, alterations: Mapping[str, str]) -> None:
        self._inner = inner
        self._alterations = alterations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch(self, sql: str, *args: Any) -> Any:
        return await self._inner.fetch(self._alterations.get(sql, sql), *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await self._inner.fetchrow(self._alterations.get(sql, sql), *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._inner.fetchval(self._alterations.get(sql, sql), *args)

    async def execute(self, sql: str, *args: Any) -> Any:
        return await self._inner.execute(self._alterations.get(sql, sql), *args)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        async with self._inner.connection() as connection:
            yield _Altered(connection, self._alterations)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._inner.transaction() as connection:
            yield _Altered(connection, self._alterations)


@contextmanager
def session(
    postgres: Postgres, template: str, alterations: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Lend a database with three projects, and the loop to use it on.

    *alterations* are statements and what to run in their place.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield runner.run(_open(stack, postgres, template, alterations or {}, runner))
        finally:
            runner.run(stack.aclose())


async def _open(
    stack: AsyncExitStack,
    postgres: Postgres,
    template: str,
    alterations: Mapping[str, str],
    runner: asyncio.Runner,
) -> Session:
    url = await stack.enter_async_context(postgres.database(template=template))
    db: Any = await create_pool(url, size=8, application_name="kennel-model", lock_timeout_s=10)
    await stack.enter_async_context(db)
    signals = await stack.enter_async_context(Signals(url))
    altered: Any = _Altered(db, alterations) if alterations else db
    return await _session(Store(altered, signals), runner)


async def _session(store: Store, runner: asyncio.Runner) -> Session:
    db = store.db
    projects = [
        Project(await add_project(db), cancels_siblings=cancels) for cancels in (False, True, False)
    ]
    await db.execute(
        "UPDATE schemes SET job_runtime_limit_minutes = $1, cancel_siblings ="
        " id IN (SELECT scheme_id FROM projects WHERE id = ANY($2::bigint[]))",
        RUNTIME_MINUTES,
        [project.id for project in projects if project.cancels_siblings],
    )
    class_ids = {
        name: await classes.ensure_class(store, classes.Requirement(name))
        for name in (classes.PREPARE, *ENGINES)
    }
    token_id = await db.fetchval(
        "INSERT INTO tokens (kind, name, role, token_hash) VALUES ('user', 'a', 'member', '\\x01')"
        " RETURNING id"
    )
    times = await db.fetch(_TIMES, list(_EMPTIED), str(TICK_S))
    return Session(
        world=World(
            store=store,
            classes=class_ids,
            token_id=TokenId(token_id),
            shift=";".join(f"UPDATE {row['table_name']} SET {row['changes']}" for row in times),
        ),
        run=runner.run,
        projects=projects,
        reset="UPDATE projects SET status = 1, base_job_id = NULL, base_scan_id = NULL,"
        " base_revision = NULL;" + ";".join(f"DELETE FROM {table}" for table in _EMPTIED),
    )
