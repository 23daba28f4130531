"""Which attempts a worker holds, from the offer to the end of what ran: slots and orders.

A slot is taken by the offer and given back when nothing of the attempt runs any more. Orders
and leases from heartbeats reach attempts through here, and results that wait through the
reporter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from core.protocol.messages import Beat, HeartbeatResponse, TaskSpec
from core.runtime.logs import get_logger
from worker.attempt import Attempt, Fate
from worker.reporting import Reporter

log = get_logger(__name__)

#: Attempts one heartbeat can name.
MAX_HELD = 1024


class Roster:
    """The attempts of one worker."""

    def __init__(
        self, slots: int, reporter: Reporter, *, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.slots = slots
        #: Set while no slot is taken.
        self.empty = asyncio.Event()
        self.empty.set()
        self._reporter = reporter
        self._on_change = on_change
        #: Offered, not confirmed as started.
        self._starting: set[int] = set()
        #: Greatest id that was offered; None: nothing was.
        self._latest: int | None = None
        self._attempts: dict[int, Attempt] = {}

    def busy(self) -> int:
        """Return how many slots are taken."""
        return len(self._starting) + len(self._attempts)

    def free(self) -> int:
        """Return how many tasks may be claimed."""
        held = self.busy() + self._reporter.waiting()
        return max(0, min(self.slots - self.busy(), MAX_HELD - held))

    def reserve(self, offered: Sequence[TaskSpec]) -> list[TaskSpec]:
        """Take slots for *offered*; return those that got one and are not held already."""
        taken = []
        for spec in offered:
            self._latest = max(self._latest or 0, spec.attempt_id)
            if spec.attempt_id in self._starting or spec.attempt_id in self._attempts:
                continue
            if self.free() == 0:
                log.warning("task.left", attempt_id=spec.attempt_id, why="no free slot")
                continue
            self._starting.add(spec.attempt_id)
            taken.append(spec)
        self._changed()
        return taken

    def begin(self, attempt: Attempt) -> None:
        """Turn a reserved slot into a running attempt's."""
        self._starting.discard(attempt.spec.attempt_id)
        self._attempts[attempt.spec.attempt_id] = attempt
        self._changed()

    def release(self, attempt_id: int) -> None:
        """Give a slot back; unknown ids do nothing."""
        self._starting.discard(attempt_id)
        self._attempts.pop(attempt_id, None)
        self._changed()

    def beats(self) -> list[Beat]:
        """Return what a heartbeat says: all whose lease is ours, each once."""
        beats = {one.spec.attempt_id: one.beat() for one in self._attempts.values()}
        beats |= {beat.attempt_id: beat for beat in self._reporter.beats()}
        # Naming what the server disowned would only bring the same order again.
        for attempt in self._attempts.values():
            if attempt.is_disowned:
                beats.pop(attempt.spec.attempt_id, None)
        return list(beats.values())[:MAX_HELD]

    def begun_to(self) -> int | None:
        """Return up to which id attempts have begun or never will; None: none was offered."""
        return min(self._starting) - 1 if self._starting else self._latest

    def extend_leases(self) -> None:
        """Pass the lease of a confirmed heartbeat on to all that run."""
        for attempt in self._attempts.values():
            attempt.extend_lease()

    def obey(self, answer: HeartbeatResponse) -> None:
        """Carry out the orders about single attempts."""
        for order in answer.cancel:
            self._disown(order.attempt_id, order.mode, order.reason)
        for attempt_id in answer.unknown:
            self._disown(attempt_id, "abort", "unknown")

    def _disown(self, attempt_id: int, mode: Literal["graceful", "abort"], why: str) -> None:
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            log.info("attempt.stop_ordered", attempt_id=attempt_id, mode=mode, why=why)
            attempt.stop(mode, Fate.DROP)
        else:
            self._reporter.drop(attempt_id)

    def stop_all(self, mode: Literal["graceful", "abort"], fate: Fate) -> int:
        """Tell all attempts to end; return how many there are."""
        for attempt in list(self._attempts.values()):
            attempt.stop(mode, fate)
        return len(self._attempts)

    def _changed(self) -> None:
        if self.busy():
            self.empty.clear()
        else:
            self.empty.set()
        self._on_change()
