"""What a meddler does to requests is what a network and its proxies may do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from tests.faults.meddler import Meddler, Mischief


@dataclass
class Server:
    """Answers requests and remembers them."""

    heard: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t"
        body = await request.text()
        self.heard.append(body)
        self.changed.set()
        return web.json_response({"heard": body}, status=201, headers={"Range": "bytes=0-1"})

    async def until_heard(self, times: int) -> None:
        async with asyncio.timeout(10):
            while len(self.heard) < times:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Worker:
    """Sends requests through a meddler."""

    session: aiohttp.ClientSession
    url: str

    async def say(self, word: str) -> str:
        async with self.session.post(
            self.url, data=word, headers={"Authorization": "Bearer t"}
        ) as answer:
            assert (answer.status, answer.headers["Range"]) == (201, "bytes=0-1")
            return (await answer.json())["heard"]


@asynccontextmanager
async def meddled() -> AsyncIterator[tuple[Server, Meddler, Worker]]:
    server = Server()
    app = web.Application()
    app.router.add_post("/worker/v1/start", server.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    meddler = Meddler(url, chance=random.Random(1), share=1.0)
    port = await meddler.open()
    async with aiohttp.ClientSession() as session:
        yield server, meddler, Worker(session, f"http://127.0.0.1:{port}/worker/v1/start")
    await meddler.close()
    await runner.cleanup()


async def test_without_mischief_a_request_passes_as_it_is() -> None:
    async with meddled() as (server, _, worker):
        assert await worker.say("a") == "a"
        assert server.heard == ["a"]


async def test_a_duplicated_request_is_heard_twice_and_answered_once() -> None:
    async with meddled() as (server, meddler, worker):
        meddler.become(Mischief.DUPLICATE)

        assert await worker.say("a") == "a"
        assert server.heard == ["a", "a"]


async def test_an_unanswered_request_is_carried_out() -> None:
    async with meddled() as (server, meddler, worker):
        meddler.become(Mischief.LOSE_ANSWER)

        with pytest.raises(aiohttp.ClientError):
            await worker.say("a")
        assert server.heard == ["a"]


async def test_an_old_request_is_replayed_beside_a_new_one() -> None:
    async with meddled() as (server, meddler, worker):
        await worker.say("a")
        meddler.become(Mischief.REPLAY)

        assert await worker.say("b") == "b"
        await server.until_heard(3)
        assert sorted(server.heard) == ["a", "a", "b"]


async def test_reordered_requests_overtake_one_another() -> None:
    async with meddled() as (server, meddler, worker):
        meddler.become(Mischief.REORDER)
        words = [str(number) for number in range(10)]

        answers = await asyncio.gather(*(worker.say(word) for word in words))

        assert answers == words
        assert sorted(server.heard) == words
        assert server.heard != words
