"""The connections of a process, and which database errors are part of normal life.

Owns one asyncpg pool. Giving a connection back sends nothing (asyncpg's own reset is a round trip
a request); that is safe because pooled connections never LISTEN, never SET without LOCAL and
never take session advisory locks, which a test reads out of the .sql files. The same makes them
fit for a pooler in transaction mode.

Once one connection shows that its server is not the primary any more, or falls silent, none made
before is used again: they are closed as they come by, and `core.store.dialing` makes new ones.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar

import asyncpg
import orjson

from core.domain.errors import SettingError
from core.runtime.logs import get_logger
from core.store import dialing
from core.store.dialing import CannotConnect, Dialer

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
#: What tells that a connection, and those made before it, lead to a server that is of no use.
_TELLING = (TimeoutError, asyncpg.ReadOnlySQLTransactionError)
#: What a pooler that lends its connections a transaction at a time makes of prepared statements.
_POOLER_TEXT = (
    "a connection pooler stands before the database: set KENNEL_DATABASE_POOLED=true, "
    "and KENNEL_LISTEN_DATABASE_URL to the database itself"
)
#: PgBouncer's refusal of the time limits that are sent at connect.
_REFUSED_PARAMETER = "unsupported startup parameter"
#: More statements than any connection carries: asyncpg would close it without an end to the wait.
_STATEMENTS = 2**62
#: A connection that nobody needs for so long is returned to asyncpg's pool, seconds.
_KEPT_S = 60.0

#: How long a process that starts waits for a database that is away, seconds.
PATIENCE_S = 30.0
#: A plan is made once a connection and kept. Made while a table is small, it would read all of it
#: for ever after; every statement here has its index, and none is worth compiling.
_PLANNER = {"enable_seqscan": "off", "jit": "off"}

DatabaseUnavailable = dialing.DatabaseUnavailable


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
        #: Connections made before are closed when they come by; a time of the event loop.
        self._trusted_since = 0.0
        #: Lent by asyncpg and kept from one statement to the next, the last used at the end: its
        #: own lending is two switches of task and a timer a statement.
        self._kept: list[PoolConnectionProxy[asyncpg.Record]] = []
        #: How many of them nobody has needed since the timer was set.
        self._unused = 0
        self._trimming: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._is_closing = False

    @property
    def size(self) -> int:
        """Connections open now."""
        return self._pool.get_size()

    @property
    def at_hand(self) -> int:
        """Of them, those kept for the next statement."""
        return len(self._kept)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Return all rows."""
        return await self._lend(lambda raw: raw.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """Return the first row, or None."""
        return await self._lend(lambda raw: raw.fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        return await self._lend(lambda raw: raw.fetchval(sql, *args))

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; return its command tag."""
        return await self._lend(lambda raw: raw.execute(sql, *args))

    async def _lend(
        self, use: Callable[[PoolConnectionProxy[asyncpg.Record]], Awaitable[Result]]
    ) -> Result:
        # Not through `connection`: a context manager would cost each statement more than this.
        raw = self._take() or await self._acquire()
        try:
            result = await use(raw)
        except BaseException as error:
            await self._give_up(raw, error)
            raise
        await self._give_back(raw)
        return result

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection outside any transaction."""
        raw = self._take() or await self._acquire()
        try:
            yield Connection(raw)
        except BaseException as error:
            await self._give_up(raw, error)
            raise
        await self._give_back(raw)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction: committed at the end, rolled back on an error."""
        async with self.connection() as connection, connection.raw.transaction():
            yield connection

    def _take(self) -> PoolConnectionProxy[asyncpg.Record] | None:
        """Return a connection kept at hand that is of use still, if there is one."""
        while self._kept:
            raw: Any = self._kept.pop()
            self._unused = min(self._unused, len(self._kept))
            if _is_lost(raw):
                # asyncpg has not had it back yet where it gave it up by itself.
                self._leave(raw)
                continue
            if raw.made_at >= self._trusted_since:
                lent: PoolConnectionProxy[asyncpg.Record] = raw
                return lent
            raw.terminate()
            self._leave(raw)
        return None

    def _leave(self, raw: PoolConnectionProxy[asyncpg.Record]) -> None:
        task = asyncio.create_task(self._release(raw))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def trim(self) -> None:
        """Return to asyncpg, which closes them in time, those that nobody has needed of late."""
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None
        unused, self._kept = self._kept[: self._unused], self._kept[self._unused :]
        for raw in unused:
            self._leave(raw)
        self._watch()

    def _watch(self) -> None:
        if self._kept and self._trimming is None:
            self._unused = len(self._kept)
            self._trimming = asyncio.get_running_loop().call_later(_KEPT_S, self.trim)

    async def _acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                while True:
                    raw: Any = await self._pool.acquire()
                    if raw.made_at >= self._trusted_since:
                        lent: PoolConnectionProxy[asyncpg.Record] = raw
                        return lent
                    raw.terminate()
                    await self._pool.release(raw)
        except TimeoutError:
            raise DatabaseUnavailable(
                f"no database connection came free within {self._acquire_timeout_s:g} s"
            ) from None
        finally:
            self._waiting -= 1

    async def _give_back(self, raw: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Keep a connection at hand for who comes next, or hand it to who waits."""
        if self._waiting or self._is_closing or _is_lost(raw):
            await self._release(raw)
            return
        self._kept.append(raw)
        self._watch()

    async def _give_up(
        self, raw: PoolConnectionProxy[asyncpg.Record], error: BaseException
    ) -> None:
        """Return a connection on which something failed; asyncpg ends what still runs there."""
        await self._release(raw)
        if isinstance(error, _TELLING):
            raise self._tell(error) from error

    async def _release(self, raw: PoolConnectionProxy[asyncpg.Record]) -> None:
        if getattr(raw, "is_abandoned", False):
            # Now: asyncpg's release does not expect the end of a connection while it begins.
            raw.terminate()
        await self._pool.release(raw)

    def distrust(self) -> None:
        """Use no connection of before again: their server is silent, or takes no writes."""
        self._trusted_since = asyncio.get_running_loop().time()

    def _tell(self, error: BaseException) -> DatabaseUnavailable:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.distrust()
            return DatabaseUnavailable(f"the server takes no writes: {error}")
        # The connection has reported itself already.
        return DatabaseUnavailable("the database did not answer a statement in time")

    async def close(self, *, timeout_s: float = 10.0) -> None:
        """Let running statements end, then close; by force when they do not."""
        self._is_closing = True
        if self._trimming is not None:
            self._trimming.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                while (raw := self._take()) is not None:
                    await self._release(raw)
                await asyncio.gather(*self._leaving)
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
    connect_deadline_s: float = PATIENCE_S,
    pooled: bool = False,
) -> Database:
    """Open a pool of up to *size* connections, patient with a database that is just starting.

    *pooled* says that a pooler such as PgBouncer stands between: nothing is prepared by name, and
    no time limit is sent at connect, since poolers refuse such parameters; there the limits belong
    to the role (`ALTER ROLE kennel SET statement_timeout = '30s'`).

    Raises:
        SettingError: there is a pooler, and *pooled* does not say so.
        CannotConnect: no server that takes writes answered in time, or it does not want us.
    """
    limits = {
        "statement_timeout": statement_timeout_s,
        "lock_timeout": lock_timeout_s,
        "idle_in_transaction_session_timeout": idle_in_transaction_timeout_s,
    }
    server_settings = {"application_name": application_name}
    if pooled:
        # As the server spells it: PgBouncer would set what asyncpg says, 'utf-8', every time.
        server_settings["client_encoding"] = "UTF8"
    else:
        server_settings |= {name: f"{round(value * 1000)}ms" for name, value in limits.items()}
        server_settings |= _PLANNER
    dialer = Dialer(dsn)

    async def dial(
        dsn: str | None = None,  # noqa: ARG001 - the dialer knows it
        **options: Any,
    ) -> dialing.ServerConnection:
        made = await dialer.connect(**options)
        made.on_abandoned = db.distrust
        return made

    # Empty at first, and without the floor asyncpg would restore by itself, with a traceback a try.
    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        max_queries=_STATEMENTS,
        connect=dial,
        connection_class=dialing.PooledConnection if pooled else dialing.ServerConnection,
        command_timeout=statement_timeout_s + 5,
        statement_cache_size=0 if pooled else 1024,
        server_settings=server_settings,
        init=_init,
        reset=_keep_as_it_is,
    )
    db = Database(pool, acquire_timeout_s=acquire_timeout_s)
    try:
        await patiently(lambda: _look_for_pooler(db, pooled=pooled), deadline_s=connect_deadline_s)
    except BaseException:
        await db.close()
        raise
    return db


