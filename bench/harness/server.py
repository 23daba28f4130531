"""The PostgreSQL of a run: the one that `kennel up` starts, with its default durability.

One server for everything: Kennel, the floor and the peers, each in a database of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from bench.harness.cpu import tree_cpu_s
from core.store import schema
from core.store.embedded import EmbeddedPostgres
from core.store.postgres_install import wheel_bin_dir

_TEMPLATE = "bench_template"
_SHOWN = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
    "autovacuum",
    "data_checksums",
)


class Server:
    """A server of its own in *folder*; databases are made from a migrated template."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedPostgres(folder)
        self._admin_url = ""

    async def __aenter__(self) -> Self:
        self._admin_url = await self._embedded.start()
        await self._execute(f"CREATE DATABASE {_TEMPLATE}")
        await schema.upgrade(self.url(_TEMPLATE))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._embedded.stop()

    @property
    def pid(self) -> int:
        """The postmaster."""
        pid = self._embedded.pid
        if pid is None or not psutil.pid_exists(pid):
            raise RuntimeError("the PostgreSQL of the bench is not running")
        return pid

    @property
    def pgbench(self) -> Path:
        return wheel_bin_dir() / "pgbench"

    def url(self, database: str) -> str:
        return urlunsplit(urlsplit(self._admin_url)._replace(path=f"/{database}"))

    @asynccontextmanager
    async def connected(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection without any time limit."""
        connection = await asyncpg.connect(self.url(database), timeout=60)
        try:
            yield connection
        finally:
            await connection.close(timeout=30)

    @asynccontextmanager
    async def database(self, what: str, *, is_migrated: bool = True) -> AsyncIterator[str]:
        """Lend a new database by name, with Kennel's schema or empty; drop it afterwards."""
        name = f"{what}_{secrets.token_hex(4)}"
        template = f" TEMPLATE {_TEMPLATE}" if is_migrated else ""
        await self._execute(f"CREATE DATABASE {name}{template}")
        try:
            yield name
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def settings(self) -> dict[str, str]:
        """Return what decides about speed and durability, as the server says it."""
        async with self.connected() as connection:
            return {name: await connection.fetchval(f"SHOW {name}") for name in _SHOWN}

    async def checkpoint(self) -> None:
        """Leave nothing to write behind for what is measured next."""
        await self._execute("CHECKPOINT")

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the server, the ended ones too."""
        return tree_cpu_s(self.pid)

    async def transactions(self, database: str) -> int:
        """Transactions of a database since it was made, as its statistics know them."""
        async with self.connected() as connection:
            return await connection.fetchval(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1",
                database,
            )

    async def _execute(self, statement: str) -> None:
        async with self.connected() as admin:
            await admin.execute(statement)
