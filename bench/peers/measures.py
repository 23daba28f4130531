"""What is measured of a Python peer, whichever it is: the peer says how, this says how much.

Run in the peers' own environment, not Kennel's. A job does nothing but be counted, or note when
it began.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import uvloop

#: Jobs enqueued by one call of the peer's bulk API.
_FILL = 1_000


@dataclass
class Seen:
    """What the jobs noted."""

    done: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def note(self, sent_at: float) -> None:
        now = time.time()
        self.first_at = self.first_at or now
        self.last_at = now
        self.done += 1
        if sent_at:
            self.latencies_ms.append((now - sent_at) * 1000)


class Peer(Protocol):
    """A queue."""

    async def install(self, dsn: str) -> None:
        """Make its tables."""
        ...

    async def enqueue(self, sent_at: float) -> None:
        """Enqueue one job, durable on return."""
        ...

    async def enqueue_many(self, count: int) -> None:
        """Enqueue jobs with its bulk API."""
        ...

    async def work(self, batch: int, *, until_empty: bool) -> None:
        """Work until the queue is empty, or for ever."""
        ...

    async def left(self) -> int:
        """Return how many jobs are not done."""
        ...


Connect = Callable[[str, Seen, int], Any]


async def drain(peer: Peer, seen: Seen, batch: int, jobs: int) -> dict[str, Any]:
    """From the first job's begin to the last one's end; start and stop of the worker are free."""
    await peer.work(batch, until_empty=True)
    left = await peer.left()
    if left or seen.done != jobs:
        raise RuntimeError(f"{seen.done} of {jobs} jobs ran, {left} are left")
    return {"jobs": seen.done, "seconds": seen.last_at - seen.first_at}


async def consume(peer: Peer, seen: Seen, batch: int, seconds: float) -> dict[str, Any]:
    working = asyncio.create_task(peer.work(batch, until_empty=False))
    print("ready", flush=True)
    counts = []
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        counts.append(seen.done)
    await _stop(working)
    return {"counts": counts}


async def create(peer: Peer, callers: int, seconds: float) -> dict[str, Any]:
    done = 0
    deadline = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await peer.enqueue(0.0)
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"jobs": done, "seconds": time.perf_counter() - begun}


async def listen(peer: Peer, seen: Seen, jobs: int) -> dict[str, Any]:
    working = asyncio.create_task(peer.work(10, until_empty=False))
    await asyncio.sleep(1.0)
    print("ready", flush=True)
    async with asyncio.timeout(600):
        while seen.done < jobs:  # noqa: ASYNC110 - the jobs run in the peer's hands
            await asyncio.sleep(0.05)
    await _stop(working)
    return {"latencies_ms": seen.latencies_ms}


async def send(peer: Peer, jobs: int, rate: float) -> dict[str, Any]:
    begun = time.perf_counter()
    for number in range(jobs):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        await peer.enqueue(time.time())
    return {"jobs": jobs}


async def fill(peer: Peer, jobs: int) -> dict[str, Any]:
    for done in range(0, jobs, _FILL):
        await peer.enqueue_many(min(_FILL, jobs - done))
    return {"jobs": jobs}


async def _stop(working: asyncio.Task[None]) -> None:
    working.cancel()
    await asyncio.wait({working}, timeout=10)


async def _answer(connect: Connect, options: argparse.Namespace) -> dict[str, Any]:
    seen = Seen()
    async with connect(os.environ["BENCH_DSN"], seen, options.batch) as peer:
        match options.word:
            case "install":
                await peer.install(os.environ["BENCH_DSN"])
                return {}
            case "fill":
                return await fill(peer, options.jobs)
            case "drain":
                return await drain(peer, seen, options.batch, options.jobs)
            case "consume":
                return await consume(peer, seen, options.batch, options.seconds)
            case "create":
                return await create(peer, options.batch, options.seconds)
            case "listen":
                return await listen(peer, seen, options.jobs)
            case "send":
                return await send(peer, options.jobs, options.rate)
            case word:
                raise SystemExit(f"unknown: {word}")


def main(connect: Connect) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("word")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=20.0)
    options = parser.parse_args()

    async def run() -> None:
        print(json.dumps(await _answer(connect, options)), flush=True)
        # A worker that was told to end may take its time; what it knew has been said.
        os._exit(0)

    work: Awaitable[None] = run()
    uvloop.run(work)  # type: ignore[arg-type]  # a coroutine, as it wants
