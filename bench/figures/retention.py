"""Retention of a million tasks: the oldest partitions dropped as the scheduler drops them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from bench.harness import kennel
from bench.harness.bigdatabase import big_database
from bench.harness.context import Context
from bench.harness.results import Figure, at_most
from core.store import maintenance

_GOAL = at_most(1.0)
#: All of the history is older, all of what figures did since is younger.
_KEPT = timedelta(minutes=55)


async def measure(context: Context) -> Sequence[Figure]:
    """Drop the oldest range of ids from the big database, last of all that need it."""
    big = await big_database(context)
    async with kennel.open_store(context.server, big.name, connections=2) as store:
        before = await store.db.fetchval("SELECT count(*) FROM tasks")
        await context.server.checkpoint()
        begun = time.perf_counter()
        dropped = await maintenance.drop_partitions(store, _KEPT)
        seconds = time.perf_counter() - begun
        rows = before - await store.db.fetchval("SELECT count(*) FROM tasks")
    if not dropped or not rows:
        raise RuntimeError("nothing was dropped")
    return [
        Figure(
            "retention",
            seconds,
            "s",
            _GOAL,
            how=f"{rows:,} tasks with all that belongs to them, whole partitions",
            detail={"dropped": ", ".join(dropped), "tasks": rows},
        )
    ]
