"""The figures, one module each with one `measure(context)`, in the order they run.

What the big history spoils comes first, what needs it last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from bench.figures import (
    cancel,
    claims_http,
    claims_store,
    create,
    fairness,
    history,
    idle,
    latency,
    listing,
    memory,
    recovery,
    retention,
    snapshot,
    start,
)
from bench.harness.context import Context
from bench.harness.results import Figure

Measure: TypeAlias = Callable[[Context], Awaitable[Sequence[Figure]]]

FIGURES: Mapping[str, Measure] = {
    "create": create.measure,
    "claims_store": claims_store.measure,
    "claims_http": claims_http.measure,
    "latency": latency.measure,
    "start": start.measure,
    "cancel": cancel.measure,
    "fairness": fairness.measure,
    "idle": idle.measure,
    "recovery": recovery.measure,
    "snapshot": snapshot.measure,
    "history": history.measure,
    "listing": listing.measure,
    "retention": retention.measure,
    "memory": memory.measure,
}
