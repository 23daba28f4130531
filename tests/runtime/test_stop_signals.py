"""The first signal drains, the second aborts, and the handlers before come back."""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType

import pytest

from core.runtime.signals import StopSignals

DEADLINE_S = 10.0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains_and_the_second_aborts(
    first: signal.Signals, second: signal.Signals
) -> None:
    async with asyncio.timeout(DEADLINE_S), StopSignals() as stop:
        os.kill(os.getpid(), first)
        await stop.drain.wait()
        assert not stop.abort.is_set()

        os.kill(os.getpid(), second)
        await stop.abort.wait()

        os.kill(os.getpid(), second)
        await asyncio.get_running_loop().run_in_executor(None, os.getpid)


async def test_a_drain_that_somebody_else_asked_for_makes_the_next_signal_an_abort() -> None:
    async with asyncio.timeout(DEADLINE_S), StopSignals() as stop:
        stop.drain.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.abort.wait()


async def test_the_handlers_before_come_back_even_after_an_error() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise AssertionError

    async def fail() -> None:
        async with StopSignals():
            assert signal.getsignal(signal.SIGTERM) is not handler
            raise KeyError

    before = signal.signal(signal.SIGTERM, handler)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyError):
            await fail()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
