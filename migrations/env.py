"""How Alembic reaches the database: one upgrade at a time, never long in anybody's way.

A session lock on a connection of its own makes a second upgrade wait for the first. Each migration
is its own transaction, gives up on a lock after 4 s rather than queue the whole service behind it,
and keeps `schema_info.revision`, which the code reads, in step with Alembic's own table.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from core.domain.errors import SettingError
from core.runtime.settings import load_settings
from core.store import dialing
from core.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from alembic.runtime.migration import MigrationContext, MigrationInfo

#: The advisory lock's key: "kennel" in ASCII.
_LOCK_KEY = 0x6B656E6E656C
_LOCK_WAIT = "10min"
_MIGRATION_LIMITS = ("SET lock_timeout = '4s'", "SET statement_timeout = '5min'")


def _dsn() -> str:
    dsn = context.config.attributes.get("dsn")
    if dsn is None:
        # Past any pooler: the upgrade holds a lock of its session.
        dsn = load_settings().direct_database_url
        if dsn is None:
            raise SettingError("KENNEL_DATABASE_URL: must be set to migrate a database by hand")
    return str(dsn)


def _configure(**options: Any) -> None:
    context.configure(
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
        on_version_apply=_follow,
        **options,
    )


def _follow(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[Any],  # noqa: ARG001 - Alembic passes all four by name
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    revision = step.destination_revision_ids
    if revision:  # at base the table is gone
        ctx.execute(text(f"UPDATE schema_info SET revision = '{revision[0]}'"))  # noqa: S608


def _migrate(connection: Connection) -> None:
    _configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    dsn = _dsn()

    async def connect() -> asyncpg.Connection[asyncpg.Record]:
        return await dialing.connect(dsn)

    lock = await connect()
    try:
        await lock.execute(f"SET lock_timeout = '{_LOCK_WAIT}'; SET statement_timeout = 0")
        await lock.execute("SET idle_session_timeout = 0")
        await lock.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        # The address is asyncpg's to read, here as everywhere; SQLAlchemy only gets connections.
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool
        )
        async with engine.connect() as connection:
            for limit in _MIGRATION_LIMITS:
                await connection.execute(text(limit))
            await connection.commit()
            await connection.run_sync(_migrate)
        await engine.dispose()
    finally:
        await lock.close(timeout=10)


if context.is_offline_mode():
    # "named", or the dialect would double every percent sign.
    _configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_run())
