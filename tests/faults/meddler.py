"""A worker's way to the api through something that repeats, overtakes and loses requests.

An HTTP server that passes requests on. Knows the protocol's addresses only to leave the bodies
alone; whatever it does is what caches, retrying proxies and slow networks do to requests.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tests.faults.waiting import within

_KEPT = 200
_PATIENCE_S = 60.0
_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)


class Mischief(StrEnum):
    """What happens to requests."""

    NONE = "none"
    #: Each is sent twice at the same time; the worker hears one of the answers.
    DUPLICATE = "duplicate"
    #: Each waits a while, so that later ones overtake it.
    REORDER = "reorder"
    #: Each is carried out and its answer is lost.
    LOSE_ANSWER = "lose_answer"
    #: With each goes one of the last requests of this worker, once more.
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes


class Meddler:
    """One worker's way to the api."""

    def __init__(self, upstream: str, *, chance: random.Random, share: float = 0.4) -> None:
        self._upstream = upstream
        self._chance = chance
        self._share = share
        self._mischief = Mischief.NONE
        self._past: deque[_Request] = deque(maxlen=_KEPT)
        #: Rare among the others, and what a late one does is worth knowing.
        self._registration: _Request | None = None
        self._extra: set[asyncio.Task[object]] = set()
        self._over = asyncio.Event()
        #: How often each mischief was done to a request.
        self.done: dict[Mischief, int] = dict.fromkeys(Mischief, 0)
        self._session: aiohttp.ClientSession
        self._runner: web.AppRunner
        self.port = 0

    async def open(self) -> int:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE_S),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self.port

    async def close(self) -> None:
        self._over.set()
        for task in self._extra:
            task.cancel()
        await asyncio.gather(*self._extra, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()

    def become(self, mischief: Mischief) -> None:
        self._mischief = mischief

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP
        )
        asked = _Request(request.method, request.path_qs, headers, await request.read())
        try:
            response = await self._meddle(asked)
        except (aiohttp.ClientError, TimeoutError, OSError):
            response = None
        self._past.append(asked)
        if asked.path.endswith("/register"):
            self._registration = asked
        if response is None:
            if request.transport is not None:
                request.transport.abort()
            raise web.HTTPBadGateway
        return response

    async def _meddle(self, asked: _Request) -> web.Response | None:
        """Pass a request on; None: its answer is lost."""
        mischief = self._mischief
        if mischief is Mischief.NONE or self._chance.random() > self._share:
            return await self._pass(asked)
        self.done[mischief] += 1
        match mischief:
            case Mischief.DUPLICATE:
                answers = await asyncio.gather(self._pass(asked), self._pass(asked))
                return self._chance.choice(answers)
            case Mischief.REORDER:
                await within(self._over, self._chance.uniform(0.05, 1.5))
                return await self._pass(asked)
            case Mischief.LOSE_ANSWER:
                await self._pass(asked)
                return None
            case Mischief.REPLAY if self._past:
                is_rare = self._registration is not None and self._chance.random() < 0.05
                old = self._registration if is_rare else None
                self._send_again(old or self._chance.choice(self._past))
                return await self._pass(asked)
            case _:
                return await self._pass(asked)

    def _send_again(self, old: _Request) -> None:
        async def send() -> None:
            try:
                await self._pass(old)
            except (aiohttp.ClientError, TimeoutError, OSError):
                return  # nobody waits for it

        task: asyncio.Task[object] = asyncio.create_task(send())
        self._extra.add(task)
        task.add_done_callback(self._extra.discard)

    async def _pass(self, asked: _Request) -> web.Response:
        async with self._session.request(
            asked.method,
            self._upstream + asked.path,
            data=asked.body,
            headers=asked.headers,
            allow_redirects=False,
        ) as answer:
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in _HOP | {"content-length"}
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)
