"""The other queues, driven in databases of their own on the same server.

A peer that is not installed, or fails, is left out and named; no number of it is then shown.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.server import Server

_BENCH = Path(__file__).parents[1]
_PYTHON = _BENCH / ".venv" / "bin" / "python"
_NODE = _BENCH / "node_modules" / ".bin" / "node"
_LONGEST_S = 900.0

_COMMANDS: Mapping[str, tuple[str | Path, ...]] = {
    "procrastinate": (_PYTHON, "-m", "bench.peers.procrastinate_peer"),
    "pgqueuer": (_PYTHON, "-m", "bench.peers.pgqueuer_peer"),
    "graphile": (_NODE, _BENCH / "peers" / "graphile.mjs"),
}
#: Written by bench/setup when all of it is there.
_STAMPS = {
    _PYTHON: _BENCH / ".venv" / ".stamp",
    _NODE: _BENCH / "node_modules" / ".stamp",
}


class PeerFailed(Exception):
    """A peer did not do what it was asked for."""


@dataclass(slots=True)
class Peers:
    """The peers of this run."""

    names: tuple[str, ...] = tuple(_COMMANDS)
    #: Peer → why it is not measured.
    missing: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """Find out which are installed."""
        for name, command in _COMMANDS.items():
            if not _STAMPS[Path(command[0])].exists():
                self.missing[name] = "not installed: bench/setup says why"
        self.names = tuple(name for name in _COMMANDS if name not in self.missing)

    @asynccontextmanager
    async def database(self, server: Server, name: str) -> AsyncIterator[Peer]:
        """Lend a peer with its tables in a new database."""
        async with server.database(name, is_migrated=False) as database:
            peer = Peer(name, server.url(database))
            await peer.ask("install")
            yield peer


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer on one database."""

    name: str
    url: str

    async def ask(self, word: str, **options: float) -> dict[str, Any]:
        """Run the peer's program with one word; return its answer."""
        async with self.asked(word, **options) as process:
            return await self.answer(process)

    @asynccontextmanager
    async def asked(self, word: str, **options: float) -> AsyncIterator[asyncio.subprocess.Process]:
        """Lend the peer's program under way."""
        arguments = [
            part for name, value in options.items() for part in (f"--{name}", f"{value:g}")
        ]
        process = await asyncio.create_subprocess_exec(
            *(*_COMMANDS[self.name], word, *arguments),
            cwd=_BENCH.parent,
            env={"PATH": os.environ["PATH"], "BENCH_DSN": self.url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the program says that its worker listens."""
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        if line != b"ready\n":
            raise PeerFailed(await self._why(process))

    async def answer(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """Wait for the program's end; return what it said."""
        try:
            async with asyncio.timeout(_LONGEST_S):
                output, errors = await process.communicate()
        except TimeoutError:
            raise PeerFailed(f"{self.name}: no answer within {_LONGEST_S:g} s") from None
        lines = output.decode().strip().splitlines()
        if process.returncode != 0 or not lines:
            raise PeerFailed(f"{self.name}: {errors.decode()[-1000:]}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    async def _why(self, process: asyncio.subprocess.Process) -> str:
        process.kill()
        _, errors = await process.communicate()
        return f"{self.name}: {errors.decode()[-1000:]}"


async def drained(
    peers: Peers, server: Server, name: str, *, jobs: int, batch: int, is_batched: bool = False
) -> float:
    """Return the jobs a second of a peer that works off a full queue in one process."""
    async with peers.database(server, name) as peer:
        await peer.ask("fill", jobs=jobs)
        extra = {"batched": 1.0} if is_batched else {}
        found = await peer.ask("drain", jobs=jobs, batch=batch, **extra)
    return float(found["jobs"] / max(found["seconds"], 1e-6))


async def created(
    peers: Peers, server: Server, name: str, *, callers: int, seconds: float
) -> float:
    """Return the jobs a second that callers enqueue one at a time."""
    async with peers.database(server, name) as peer:
        found = await peer.ask("create", batch=callers, seconds=seconds)
    return float(found["jobs"] / found["seconds"])


async def latencies_ms(
    peers: Peers, server: Server, name: str, *, jobs: int, rate: float
) -> list[float]:
    """Return the times from enqueue to begin, by an idle worker in another process."""
    async with peers.database(server, name) as peer, peer.asked("listen", jobs=jobs) as listening:
        await peer.ready(listening)
        await peer.ask("send", jobs=jobs, rate=rate)
        return list((await peer.answer(listening))["latencies_ms"])
