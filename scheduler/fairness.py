"""Who goes first: pure functions from facts to the queue's sort key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

#: One step of priority counts as much as having waited this much longer. Finite, so that nothing
#: of lower priority waits for ever.
PRIORITY_BONUS = timedelta(minutes=5)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sort_key(created_at: datetime, priority: int) -> int:
    """Return the place in the queue of a job's tasks, µs; smaller goes first.

    Args:
        created_at: When the job was created: first come, first served.
        priority: Of the scheme; higher goes earlier.
    """
    return (created_at - _EPOCH - priority * PRIORITY_BONUS) // timedelta(microseconds=1)
