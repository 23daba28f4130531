"""Whether anything is ready: what an idle api asks, not for each worker that waits."""

from __future__ import annotations

from core.store.queries import query
from core.store.store import Store

_ANY_READY = query("tasks/any_ready")


async def any_ready(store: Store) -> bool:
    """Tell whether any task is ready, whomever it fits."""
    found: bool = await store.db.fetchval(_ANY_READY)
    return found
