"""The load generators as children: simulated workers, `wrk`, and paced requests of our own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.harness.http import Connection
from bench.harness.processes import ADMIN_TOKEN, ROOT, Crew, Daemon
from bench.harness.simulated import Plan

WRK = Path(__file__).parents[1] / "wrk"


class Simulated:
    """A process of simulated workers under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def end(self) -> dict[str, Any]:
        """Ask it to end; return what it saw."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.result(within_s=120)

    async def result(self, *, within_s: float) -> dict[str, Any]:
        """Wait for its end; return what it saw."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self._process.stdout.readline()
            status = await self._process.wait()
        if status != 0:
            raise RuntimeError(f"the simulated workers ended with {status}")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def simulated(crew: Crew, apis: list[Daemon], **options: Any) -> AsyncIterator[Simulated]:
    """Lend simulated workers, all registered; options are those of `Plan`."""
    token = await crew.enrolment_token(apis[0])
    plan = Plan(urls=[api.url for api in apis], enrolment_token=token, **options)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.harness.simulated"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # An answer with all arrivals is one long line.
        limit=1 << 26,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
        async with asyncio.timeout(120):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the simulated workers did not register")
        yield Simulated(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclasses.dataclass(frozen=True, slots=True)
class Wrk:
    """What `wrk` saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    #: Answers that were not 2xx, and requests without an answer.
    bad: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


async def wrk(
    apis: list[Daemon],
    script: str,
    *,
    connections: int,
    seconds: float,
    arguments: list[str],
) -> Wrk:
    """Load one or several apis with the requests of a Lua script; a thread an api.

    Raises:
        RuntimeError: a request got no answer, or another than 2xx.
    """
    program = shutil.which("wrk")
    if program is None:
        raise RuntimeError("wrk is not installed: bench/setup installs it")
    process = await asyncio.create_subprocess_exec(
        program,
        *("-t", str(len(apis)), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"),
        *("--timeout", "30s", "-s", str(WRK / script), apis[0].url),
        *("--", *arguments),
        env={
            "BENCH_COMMON": str(WRK / "common.lua"),
            "BENCH_TOKEN": ADMIN_TOKEN,
            "BENCH_PORTS": " ".join(str(api.port) for api in apis),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    for api in apis:
        api.check()
    if process.returncode != 0:
        raise RuntimeError(f"wrk ended with {process.returncode}: {errors.decode()[-1000:]}")
    found = json.loads(output.decode().rpartition("RESULT ")[2])
    result = Wrk(**found)
    if result.bad:
        raise RuntimeError(f"{result.bad} of {result.requests} requests were not answered 2xx")
    return result


async def paced(
    api: Daemon, path: Callable[[int], str], *, rate: float, count: int, connections: int
) -> list[float]:
    """Send GETs on a fixed schedule; return the time from *when each was due* to its answer, s.

    From the schedule and not from the sending: a server that stalls delays those behind it, and
    that is part of what its callers wait.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.1
    samples: list[float] = []
    numbers = iter(range(count))

    async def caller() -> None:
        async with Connection(api.url, f"Token {ADMIN_TOKEN}") as connection:
            for number in numbers:
                due = begin + number / rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                status, body = await connection.request("GET", path(number))
                if status != 200:
                    raise RuntimeError(f"{path(number)} answered {status}: {body[:300]!r}")
                samples.append(loop.time() - due)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller())
    api.check()
    return samples


async def in_turn(api: Daemon, paths: list[str]) -> list[float]:
    """Send GETs one after another on one connection; return how long each took, seconds."""
    samples = []
    async with Connection(api.url, f"Token {ADMIN_TOKEN}") as connection:
        for path in paths:
            begun = time.perf_counter()
            status, body = await connection.request("GET", path)
            if status != 200:
                raise RuntimeError(f"{path} answered {status}: {body[:300]!r}")
            samples.append(time.perf_counter() - begun)
    api.check()
    return samples