def is_expected(error: BaseException) -> bool:
    """Tell whether *error* is a collision with another transaction: try again, quietly."""
    return isinstance(error, _EXPECTED)


def is_connection_lost(error: BaseException) -> bool:
    """Tell whether *error* means that the connection ended; the statement may have happened."""
    if isinstance(error, _MISUSE):
        return any(text in str(error) for text in _CLOSED_TEXTS)
    if isinstance(error, CannotConnect):
        return error.is_transient
    return isinstance(error, _CONNECTION_LOST)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether *error* is the database's trouble, and not that of what was asked of it."""
    if isinstance(error, BaseExceptionGroup):
        # What ran side by side fails together when the database goes.
        return all(map(is_unavailable, error.exceptions))
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
    task = asyncio.current_task()
    assert task is not None  # this is a coroutine
    cancels = task.cancelling()
    for attempt in range(1, attempts):
        try:
            return await operation()
        except (asyncpg.PostgresError, *_MISUSE, OSError, CannotConnect) as error:
            if task.cancelling() > cancels:
                # A roll-back that was cut off, too, says only that the connection is gone.
                raise asyncio.CancelledError from error
            if not (is_expected(error) or (after_loss and is_connection_lost(error))):
                raise
            log.debug("statement.retried", attempt=attempt, error=type(error).__name__)
        await asyncio.sleep((0.5 + jitter() / 2) * min(0.02 * 2**attempt, 1.0))
    return await operation()


