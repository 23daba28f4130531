"""Vacuum the hot tables as soon as many dead rows lie in them: autovacuum looks once a minute.

It is also what ends plans that were made while such a table was small and read it from end to
end: PostgreSQL makes them anew once a vacuum has noted how large the table has become, even where
an old snapshot lets it clean nothing away.
"""

from __future__ import annotations

from core.runtime.logs import get_logger
from core.store import maintenance
from core.store.store import Store

log = get_logger(__name__)


class Vacuumer:
    """The loop that vacuums; woken by the lookout, which sees dead rows."""

    name = "vacuumer"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tick(self) -> int:
        """Vacuum where it is due; nothing is left to do then."""
        if await maintenance.vacuum_hot_tables(self._store):
            log.debug("queue.vacuumed")
        return 0
