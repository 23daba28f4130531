"""What keeps the database fit: partitions made and dropped, old rows deleted, hot tables vacuumed.

Finished history goes by ranges of ids, a table at a time: whatever a range held, dropping it costs
the same. A range is dropped only when it holds no task of an open job. Everything here may run in
several processes at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from core.store.queries import query
from core.store.store import Store

_ENSURE_PARTITIONS = query("maintenance/ensure_partitions")
_TURN_PARTITIONS = query("maintenance/turn_partitions")
_DROP_PARTITIONS = query("maintenance/drop_partitions")
_FORGET_KEYS = query("maintenance/forget_keys")
_FORGET_WORKER_TOKENS = query("maintenance/forget_worker_tokens")
_FORGET_WORKERS = query("maintenance/forget_workers")
_FORGET_JOBS = query("maintenance/forget_jobs")
_LOCK_COUNTS = query("counts/lock")
_HAS_DEAD_ROWS = query("maintenance/has_dead_rows")
_VACUUM = query("maintenance/vacuum")

#: Jobs looked at, and deleted at most, in one transaction.
JOBS_AT_ONCE = 1000
#: Dead rows of a hot table that every claim may have to walk over.
MOST_DEAD_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one look at old jobs came to."""

    jobs: int
    #: Where to look on; None: whatever comes is not so old.
    go_on_after: int | None


async def ensure_partitions(store: Store) -> int:
    """Make the next partition of every history table; return how many were made."""
    made: int = await store.db.fetchval(_ENSURE_PARTITIONS)
    return made


async def turn_partitions(store: Store, lasts: timedelta) -> int:
    """Begin a new range of ids where the present one is older than *lasts*; return how many.

    Without it a server with few tasks would keep its first range, and what is in it, for years.
    """
    turned: int = await store.db.fetchval(_TURN_PARTITIONS, lasts)
    return turned


async def drop_partitions(store: Store, kept: timedelta) -> list[str]:
    """Drop the oldest range of the history if all in it ended longer than *kept* ago.

    It takes the tables for itself, for the moment a drop takes; where it does not get them at
    once it gives up, since whoever came after it would have to wait as well.

    Returns:
        The partitions dropped; none also where something was in the way.
    """
    try:
        dropped: list[str] = await store.db.fetchval(_DROP_PARTITIONS, kept)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return []
    return dropped


async def forget_expired(store: Store) -> None:
    """Drop idempotency keys and worker tokens that have expired."""
    await store.db.execute(_FORGET_KEYS)
    await store.db.execute(_FORGET_WORKER_TOKENS)


async def forget_workers(store: Store, kept: timedelta) -> int:
    """Delete workers lost longer than *kept* ago; return how many."""
    forgotten: int = await store.db.fetchval(_FORGET_WORKERS, kept)
    return forgotten


async def forget_jobs(
    store: Store, kept: timedelta, *, after: int, limit: int = JOBS_AT_ONCE
) -> Forgotten:
    """Delete jobs that closed longer than *kept* ago, of the next *limit* after the id *after*."""
    async with store.db.transaction() as connection:
        if not await connection.fetchval(_LOCK_COUNTS):
            return Forgotten(0, None)
        row = await connection.fetchrow(_FORGET_JOBS, kept, after, limit)
    assert row is not None  # an aggregate
    return Forgotten(row["forgotten"], row["go_on_after"])


async def vacuum_hot_tables(store: Store, *, most_dead_rows: int = MOST_DEAD_ROWS) -> bool:
    """Vacuum the queue's tables where autovacuum does not keep up; tell whether it did."""
    if not await store.db.fetchval(_HAS_DEAD_ROWS, most_dead_rows):
        return False
    await store.db.execute(_VACUUM)
    return True
