"""What keeps the database fit: partitions made ahead, rows that no longer mean anything dropped."""

from __future__ import annotations

from core.store.queries import query
from core.store.store import Store

_ENSURE_PARTITIONS = query("maintenance/ensure_partitions")
_FORGET_KEYS = query("maintenance/forget_keys")
_FORGET_WORKER_TOKENS = query("maintenance/forget_worker_tokens")


async def ensure_partitions(store: Store) -> int:
    """Make the next partition of every history table; return how many were made."""
    made: int = await store.db.fetchval(_ENSURE_PARTITIONS)
    return made


async def forget_expired(store: Store) -> None:
    """Drop idempotency keys and worker tokens that have expired."""
    await store.db.execute(_FORGET_KEYS)
    await store.db.execute(_FORGET_WORKER_TOKENS)
