"""What is tried again, and what is not."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from core.store.pool import retrying


async def test_a_cancelled_operation_is_not_tried_again_whatever_its_roll_back_says() -> None:
    tries = 0
    begun = asyncio.Event()

    async def operation() -> None:
        nonlocal tries
        tries += 1
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed") from None

    task = asyncio.create_task(retrying(operation))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert tries == 1
