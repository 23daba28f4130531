"""The highest resident memory of each kind of process, over all the figures before."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness.context import Context
from bench.harness.results import Figure, at_most, unmeasured

_GOAL = at_most(150)


async def measure(context: Context) -> Sequence[Figure]:
    """Report what each process of this run said of itself before it ended."""
    return [
        Figure(
            f"memory_{kind}",
            context.memory_mb[kind],
            "MB",
            _GOAL,
            how="highest resident memory of any such process under the loads of this run",
        )
        if kind in context.memory_mb
        else unmeasured(f"memory_{kind}", "MB", "no such process ran", goal=_GOAL)
        for kind in ("api", "scheduler", "worker")
    ]
