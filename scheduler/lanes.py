"""The jobs of one iteration side by side: while one waits for the disk, the next is worked on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")

#: Jobs one loop works on at the same time: few enough to leave the others a connection each.
LANES = 3


async def abreast(
    items: Iterable[Item], work: Callable[[Item], Awaitable[bool | None]], *, lanes: int = LANES
) -> int:
    """Do *work* on each of *items*, begun in their order; return for how many it came true.

    An error ends all of it and is raised, once nothing of it is under way any more.
    """
    rest = iter(items)
    done = 0

    async def lane() -> None:
        nonlocal done
        for item in rest:
            came_true = await work(item)
            done += bool(came_true)

    tasks = [asyncio.create_task(lane(), name=f"kennel-lane-{n}") for n in range(lanes)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return done
