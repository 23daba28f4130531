"""Make delayed tasks ready when their time has come."""

from __future__ import annotations

from core.store import reaping
from core.store.notify import Subscription
from core.store.store import Store


class Promoter:
    """The loop from `task_pending` to `task_ready`; wakes itself when the next task is due."""

    name = "promoter"

    def __init__(self, store: Store, wake: Subscription) -> None:
        self._store = store
        self._wake = wake
        self._due_s: float | None = None

    async def tick(self) -> int:
        """Promote what is due; return how many tasks."""
        promoted = await reaping.promote(self._store)
        # Asked here and not in `wait`, where no error of the database may come from.
        self._due_s = await reaping.next_due_s(self._store)
        return promoted

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up, but not beyond the moment the next task is due."""
        if self._due_s is not None:
            timeout_s = min(timeout_s, max(0.0, self._due_s))
        return await self._wake.wait(timeout_s)
