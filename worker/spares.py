"""Keep a few supervisors ready: starting an interpreter would be most of an attempt's start.

A spare is a supervisor that has not been told what to run yet. It waits on its order pipe, so that
the end of the daemon ends it like any other. Who finds no spare starts a supervisor then and there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from core.runtime.logs import get_logger
from worker import supervisor

log = get_logger(__name__)

#: Spares one worker keeps at most: each is an interpreter in memory.
MOST = 4
_PATH = "/usr/local/bin:/usr/bin:/bin"
#: A spare is replaced this much later, seconds: the engine that begins with it goes first.
_REST_S = 0.2
#: Longest pause after one could not be started, seconds.
_TROUBLE_S = 30.0
#: How long a spare may take to leave before it is killed, seconds.
_LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A supervisor that waits for its spec, and the pipe its orders go through."""

    process: asyncio.subprocess.Process
    pipe: int

    def hand_over(self, spec: Path) -> bool:
        """Have it run what *spec* says; False when it is gone. Never blocks."""
        try:
            os.write(self.pipe, b"run " + json.dumps(str(spec)).encode("ascii") + b"\n")
        except OSError:
            return False
        return True

    async def dismiss(self) -> None:
        """Let go of it, and wait until it has left."""
        os.close(self.pipe)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class Spares:
    """The spare supervisors of one worker; `run` keeps their number, and owns them."""

    def __init__(self, count: int) -> None:
        self._count = min(count, MOST)
        self._ready: deque[Waiting] = deque()
        self._taken = asyncio.Event()

    @property
    def pids(self) -> list[int]:
        """Process ids of those that are ready."""
        return [spare.process.pid for spare in self._ready]

    def take(self) -> Waiting | None:
        """Return a spare that lives; None: there is none."""
        while self._ready:
            self._taken.set()
            spare = self._ready.popleft()
            if spare.process.returncode is None:
                return spare
            os.close(spare.pipe)
        return None

    async def run(self) -> None:
        """Keep the spares ready, until cancelled; then none is left."""
        failures = 0
        try:
            while True:
                self._taken.clear()
                try:
                    while len(self._ready) < self._count:
                        self._ready.append(await start_supervisor())
                except OSError as error:
                    # The host is out of something. Attempts meet the same, and tell the server.
                    failures += 1
                    log.warning("spare.failed", error=str(error))
                    await asyncio.sleep(min(_TROUBLE_S, 2.0**failures))
                    continue
                failures = 0
                await self._taken.wait()
                await asyncio.sleep(_REST_S)
        finally:
            leaving = [spare.dismiss() for spare in self._ready]
            self._ready.clear()
            await asyncio.gather(*leaving)


async def start_supervisor() -> Waiting:
    """Start a supervisor that waits to be told what to run.

    Loses no process when cancelled between fork and return.

    Raises:
        OSError: the host has no room for it.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        process = await _spawn(read_end, write_end)
    except OSError:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Waiting(process, write_end)


async def _spawn(read_end: int, write_end: int) -> asyncio.subprocess.Process:
    spawning = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", supervisor.__file__),
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            # What it has to say it says into a file of the attempt's, once it has one.
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        ),
        name="supervisor.spawn",
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        process = await spawning
        os.close(write_end)  # the end of the pipe ends the supervisor
        await process.wait()
        raise
