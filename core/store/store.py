"""What every store function gets by hand: the connections and the wake-ups of a process.

Topics of the wake-ups: `jobs` (an admitter may find work), `tasks` (tasks are ready), `prepared`
(a preparation ended), `settle` (a task closed), `delayed` (a task is tried again later),
`job:<id>` (a job changed), `worker:<id>` (there are orders for a worker).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from core.domain.errors import SettingError
from core.runtime.settings import Settings
from core.store.notify import Signals
from core.store.pool import Database, create_pool, patiently
from core.store.schema import check_schema


@dataclass(frozen=True, slots=True)
class Store:
    """The database and the wake-ups of one process."""

    db: Database
    signals: Signals


@asynccontextmanager
async def open_store(
    settings: Settings,
    *,
    application_name: str,
    pool_size: int,
    statement_timeout_s: float,
    database_url: str | None = None,
) -> AsyncIterator[Store]:
    """Connect, check the schema, listen; undone at the end.

    Args:
        settings: The process's settings.
        application_name: Name the connections carry in `pg_stat_activity`.
        pool_size: Connections at most.
        statement_timeout_s: Longest one statement may take, seconds.
        database_url: Where the embedded PostgreSQL is; for settings that name no database.

    Raises:
        SettingError: no database is named, or a pooler nobody told of stands before it.
        DatabaseUnavailable: it cannot be reached.
        SchemaMismatch: the schema is not one this code knows.
    """
    listen_url = database_url
    if settings.database_url is not None:
        database_url = settings.database_url.get_secret_value()
        listen_url = settings.direct_database_url
    if database_url is None or listen_url is None:
        raise SettingError(
            "KENNEL_DATABASE_URL is not set: name a PostgreSQL, "
            "or run `kennel up`, which starts its own"
        )
    db = await create_pool(
        database_url,
        size=pool_size,
        application_name=application_name,
        statement_timeout_s=statement_timeout_s,
        pooled=settings.is_pooled,
    )
    async with db:
        await patiently(lambda: check_schema(db))
        async with Signals(listen_url) as signals:
            yield Store(db, signals)


def job_topic(job_id: int) -> str:
    """Return the topic of what happens to one job."""
    return f"job:{job_id}"


def worker_topic(worker_id: int) -> str:
    """Return the topic of orders for one worker."""
    return f"worker:{worker_id}"
