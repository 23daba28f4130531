"""How many closed jobs there are, kept as counts, so that no list has to count them.

Owns `uncounted_jobs` (one row for each job that closed, written by a trigger), `job_labels` and
`job_counts`. A job is in the first or in the counts, never in both and never in neither: whoever
adds the two up in one snapshot has the exact number. Only one at a time changes the counts.
"""

from __future__ import annotations

from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store

_LOCK = query("counts/lock")
_ENLIST = query("counts/enlist")
_FOLD = query("counts/fold")

#: Jobs counted in one transaction.
BATCH = 5000


async def count_closed(store: Store, *, limit: int = BATCH) -> int:
    """Count jobs that have closed since; return how many, 0 also where another one is at it."""

    async def attempt() -> int:
        async with store.db.transaction() as connection:
            if not await connection.fetchval(_LOCK):
                return 0
            # Each a statement of its own: what one wrote the next must see.
            batch = await connection.fetch(_ENLIST, limit)
            if not batch:
                return 0
            projects = [row["project_id"] for row in batch]
            jobs = [row["job_id"] for row in batch]
            counted: int = await connection.fetchval(_FOLD, projects, jobs)
            return counted

    return await retrying(attempt)
