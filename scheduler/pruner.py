"""Keep the database fit: partitions ahead of need, old history dropped."""

from __future__ import annotations

from datetime import timedelta

from core.runtime.logs import get_logger
from core.runtime.settings import SchedulerSettings
from core.store import maintenance
from core.store.store import Store

log = get_logger(__name__)

#: How often it looks, seconds.
INTERVAL_S = 60.0
#: Parts the history's time is cut into: by so much longer than asked for it may be kept.
PARTS = 10
#: What is old is looked for every so many times: it has been there for days, and an idle server is
#: to be left alone. Where there is more of it, the next time.
SELDOM = 5


class Pruner:
    """The loop of housekeeping."""

    name = "pruner"

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self._store = store
        self._history = timedelta(days=settings.history_days)
        self._jobs = timedelta(days=settings.jobs_days)
        #: Id of the job up to which the old ones were looked at.
        self._looked_to = 0
        #: Times until what is old is looked for.
        self._rests = 0

    async def tick(self) -> int:
        """Do the housekeeping once; return how much was deleted, and there may be more of."""
        # Each time: a busy server fills a partition in minutes.
        made = await maintenance.ensure_partitions(self._store)
        if made:
            log.info("partitions.made", partitions=made)
        if self._rests:
            self._rests -= 1
            return 0
        deleted = await self._prune()
        self._rests = 0 if deleted else SELDOM - 1
        return deleted

    async def _prune(self) -> int:
        lasts = max(self._history / PARTS, timedelta(days=1))
        if await maintenance.turn_partitions(self._store, lasts):
            await maintenance.ensure_partitions(self._store)
        await maintenance.forget_expired(self._store)
        dropped = await maintenance.drop_partitions(self._store, self._history)
        if dropped:
            log.info("partitions.dropped", partitions=dropped)
        workers = await maintenance.forget_workers(self._store, self._history)
        jobs = await maintenance.forget_jobs(self._store, self._jobs, after=self._looked_to)
        self._looked_to = jobs.go_on_after or 0
        if workers or jobs.jobs:
            log.info("history.forgotten", jobs=jobs.jobs, workers=workers)
        return len(dropped) + workers + jobs.jobs + (jobs.go_on_after is not None)
