"""What a figure gets by hand, and how often it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.harness.peers import Peers
from bench.harness.server import Server
from bench.harness.sizes import Sizes

if TYPE_CHECKING:
    from bench.harness.bigdatabase import BigDatabase

Found = TypeVar("Found")


@dataclass(slots=True)
class Context:
    """One run of the bench."""

    sizes: Sizes
    server: Server
    #: For logs and whatever else a figure writes.
    folder: Path
    peers: Peers
    #: Ends with the run.
    stack: AsyncExitStack
    #: Loaded by the first figure that needs it.
    big: BigDatabase | None = None
    #: Kind of process → highest resident memory seen, MB.
    memory_mb: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def note_memory(self, kind: str, peak_mb: float) -> None:
        self.memory_mb[kind] = max(self.memory_mb.get(kind, 0.0), peak_mb)

    async def repeated(self, run: Callable[[], Awaitable[float]]) -> list[float]:
        """Take a fast figure as often as this kind of bench does, each from a clean slate."""
        values = []
        for _ in range(self.sizes.runs):
            await self.server.checkpoint()
            value = await run()
            values.append(value)
        return values


async def eventually(
    look: Callable[[], Awaitable[Found | None]],
    *,
    within_s: float,
    what: str,
    every_s: float = 0.05,
) -> Found:
    """Return what *look* finds, as soon as it finds something."""
    try:
        async with asyncio.timeout(within_s):
            while not (found := await look()):  # noqa: ASYNC110 - another process: nobody tells
                await asyncio.sleep(every_s)
            return found
    except TimeoutError:
        raise RuntimeError(f"not within {within_s:g} s: {what}") from None
