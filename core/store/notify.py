"""Wake-ups: who waits for a topic is woken when something about it may have changed.

Waiters of this process are woken directly; other processes by NOTIFY on one connection that
belongs to nobody else. Notifications leave outside any transaction (NOTIFY inside one serialises
all commits of the database), the first at once, those that follow gathered for a moment.
A wake-up is a hint and may be lost: whoever waits looks again after a while by itself.

Topics are short: `tasks`, `jobs`, `job:12`, `worker:3`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import asyncpg
import orjson

from core.runtime.logs import get_logger
from core.store.dialing import CannotConnect, Dialer, ServerConnection

log = get_logger(__name__)

CHANNEL = "kennel"

#: Stands for every topic: sent when there is too much to name.
EVERYTHING = "*"

#: NOTIFY takes payloads below 8000 bytes.
_PAYLOAD_BYTES = 7999
_TOPIC_BYTES = 200
#: Topics kept while the connection is away; beyond it everybody is woken instead.
_PENDING_TOPICS = 4096
#: Longest the last messages may take when it stops, seconds.
_LEAVE_S = 2.0
_STATEMENT_TIMEOUT_S = 10.0
#: Whatever a connection fails with: another one is made.
_TROUBLE = (
    OSError,
    CannotConnect,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_BACKOFF_BASE_S = 0.1
#: Small, since every loop of the process looks again when this connection is back.
_BACKOFF_CAP_S = 2.0


class Subscription:
    """One waiter. A wake-up that comes between two waits is kept for the second."""

    def __init__(self, signals: Signals, topics: frozenset[str]) -> None:
        self.topics = topics
        self._signals = signals
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wake the waiter, or the next wait."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return True on a wake-up since the last return, False after *timeout_s* seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        # Cleared before the caller's query: what happens during it wakes the next wait.
        self._event.clear()
        return True

    def close(self) -> None:
        """Wait for nothing any more."""
        self._signals._forget(self)  # noqa: SLF001 - the two are one thing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Signals:
    """The wake-ups of one process. *dsn* leads past any pooler: a pooled LISTEN hears nothing."""

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "kennel-signals",
        gather_s: float = 0.005,
        probe_interval_s: float = 30.0,
        probe_timeout_s: float = 10.0,
    ) -> None:
        self._dialer = Dialer(dsn)
        self._application_name = application_name
        self._gather_s = gather_s
        self._probe_interval_s = probe_interval_s
        self._probe_timeout_s = probe_timeout_s
        self._origin = secrets.token_hex(8)
        self._waiters: dict[str, set[Subscription]] = {}
        self._pending: dict[str, None] = {}
        #: Something to send, or the connection ended.
        self._due = asyncio.Event()
        #: A message of our own came back: the connection hears.
        self._heard = asyncio.Event()
        self._connected = asyncio.Event()
        self._connection: ServerConnection | None = None
        #: Since when, by the event loop, and after how many tries nothing is heard; None: it is.
        self._outage: tuple[float, int] | None = None
        self._task: asyncio.Task[None] | None = None
        #: Held while a message is under way.
        self._sending = asyncio.Lock()

    @property
    def is_connected(self) -> bool:
        """Whether other processes are heard; False makes waiters slower, nothing else."""
        return self._connected.is_set()

    def subscribe(self, *topics: str) -> Subscription:
        """Return a waiter for *topics*, to be closed after use."""
        subscription = Subscription(self, frozenset(topics))
        for topic in subscription.topics:
            self._waiters.setdefault(_checked(topic), set()).add(subscription)
        return subscription

    def publish(self, *topics: str) -> None:
        """Wake the waiters of *topics*: here at once, elsewhere soon. Call it after the commit."""
        for topic in topics:
            self._pending[_checked(topic)] = None
        if len(self._pending) > _PENDING_TOPICS:
            self._pending = {EVERYTHING: None}
        self._wake(topics)
        self._due.set()

    async def start(self, *, connect_timeout_s: float = 10.0) -> None:
        """Begin to listen; return when connected, or after the time-out all the same."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="signals")
        await self.wait_connected(connect_timeout_s)

    async def wait_connected(self, timeout_s: float) -> bool:
        """Wait until other processes are heard."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Send what is due, if that is quick, and leave."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S), self._sending:
                # A message cut off would take the connection with it, and all that is due.
                pass
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- waking ------------------------------------------------------------------------------

    def _wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic == EVERYTHING:
                self._wake(list(self._waiters))
            for subscription in self._waiters.get(topic, ()):
                subscription.wake()

    def _forget(self, subscription: Subscription) -> None:
        for topic in subscription.topics:
            waiters = self._waiters.get(topic)
            if waiters is not None:
                waiters.discard(subscription)
                if not waiters:
                    del self._waiters[topic]

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            message = orjson.loads(str(payload))
            origin, topics = message["from"], message["topics"]
            known = [topic for topic in topics if isinstance(topic, str)]
        except (ValueError, TypeError, KeyError):
            log.warning("signal.refused", size=len(str(payload)))
            return
        if origin == self._origin:
            self._heard.set()
        else:
            self._wake(known)

    # -- the connection ----------------------------------------------------------------------

    async def _run(self) -> None:
        delay_s = _BACKOFF_BASE_S
        while True:
            try:
                await self._connect()
                delay_s = _BACKOFF_BASE_S
                await self._serve()
            except _TROUBLE as error:
                self._note_loss(error)
            finally:
                self._connected.clear()
                await self._disconnect()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _BACKOFF_CAP_S)

    def _note_loss(self, error: Exception) -> None:
        """Tell of an outage once, however many tries it takes."""
        if self._outage is None:
            self._outage = asyncio.get_running_loop().time(), 1
            log.warning("signals.disconnected", error=str(error) or type(error).__name__)
        else:
            since, tries = self._outage
            self._outage = since, tries + 1
            log.debug("signals.awaited", error=str(error), tries=tries)

    def _note_return(self) -> None:
        if self._outage is not None:
            since, tries = self._outage
            lasted_s = round(asyncio.get_running_loop().time() - since, 1)
            log.info("signals.reconnected", lasted_s=lasted_s, tries=tries)
            self._outage = None

    async def _connect(self) -> None:
        self._connection = connection = await self._dialer.connect(
            command_timeout=_STATEMENT_TIMEOUT_S,
            # Works behind a pooler's session mode too: nothing prepared, nothing set.
            statement_cache_size=0,
            server_settings={"application_name": self._application_name},
        )
        connection.add_termination_listener(self._lose)
        await connection.add_listener(CHANNEL, self._hear)
        await self._probe()
        self._note_return()
        self._connected.set()
        # Whatever was said while nobody listened: everybody looks once.
        self._wake([EVERYTHING])

    def _lose(self, _connection: object) -> None:
        self._connected.clear()
        self._due.set()

    async def _serve(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._probe_interval_s):
                    await self._due.wait()
            except TimeoutError:
                await self._probe()
                continue
            self._due.clear()
            if not self.is_connected:
                raise ConnectionResetError("the listening connection was closed")
            await self._send_pending()
            await asyncio.sleep(self._gather_s)

    async def _send_pending(self) -> None:
        # Taken before they are sent: what is said again from here on is about a later commit,
        # which who hears this message may not see yet.
        topics, self._pending = self._pending, {}
        try:
            for payload in _payloads(self._origin, topics):
                await self._send(payload)
        except BaseException:
            # Twice is a wake-up too many; not at all, one too few.
            self._pending = topics | self._pending
            raise

    async def _probe(self) -> None:
        """Send a message to ourselves: a connection half dead, or pooled, does not bring it."""
        self._heard.clear()
        await self._send(orjson.dumps({"from": self._origin, "topics": []}).decode())
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                await self._heard.wait()
        except TimeoutError:
            raise ConnectionResetError(
                "notifications do not arrive: KENNEL_LISTEN_DATABASE_URL must lead past any pooler"
            ) from None

    async def _send(self, payload: str) -> None:
        assert self._connection is not None
        async with self._sending:
            await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        self._connection = connection
        with contextlib.suppress(*_TROUBLE):
            async with asyncio.timeout(_LEAVE_S):
                await self._send_pending()
                await connection.close()
        self._connection = None
        if not connection.is_closed():
            connection.terminate()


def _checked(topic: str) -> str:
    if not 0 < len(topic.encode()) <= _TOPIC_BYTES:
        raise ValueError(f"a topic has 1 to {_TOPIC_BYTES} bytes, got {topic[:40]!r}")
    return topic


def _payloads(origin: str, topics: Iterable[str]) -> Iterator[str]:
    """Write *topics* into as few messages as hold them."""
    empty = len(_payload(origin, []))
    batch: list[str] = []
    size = empty
    for topic in topics:
        cost = len(orjson.dumps(topic)) + 1
        if batch and size + cost > _PAYLOAD_BYTES:
            yield _payload(origin, batch).decode()
            batch, size = [], empty
        batch.append(topic)
        size += cost
    if batch:
        yield _payload(origin, batch).decode()


def _payload(origin: str, topics: list[Any]) -> bytes:
    return orjson.dumps({"from": origin, "topics": topics})
