"""How a connection is made: to the one server, of those an address names, that takes writes.

An address may name several servers (`postgresql://kennel@db1,db2/kennel`), as after a fail-over
any of them may be the primary. The one that was good last is tried first; one that does not answer
holds nobody up, since the next is tried beside it. A standby is never taken, whatever the address
says: Kennel writes.

Owns too what a connection does when its server falls silent: the kernel gives it up after
seconds, and a statement nobody waits for any more ends with its connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from core.domain.errors import KennelError, SettingError

if TYPE_CHECKING:
    RawConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    _Connection: TypeAlias = RawConnection
else:
    _Connection = asyncpg.Connection

#: One server has so long to answer, whatever the others do, seconds.
CONNECT_TIMEOUT_S = 10.0
#: A server that has not answered by then has the next one tried beside it, seconds.
STAGGER_S = 1.0
#: A peer that is gone without a word (its host, the network) is noticed by the kernel: an idle
#: connection is probed after 10 s, four times; sent bytes wait 15 s for their receipt.
_PATIENCE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),
)
#: Not there now, perhaps soon; any other refusal (password, no such database) is for a person.
_TRANSIENT = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.InterfaceError,
)
#: Whatever a try to connect ends with.
_REFUSALS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class DatabaseUnavailable(KennelError):
    """The database cannot be reached, does not answer, or no connection came free in time."""


class CannotConnect(DatabaseUnavailable):
    """No server of the address takes us."""

    def __init__(self, message: str, *, is_transient: bool) -> None:
        super().__init__(message)
        #: Whether the same try may go well later without anybody doing something.
        self.is_transient = is_transient


@dataclass(frozen=True, slots=True)
class Server:
    """One server of an address."""

    #: Host and port, as an operator knows it: no password.
    name: str
    dsn: str


class ServerConnection(_Connection):
    """A connection that is closed when a statement on it is given up.

    asyncpg would ask the server to cancel the statement. A commit that waits for its standby
    cannot be cancelled, only its wait can: the transaction would then be seen by others, and
    answered for, without being safe from the loss of the primary. Whoever is left alone by his
    client instead goes on waiting, and long statements end by the server's own time limit.
    """

    def __init__(self, protocol: Any, transport: asyncio.Transport, *args: Any) -> None:
        super().__init__(protocol, transport, *args)
        self.made_at = asyncio.get_running_loop().time()
        #: A statement was given up, by its time limit or by who waited for it.
        self.is_abandoned = False
        #: Called then.
        self.on_abandoned: Callable[[], object] | None = None
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            for level, option, value in _PATIENCE:
                connected.setsockopt(level, option, value)

    def _cancel_current_command(self, *_waiters: object) -> None:
        # asyncpg has no hook for this; a test on a real server notices should a release change it.
        # Not at once: the protocol is in the middle of what calls this. Closing ends all waits.
        self.is_abandoned = True
        if self.on_abandoned is not None:
            self.on_abandoned()
        asyncio.get_running_loop().call_soon(self.terminate)


class PooledConnection(ServerConnection):
    """A connection through a pooler that lends servers a transaction at a time.

    asyncpg switches JIT compilation off while it looks up types, and on again: for the session,
    which here is two other clients'. There the role has it off (docs/operations.md).
    """

    _server_caps: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._server_caps = self._server_caps._replace(jit=False)


class Dialer:
    """Makes connections to the primary of one address."""

    def __init__(self, dsn: str, *, stagger_s: float = STAGGER_S) -> None:
        self._servers = servers_of(dsn)
        self._stagger_s = stagger_s
        #: The server that was good last.
        self._good = self._servers[0]

    async def connect(
        self, *, timeout_s: float = CONNECT_TIMEOUT_S, **options: Any
    ) -> ServerConnection:
        """Return a connection to the server that takes writes; *options* are asyncpg's.

        Raises:
            CannotConnect: there is none now.
        """
        order = sorted(self._servers, key=lambda server: server != self._good)
        refusals: dict[Server, BaseException] = {}
        calls: dict[asyncio.Task[ServerConnection], Server] = {}
        try:
            while order or calls:
                if order:
                    server = order.pop(0)
                    calls[asyncio.create_task(_call(server, timeout_s, options))] = server
                done, _ = await asyncio.wait(
                    calls,
                    timeout=self._stagger_s if order else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for call in done:
                    server = calls.pop(call)
                    error = call.exception()
                    if error is None:
                        self._good = server
                        return call.result()
                    if not isinstance(error, _REFUSALS):
                        raise error
                    refusals[server] = error
        finally:
            await _hang_up(calls)
        raise _cannot_connect(refusals, timeout_s)


async def connect(dsn: str, *, timeout_s: float = 30.0, **options: Any) -> ServerConnection:
    """Return one connection to the server of *dsn* that takes writes.

    Raises:
        CannotConnect: there is none now.
    """
    return await Dialer(dsn).connect(timeout_s=timeout_s, **options)


def servers_of(dsn: str) -> tuple[Server, ...]:
    """Return the servers an address names, each with an address of its own."""
    url = urlsplit(dsn)
    who, at, hosts = url.netloc.rpartition("@")
    if hosts:
        return tuple(
            Server(unquote(host), urlunsplit(url._replace(netloc=f"{who}{at}{host}")))
            for host in hosts.split(",")
        )
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    named = [host for host in query.get("host", "").split(",") if host]
    ports = query.get("port", "").split(",")
    if len(named) < 2:
        return (Server(":".join(filter(None, [*named, *ports])) or "the database", dsn),)
    if len(ports) == 1:
        ports *= len(named)
    if len(ports) != len(named):
        raise SettingError(f"the database's address names {len(named)} hosts, {len(ports)} ports")
    found = []
    for host, port in zip(named, ports, strict=True):
        one = query | {"host": host} | ({"port": port} if port else {})
        text = urlencode(one, quote_via=quote)
        found.append(
            Server(f"{host}:{port}" if port else host, urlunsplit(url._replace(query=text)))
        )
    return tuple(found)


async def _call(server: Server, timeout_s: float, options: dict[str, Any]) -> ServerConnection:
    settings: dict[str, Any] = {
        "connection_class": ServerConnection,
        **options,
        "timeout": timeout_s,
        "target_session_attrs": "read-write",
    }
    made: ServerConnection = await asyncpg.connect(server.dsn, **settings)
    return made


async def _hang_up(calls: dict[asyncio.Task[ServerConnection], Server]) -> None:
    """End what is still being tried; what has answered meanwhile is not wanted any more."""
    for call in calls:
        call.cancel()
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(ended, ServerConnection):
            ended.terminate()


def _cannot_connect(refusals: dict[Server, BaseException], timeout_s: float) -> CannotConnect:
    said = {server.name: _reason(error, timeout_s) for server, error in refusals.items()}
    is_transient = all(isinstance(error, _TRANSIENT) for error in refusals.values())
    if len(said) == 1:
        reason = next(iter(said.values()))
        message = f"cannot connect to the database: {reason}"
    else:
        each = "; ".join(f"{name}: {reason}" for name, reason in said.items())
        message = f"no server of the database takes writes: {each}"
    failure = CannotConnect(message, is_transient=is_transient)
    failure.__cause__ = next(iter(refusals.values()), None)
    return failure


def _reason(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "takes no writes (a standby, or read-only)"
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {timeout_s:g} s"
    return str(error) or type(error).__name__
