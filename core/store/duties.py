"""One look at the database for all loops of a scheduler: which has work, and when the next has.

What the loops then do is decided anew by their own statements: a look is a hint, and cheap.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.store.maintenance import MOST_DEAD_ROWS
from core.store.queries import query
from core.store.store import Store

_LOOK = query("maintenance/look")


@dataclass(frozen=True, slots=True)
class Duties:
    """Seconds until each loop may find work; zero or less: now; None: not before it is told."""

    admitter: float | None
    planner: float | None
    settler: float | None
    promoter: float | None
    reaper: float | None
    #: Zero while there are tasks: those of closed jobs may be among them. The reaper's, too.
    sweeper: float | None
    expirer: float | None
    #: Closed jobs that are not counted yet.
    tallier: float | None
    #: Hot tables with many dead rows.
    vacuumer: float | None


async def look(store: Store, *, lease_s: float, start_s: float, saving_limit_s: float) -> Duties:
    """Return what there is to do, and what will be by the passing of time alone."""
    row = await store.db.fetchrow(_LOOK, lease_s, start_s, saving_limit_s, MOST_DEAD_ROWS)
    assert row is not None  # it has no FROM
    return Duties(**row)
