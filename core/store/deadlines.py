"""Jobs past their time: waiting or running past the deadline, saved for too long."""

from __future__ import annotations

from dataclasses import dataclass

from core.domain.ids import JobId
from core.domain.states import JobPhase
from core.store.queries import query
from core.store.store import Store

_OVERDUE = query("jobs/overdue")
_OVERDUE_SAVING = query("jobs/overdue_saving")


@dataclass(frozen=True, slots=True)
class Overdue:
    """A job past its deadline."""

    job_id: JobId
    phase: JobPhase
    #: False: a task of it waits that no live worker can run.
    has_fitting_workers: bool


async def overdue(store: Store, *, limit: int) -> list[Overdue]:
    """Return open jobs past their deadline, longest overdue first; not those being saved."""
    return [
        Overdue(JobId(row["job_id"]), JobPhase(row["phase"]), row["has_fitting_workers"])
        for row in await store.db.fetch(_OVERDUE, limit)
    ]


async def overdue_saving(store: Store, *, limit_s: float, limit: int) -> list[JobId]:
    """Return jobs that have been saved for longer than *limit_s* seconds."""
    rows = await store.db.fetch(_OVERDUE_SAVING, limit_s, limit)
    return [JobId(row["job_id"]) for row in rows]
