"""Put pending tasks into the queue: when they are to be tried again, when their limit has room."""

from __future__ import annotations

import asyncio

from core.domain.clock import Clock, SystemClock
from core.runtime.logs import get_logger
from core.store import reaping, shares
from core.store.notify import Subscription
from core.store.reaping import Pending
from core.store.shares import LimitKey
from core.store.store import Store
from scheduler.fairness import choose

log = get_logger(__name__)

#: How often tasks are counted that came into the queue before their limit was set, and the clocks
#: of projects without a backlog are forgotten, seconds.
HOUSEKEEPING_S = 5.0


class Promoter:
    """The loop from `task_pending` to `task_ready`; wakes itself when the next task is due."""

    name = "promoter"

    def __init__(
        self,
        store: Store,
        wake: Subscription,
        *,
        ends: Subscription | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Promote what is pending in *store*.

        Args:
            store: The store.
            wake: Wakes when something has become pending, or a limit has changed.
            ends: Wakes when tasks have ended; heard only while tasks wait for a limit.
            clock: Tells when to keep house.
        """
        self._store = store
        self._wake = wake
        self._ends = ends
        self._clock = clock or SystemClock()
        self._pending = Pending(None, is_waited=False, has_clocks=False)
        self._kept_house_at: float | None = None
        #: Of the last promotion.
        self._limits: set[LimitKey] = set()

    async def tick(self) -> int:
        """Promote what is due and what the limits allow; return how many tasks."""
        # Asked here and not in `wait`, where no error of the database may come from.
        self._pending = found = await reaping.pending(self._store)
        keeps_house = (found.has_clocks or found.is_waited) and self._keeps_house()
        if keeps_house:
            await shares.forget(self._store)
        promoted = 0
        if found.due_s is not None and found.due_s <= 0:
            promoted += await reaping.promote(self._store)
        if found.is_waited:
            promoted += await shares.promote(
                self._store, choose, recount=keeps_house, known=self._limits
            )
        if promoted:
            log.debug("tasks.promoted", tasks=promoted)
        return promoted

    def _keeps_house(self) -> bool:
        now = self._clock.monotonic()
        is_due = self._kept_house_at is None or now >= self._kept_house_at + HOUSEKEEPING_S
        if is_due:
            self._kept_house_at = now
        return is_due

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up, but not beyond the moment the next task is due."""
        if self._pending.due_s is not None:
            timeout_s = min(timeout_s, max(0.0, self._pending.due_s))
        if not self._pending.is_waited or self._ends is None:
            return await self._wake.wait(timeout_s)
        waits = [
            asyncio.create_task(source.wait(timeout_s), name=f"kennel-promoter-wake-{n}")
            for n, source in enumerate((self._wake, self._ends))
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return any(task.result() for task in done)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
