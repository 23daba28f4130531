"""The weather of a link is what it is called: what passes, what is lost, what ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.faults.links import Link, Streams, Weather, to_one_of


@dataclass
class Person:
    """Who connects to a link, and hangs up at the end."""

    link: Link
    stack: ExitStack

    async def dial(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.link.port)
        self.stack.callback(writer.close)
        return reader, writer

    async def connect(self) -> Streams:
        reader, writer = await self.dial()
        writer.write(b"first\n")
        async with asyncio.timeout(10):
            assert await reader.readline() == b"first\n"
        return reader, writer


@dataclass
class Echo:
    """A server that answers what it hears, and tells what it heard."""

    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while word := await reader.readline():
                self.heard.put_nowait(word)
                writer.write(word)
        finally:
            writer.close()


@asynccontextmanager
async def echo_behind_a_link() -> AsyncIterator[tuple[Echo, Link, Person]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    chance = random.Random(1)
    link = Link(to_one_of([server.sockets[0].getsockname()[1]], chance), chance=chance)
    await link.open()
    try:
        with ExitStack() as stack:
            yield echo, link, Person(link, stack)
    finally:
        await link.close()
        server.close()


async def ends(reader: asyncio.StreamReader) -> bool:
    """Tell whether a connection ends without another word."""
    async with asyncio.timeout(10):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


async def test_a_slow_link_brings_everything() -> None:
    async with echo_behind_a_link() as (_, link, person):
        reader, writer = await person.connect()
        link.become(Weather.SLOW)

        writer.write(b"second\n")

        async with asyncio.timeout(10):
            assert await reader.readline() == b"second\n"
        writer.close()


async def test_a_cut_ends_connections_and_refuses_new_ones() -> None:
    async with echo_behind_a_link() as (_, link, person):
        reader, _writer = await person.connect()

        link.become(Weather.CUT)

        assert await ends(reader)
        again, _writer = await person.dial()
        assert await ends(again)
        link.become(Weather.CLEAR)
        await person.connect()


async def test_what_is_said_to_a_stalled_link_arrives_when_it_is_over() -> None:
    async with echo_behind_a_link() as (echo, link, person):
        reader, writer = await person.connect()
        echo.heard.get_nowait()
        link.become(Weather.STALLED)

        writer.write(b"second\n")
        await writer.drain()
        other = await person.dial()
        other[1].write(b"third\n")

        assert echo.heard.empty()
        link.become(Weather.CLEAR)
        async with asyncio.timeout(10):
            assert await reader.readline() == b"second\n"
            assert await other[0].readline() == b"third\n"
            assert {await echo.heard.get(), await echo.heard.get()} == {b"second\n", b"third\n"}


@pytest.mark.parametrize("weather", [Weather.HALF_OPEN, Weather.DEAF])
async def test_what_a_broken_link_has_lost_never_arrives(weather: Weather) -> None:
    async with echo_behind_a_link() as (echo, link, person):
        reader, writer = await person.connect()
        echo.heard.get_nowait()
        link.become(weather)

        writer.write(b"second\n")
        await writer.drain()

        if weather is Weather.DEAF:
            async with asyncio.timeout(10):
                assert await echo.heard.get() == b"second\n"
        link.become(Weather.CLEAR)
        # The answer is lost for good, and the connection with it.
        assert await ends(reader)
        assert echo.heard.empty()


async def test_a_link_takes_another_server_when_the_first_is_gone() -> None:
    async with echo_behind_a_link() as (_, gone, _), echo_behind_a_link() as (_, there, _):
        chance = random.Random(1)
        await gone.close()
        link = Link(to_one_of([gone.port, there.port], chance), chance=chance)
        await link.open()
        with ExitStack() as stack:
            for _ in range(4):
                await Person(link, stack).connect()
        await link.close()
