"""Keep the database fit: make partitions before they are needed, drop what has expired."""

from __future__ import annotations

from core.runtime.logs import get_logger
from core.store import maintenance
from core.store.store import Store

log = get_logger(__name__)

#: How often it looks, seconds.
INTERVAL_S = 600.0


class Pruner:
    """The loop of housekeeping."""

    name = "pruner"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tick(self) -> int:
        """Do the housekeeping once; there is never more to do at once."""
        made = await maintenance.ensure_partitions(self._store)
        if made:
            log.info("partitions.made", partitions=made)
        await maintenance.forget_expired(self._store)
        return 0
