"""How a process is asked to stop: the first SIGTERM or SIGINT drains, the second aborts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from core.runtime.logs import get_logger

log = get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Previous = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """The two events a service waits for; `async with` installs and restores the handlers.

    Main thread only, as the standard library has it.
    """

    def __init__(self) -> None:
        #: Take no more work, finish what runs.
        self.drain = asyncio.Event()
        #: Stop what runs.
        self.abort = asyncio.Event()
        self._previous: dict[signal.Signals, _Previous] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            self._previous[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self._receive, number)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number, previous in self._previous.items():
            loop.remove_signal_handler(number)
            # None: installed by something that is not Python, and not ours to put back.
            if previous is not None:
                signal.signal(number, previous)

    def _receive(self, number: signal.Signals) -> None:
        is_second = self.drain.is_set()
        (self.abort if is_second else self.drain).set()
        log.info("signal.received", signal=number.name, meaning="abort" if is_second else "drain")
