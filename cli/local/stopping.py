"""What a first and a second Ctrl-C (or SIGTERM) do to work that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from core.runtime.signals import StopSignals

Result = TypeVar("Result")


async def until_stopped(work: Coroutine[Any, Any, Result], stop: StopSignals) -> Result | None:
    """Run *work*; a first signal cancels it, and it ends in its own order. None: it was stopped."""
    task = asyncio.create_task(work, name="kennel-work")
    stopping = asyncio.create_task(stop.drain.wait(), name="kennel-stop")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    finally:
        stopping.cancel()
        task.cancel()
    return None if task.cancelled() else task.result()