def _is_lost(raw: PoolConnectionProxy[asyncpg.Record]) -> bool:
    """Tell whether a lent connection has ended: asyncpg has then taken all but its shell back."""
    return getattr(raw, "made_at", None) is None or raw.is_closed()


async def patiently(
    operation: Callable[[], Awaitable[Result]], *, deadline_s: float = PATIENCE_S
) -> Result:
    """Run what a process begins with, again and again while the database is away or goes away.

    Args:
        operation: Statements that may run twice.
        deadline_s: From now on the last error is the caller's, seconds.

    Raises:
        SettingError: there is a pooler that nobody told of.
        DatabaseUnavailable: it was away for too long.
    """
    loop = asyncio.get_running_loop()
    deadline, delay_s = loop.time() + deadline_s, 0.1
    while True:
        try:
            return await operation()
        except (asyncpg.PostgresError, *_MISUSE, OSError, DatabaseUnavailable) as error:
            if isinstance(error, CannotConnect) and _REFUSED_PARAMETER in str(error):
                raise SettingError(_POOLER_TEXT) from error
            if not is_connection_lost(error):
                raise
            if loop.time() + delay_s > deadline:
                if isinstance(error, DatabaseUnavailable):
                    raise
                raise DatabaseUnavailable(f"the connection was lost: {error}") from error
            log.info("database.awaited", error=str(error), delay_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 2.0)


async def _look_for_pooler(db: Database, *, pooled: bool) -> None:
    """Refuse a pooler nobody told of: it fails only later, under load, and by halves."""
    async with db.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        limit = await connection.fetchval("SHOW statement_timeout")
        # Who stands between gives each of its clients a number of its own.
        stands_between = pid != connection.raw.get_server_pid()
    if stands_between and not pooled:
        raise SettingError(_POOLER_TEXT)
    if pooled and limit == "0":
        log.warning("database.unlimited", hint="ALTER ROLE … SET statement_timeout")


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
