"""A network that can be broken: one link of TCP connections whose weather the adversary makes.

Carries bytes between whoever connects to its port and whatever `dial` reaches. Knows nothing of
what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from tests.faults.waiting import within

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]

_CHUNK = 65536
_DIAL_S = 5.0


class Weather(StrEnum):
    """What a link does to its connections."""

    CLEAR = "clear"
    #: Every connection is reset; new ones are too.
    CUT = "cut"
    #: Every piece is late.
    SLOW = "slow"
    #: Nothing arrives and nothing ends; what was sent meanwhile arrives when it is over.
    STALLED = "stalled"
    #: The other end has vanished without a word; when it is over, connections are reset.
    HALF_OPEN = "half_open"
    #: What is said arrives, what is answered does not; when it is over, connections are reset.
    DEAF = "deaf"


class Link:
    """One way between two processes."""

    def __init__(self, dial: Dial, *, chance: random.Random) -> None:
        self._dial = dial
        self._chance = chance
        self._weather = Weather.CLEAR
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def become(self, weather: Weather) -> None:
        """Change the weather of all connections, those that are open too."""
        broken = {Weather.HALF_OPEN, Weather.DEAF}
        if weather is Weather.CUT or (self._weather in broken and weather is not self._weather):
            self._reset()
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._weather is not Weather.CUT:
                await self._relay(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            return  # a broken connection is what this is for
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_DIAL_S):
            answers, server = await self._dial()
        self._writers.add(server)
        pumps = [
            asyncio.create_task(self._pump(reader, server, is_answer=False)),
            asyncio.create_task(self._pump(answers, writer, is_answer=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers.discard(server)
            server.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while content := await source.read(_CHUNK):
            if not await self._passes(is_answer=is_answer):
                continue
            sink.write(content)
            await sink.drain()
        while not await self._passes(is_answer=is_answer):
            await self._changed.wait()  # the end of a connection gets lost like anything else
        if sink.can_write_eof():
            sink.write_eof()

    async def _passes(self, *, is_answer: bool) -> bool:
        """Hold up a piece as the weather wants; return whether it arrives at all."""
        while self._weather is Weather.STALLED:
            await self._changed.wait()
        if self._weather is Weather.SLOW:
            await within(self._changed, self._chance.uniform(0.02, 0.2))
        is_lost = self._weather is Weather.HALF_OPEN or (
            self._weather is Weather.DEAF and is_answer
        )
        return not is_lost


def to_one_of(ports: Sequence[int], chance: random.Random) -> Dial:
    """Dial any of several servers, another one when the first is not there: a load balancer."""

    async def dial() -> Streams:
        order = chance.sample(ports, len(ports))
        for port in order[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return await asyncio.open_connection("127.0.0.1", order[-1])

    return dial


def to_socket(path: str) -> Dial:
    """Dial a Unix socket."""

    async def dial() -> Streams:
        return await asyncio.open_unix_connection(path)

    return dial
