"""Add closed jobs to the counts the lists read; readers count what it has not got to yet."""

from __future__ import annotations

from core.store import counting
from core.store.store import Store


class Tallier:
    """The loop from `uncounted_jobs` to `job_counts`; woken by the lookout, which sees them."""

    name = "tallier"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tick(self) -> int:
        """Count one batch; return how many jobs, 0 also while another scheduler does it."""
        return await counting.count_closed(self._store)
