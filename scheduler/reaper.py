"""Return tasks of lost workers to the queue. Decides by the lease alone; never asks the worker."""

from __future__ import annotations

from core.runtime.logs import get_logger
from core.runtime.settings import Settings
from core.store import reaping
from core.store.store import Store

log = get_logger(__name__)


class Reaper:
    """The loop over leases and offers that ran out."""

    name = "reaper"

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._lease = settings.lease
        self._retry = settings.scheduler
        self._window = reaping.Window()

    async def tick(self) -> int:
        """Take what ran out; return how much that was."""
        silent = await reaping.reap(self._store, lease_s=self._lease.lease_s, retry=self._retry)
        offers = await reaping.expire_offers(self._store, start_s=self._lease.start_s)
        swept = await reaping.sweep_leftovers(self._store, self._window)
        if silent or offers or swept:
            log.warning("leases.reaped", silent_workers=silent, offers=offers, closed_jobs=swept)
        return silent + offers + swept
