"""The connections of a process, and which database errors are part of normal life.

Owns one asyncpg pool. Giving a connection back sends nothing (asyncpg's own reset is a round trip
a request); that is safe because pooled connections never LISTEN, never SET without LOCAL and
never take session advisory locks, which a test reads out of the .sql files.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar

import asyncpg
import orjson

from core.domain.errors import KennelError
from core.runtime.logs import get_logger

if TYPE_CHECKING:
    from types import TracebackType

    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    RawConnection: TypeAlias = (
        asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    )

log = get_logger(__name__)

Result = TypeVar("Result")

#: What two transactions do to each other without either being wrong.
_EXPECTED = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)
#: The connection ended or could not be made; whether the statement was carried out is unknown.
_CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
)
#: asyncpg raises its own classes of misuse for a connection that the other end closed; the last
#: one where the server's last words came while nobody asked, and the end of the line has not yet.
_CLOSED_TEXTS = (
    "connection is closed",
    "connection was closed",
    "connection has been released",
    "cannot switch to state",
)
_MISUSE = (asyncpg.InterfaceError, asyncpg.InternalClientError)
#: It answers, and cannot write: no disk or memory left, or a standby after a fail-over.
_UNABLE = (asyncpg.InsufficientResourcesError, asyncpg.ReadOnlySQLTransactionError)


class DatabaseUnavailable(KennelError):
    """The database cannot be reached, or no connection came free in time."""


class Queryable(Protocol):
    """What runs statements: the database (one statement, one transaction) or a connection."""

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Return all rows."""
        ...

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """Return the first row, or None."""
        ...

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        ...

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; return its command tag."""
        ...


class Connection:
    """One connection inside a transaction."""

    __slots__ = ("raw",)

    def __init__(self, raw: RawConnection) -> None:
        #: For what the thin surface leaves out, such as cursors.
        self.raw = raw

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Return all rows."""
        return await self.raw.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """Return the first row, or None."""
        return await self.raw.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        return await self.raw.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; return its command tag."""
        return await self.raw.execute(sql, *args)

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of *rows*."""
        await self.raw.executemany(sql, rows)

    async def copy(
        self, table: str, *, columns: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        """Write *rows* with COPY, the fastest way in."""
        await self.raw.copy_records_to_table(table, records=rows, columns=list(columns))


class Database:
    """The pool. Every wait for a connection has an end."""

    def __init__(self, pool: Pool, *, acquire_timeout_s: float = 10.0) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s

    @property
    def size(self) -> int:
        """Connections open now."""
        return self._pool.get_size()

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Return all rows."""
        raw = await self._acquire()
        try:
            return await raw.fetch(sql, *args)
        finally:
            await self._pool.release(raw)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """Return the first row, or None."""
        raw = await self._acquire()
        try:
            return await raw.fetchrow(sql, *args)
        finally:
            await self._pool.release(raw)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        raw = await self._acquire()
        try:
            return await raw.fetchval(sql, *args)
        finally:
            await self._pool.release(raw)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; return its command tag."""
        raw = await self._acquire()
        try:
            return await raw.execute(sql, *args)
        finally:
            await self._pool.release(raw)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection outside any transaction."""
        raw = await self._acquire()
        try:
            yield Connection(raw)
        finally:
            await self._pool.release(raw)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction: committed at the end, rolled back on an error."""
        async with self.connection() as connection, connection.raw.transaction():
            yield connection

    async def _acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                return await self._pool.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(
                f"no database connection came free within {self._acquire_timeout_s:g} s"
            ) from None
        except FileNotFoundError as error:
            # The server's socket is gone: refused like any other address nobody listens at.
            raise ConnectionRefusedError(error.errno, error.strerror) from error

    async def close(self, *, timeout_s: float = 10.0) -> None:
        """Let running statements end, then close; by force when they do not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._pool.close()
        except TimeoutError:
            log.warning("database.close_forced", timeout_s=timeout_s)
            self._pool.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def create_pool(
    dsn: str,
    *,
    size: int,
    application_name: str,
    statement_timeout_s: float = 30.0,
    lock_timeout_s: float = 10.0,
    idle_in_transaction_timeout_s: float = 60.0,
    acquire_timeout_s: float = 10.0,
    connect_deadline_s: float = 30.0,
    statement_cache: bool = True,
) -> Database:
    """Open a pool of up to *size* connections, patient with a database that is just starting.

    *statement_cache* is False behind a transaction pooler such as PgBouncer: nothing is prepared
    by name, and no time limit is sent at connect, since poolers refuse such parameters; there the
    limits belong to the role (`ALTER ROLE kennel SET statement_timeout = '30s'`).
    """
    limits = {
        "statement_timeout": statement_timeout_s,
        "lock_timeout": lock_timeout_s,
        "idle_in_transaction_session_timeout": idle_in_transaction_timeout_s,
    }
    server_settings = {"application_name": application_name}
    if statement_cache:
        server_settings |= {name: f"{round(value * 1000)}ms" for name, value in limits.items()}

    async def connect() -> Pool:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=10,
            command_timeout=statement_timeout_s + 5,
            statement_cache_size=1024 if statement_cache else 0,
            server_settings=server_settings,
            init=_init,
            reset=_keep_as_it_is,
        )

    pool = await _patiently(connect, connect_deadline_s)
    return Database(pool, acquire_timeout_s=acquire_timeout_s)


def is_expected(error: BaseException) -> bool:
    """Tell whether *error* is a collision with another transaction: try again, quietly."""
    return isinstance(error, _EXPECTED)


def is_connection_lost(error: BaseException) -> bool:
    """Tell whether *error* means that the connection ended; the statement may have happened."""
    if isinstance(error, _MISUSE):
        return any(text in str(error) for text in _CLOSED_TEXTS)
    return isinstance(error, _CONNECTION_LOST)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether *error* is the database's trouble, and not that of what was asked of it."""
    return (
        isinstance(error, (DatabaseUnavailable, *_UNABLE))
        or is_connection_lost(error)
        or is_expected(error)
    )


async def retrying(
    operation: Callable[[], Awaitable[Result]],
    *,
    attempts: int = 5,
    after_loss: bool = True,
    jitter: Callable[[], float] = random.random,
) -> Result:
    """Run *operation* until it does not collide; the last error is the caller's.

    Args:
        operation: Statements that may run twice: guarded ones, of which the second changes nothing.
        attempts: Tries at most.
        after_loss: Try again also when the connection was lost, and with it whether the first
            try was carried out. False where a second would then be one too many.
        jitter: From 0 to 1.
    """
    for attempt in range(1, attempts):
        try:
            return await operation()
        except (asyncpg.PostgresError, *_MISUSE, OSError) as error:
            if not (is_expected(error) or (after_loss and is_connection_lost(error))):
                raise
            log.debug("statement.retried", attempt=attempt, error=type(error).__name__)
        await asyncio.sleep((0.5 + jitter() / 2) * min(0.02 * 2**attempt, 1.0))
    return await operation()


async def _patiently(connect: Callable[[], Awaitable[Pool]], deadline_s: float) -> Pool:
    loop = asyncio.get_running_loop()
    deadline, delay_s = loop.time() + deadline_s, 0.1
    while True:
        try:
            return await connect()
        except (OSError, asyncpg.PostgresError) as error:
            is_transient = is_connection_lost(error) or isinstance(error, OSError)
            if not is_transient or loop.time() + delay_s > deadline:
                raise DatabaseUnavailable(f"cannot connect to the database: {error}") from error
            log.info("database.awaited", error=str(error), delay_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 2.0)


async def _keep_as_it_is(connection: RawConnection) -> None:
    """Reset nothing: see the head of the module."""


async def _init(connection: RawConnection) -> None:
    # The binary form of jsonb is its text after one byte, the version: no str in between.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda data: orjson.loads(memoryview(data)[1:]),
        format="binary",
    )
    await connection.set_type_codec(
        "json",
        schema="pg_catalog",
        encoder=orjson.dumps,
        decoder=orjson.loads,
        format="binary",
    )
