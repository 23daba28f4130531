"""Start supervisors: have them forked by a server that is kept for that.

Owns the fork server (`worker.forkserver`, a process of its own), which is started again when it
has gone, and the handle of each supervisor: its order pipe and its end. The supervisors outlive
their server and are told apart from other processes by handles, never by a number alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from core.runtime.logs import get_logger
from worker import forkserver, tree

log = get_logger(__name__)

_PATH = "/usr/local/bin:/usr/bin:/bin"
#: How long a server may take to answer before it is killed, seconds; it takes milliseconds.
_ANSWER_S = 10.0
#: Servers that may go away under one request.
_TRIES = 3
#: How long a process that was told to leave may take before it is killed, seconds.
_LEAVE_S = 5.0
_PACKET = 64


class Forked:
    """One supervisor: it waits to be told what to run, then runs it. Somebody must `wait()`."""

    def __init__(self, pid: int, handle: int, pipe: int) -> None:
        self.pid = pid
        self._handle: int | None = handle
        self._pipe: int | None = pipe
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(handle, self._end)

    def hand_over(self, spec: Path) -> None:
        """Have it run what *spec* says. Never blocks; `wait` tells when it is gone."""
        self.order("run " + json.dumps(str(spec)))

    def order(self, line: str) -> None:
        """Give it an order. Never blocks or raises."""
        # A full pipe or a closed one: the supervisor is stuck or gone, and whoever waits for it
        # has a deadline.
        if self._pipe is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, line.encode("ascii") + b"\n")

    def let_go(self) -> None:
        """Close its pipe, which ends it with all that runs below it."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()

    def kill(self, tag: str) -> None:
        """Kill it, with the tree below it that carries *tag*. Blocks for milliseconds."""
        if self._handle is not None:
            tree.kill_supervisor(self._handle, self.pid)
        tree.sweep(tag)

    async def dismiss(self) -> None:
        """Let go of it before it has begun anything, and wait until it has left."""
        self.let_go()
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self.wait()
        except TimeoutError:
            if self._handle is not None:
                tree.kill_supervisor(self._handle, self.pid)
            await self.wait()

    def _end(self) -> None:
        assert self._handle is not None
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._handle = None
        self._ended.set()


class Supervisors:
    """Starts the supervisors of one worker. `async with` leaves no server."""

    def __init__(self) -> None:
        self._server: _Server | None = None
        # One request at a time: the next answer is that request's.
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            await self._serving()  # it is ready by the time the first attempt is
        except OSError as error:
            # The host is out of something. Attempts meet the same, and tell the server.
            log.warning("fork_server.failed", error=str(error))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.leave()

    @property
    def server_pid(self) -> int | None:
        """Process id of the fork server; None while there is none."""
        return None if self._server is None else self._server.process.pid

    async def start(self) -> Forked:
        """Start a supervisor that waits to be told what to run.

        Loses no process when cancelled.

        Raises:
            OSError: the host has no room for it.
        """
        forking = asyncio.create_task(self._fork(), name="supervisor.fork")
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await (await forking).dismiss()
            raise

    async def _fork(self) -> Forked:
        async with self._asking:
            for _ in range(_TRIES):
                server = await self._serving()
                try:
                    return await server.fork()
                except (ConnectionError, TimeoutError) as error:
                    # It has begun nothing that we do not know of: without an order to run, a
                    # supervisor leaves at the end of its pipe.
                    log.warning("fork_server.lost", pid=server.process.pid, error=str(error))
                    self._server = None
                    await server.leave(at_once=True)
                except asyncio.CancelledError:
                    # Its answer is still to come, and would pass for the next request's.
                    self._server = None
                    await server.leave(at_once=True)
                    raise
            raise OSError(errno.ECHILD, "the fork server went away again and again")

    async def _serving(self) -> _Server:
        if self._server is None:
            self._server = await _start_server()
            log.info("fork_server.started", pid=self._server.process.pid)
        return self._server


@dataclass(frozen=True, slots=True)
class _Server:
    """A fork server and the socket to it."""

    process: asyncio.subprocess.Process
    requests: socket.socket

    async def fork(self) -> Forked:
        """Have a supervisor forked.

        Raises:
            ConnectionError, TimeoutError: the server is gone or stuck.
            OSError: the host has no room.
        """
        orders, pipe = os.pipe()
        os.set_blocking(pipe, False)
        try:
            try:
                socket.send_fds(self.requests, [b"fork"], [orders])
            finally:
                os.close(orders)
            pid, handle = await self._answer()
        except BaseException:
            os.close(pipe)
            raise
        return Forked(pid, handle, pipe)

    async def _answer(self) -> tuple[int, int]:
        async with asyncio.timeout(_ANSWER_S):
            await self._readable()
        packet, handles, *_ = socket.recv_fds(self.requests, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        match packet.split():
            case [b"forked", pid] if handles:
                return int(pid), handles[0]
            case [b"forked", _]:  # it came without: we have no room for one more open file
                number = errno.EMFILE
            case [b"error", code]:
                number = int(code)
            case _:
                raise ConnectionResetError("the fork server has gone")
        raise OSError(number, os.strerror(number))

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.requests, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self.requests)

    async def leave(self, *, at_once: bool = False) -> None:
        """Let it end, and wait until it has."""
        self.requests.close()
        try:
            async with asyncio.timeout(0.0 if at_once else _LEAVE_S):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def _start_server() -> _Server:
    """Start a fork server. Loses none when cancelled.

    Raises:
        OSError: the host has no room for it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        starting = asyncio.create_task(_spawn(theirs), name="fork_server.start")
        try:
            return _Server(await asyncio.shield(starting), ours)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _Server(await starting, ours).leave(at_once=True)
            raise
        except OSError:
            ours.close()
            raise


async def _spawn(requests: socket.socket) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-B", forkserver.__file__),
        stdin=requests.fileno(),
        stdout=subprocess.DEVNULL,
        # What a supervisor has to say it says into a file of the attempt's, once it has one.
        stderr=subprocess.DEVNULL,
        env={"PATH": _PATH, "LANG": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )
