"""Shares of the queue: where a job's tasks stand in its order, and how many may be in it.

A project's clock is the last place it has reserved. Clocks are worth nothing once what they
stand for is done, so they live in an unlogged table: a crash forgets them, and a statement that
charges one waits for no disk.

A limit is kept where tasks enter the queue. Tasks of a limited organisation, project or engine
are pending first; one promotion at a time in the whole database, whichever scheduler's, moves
them, and notes each as granted. A grant is over when its task is neither in the queue nor on a
worker. What is counted is therefore never more than the limits allow, however long the backlog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.domain.ids import ProjectId, TaskId
from core.domain.states import PendingReason
from core.store.pool import Queryable, retrying
from core.store.queries import query
from core.store.store import Store

_RESERVE = query("shares/reserve")
_FORGET = query("shares/forget")
_LOCK = query("shares/lock")
_ADOPT = query("shares/adopt")
_RELEASE = query("shares/release")
_USED = query("shares/used")
_WAITING = query("shares/waiting")
_GRANT = query("shares/grant")
_RESTATE = query("shares/restate")
_SET_ENGINE = query("shares/set_engine")
_CLEAR_ENGINE = query("shares/clear_engine")
_ENGINES = query("shares/engines")

#: Tasks of one project and engine looked at by one promotion, and such streams.
_WINDOW = 20
_STREAMS = 500

#: A limit's name and what it is of: an organisation's or project's id, an engine's name.
LimitKey = tuple[PendingReason, int | str]


@dataclass(frozen=True, slots=True)
class Reserved:
    """Places in the queue's order for the tasks of a job: *first*, first + step, …"""

    #: ns of virtual time
    first: int
    step: int


@dataclass(frozen=True, slots=True)
class Limited:
    """A task that waits for a limit."""

    task_id: TaskId
    project_id: ProjectId
    sort_key: int
    #: All that may limit it: its organisation, its project, its engine.
    keys: tuple[LimitKey, LimitKey, LimitKey]
    org_weight: int = 1
    weight: int = 1


Choose = Callable[
    [Iterable[Limited], Mapping[LimitKey, int], Mapping[LimitKey, int]], list[Limited]
]


async def reserve(
    store: Store, project_id: ProjectId, tasks: int, *, cost: int, bonus: int, horizon_s: float
) -> Reserved:
    """Reserve places for the *tasks* of a project's next job, behind those it reserved before.

    Args:
        store: The store.
        project_id: The project.
        tasks: How many.
        cost: Of one task at a share of one, ns of virtual time.
        bonus: What a step of priority is worth, ns.
        horizon_s: What waits for longer is not overtaken by anything new.
    """
    row = await retrying(
        lambda: store.db.fetchrow(_RESERVE, project_id, tasks, cost, bonus, horizon_s)
    )
    assert row is not None  # projects are never deleted
    return Reserved(row["first_place"], row["step"])


async def forget(store: Store) -> None:
    """Drop the clocks of projects that have no backlog: past use is held against nobody."""
    await store.db.execute(_FORGET)


async def promote(
    store: Store, choose: Choose, *, recount: bool, known: set[LimitKey] | None = None
) -> int:
    """Put into the queue what the limits allow now; return how many tasks.

    Args:
        store: The store.
        choose: Which of the waiting, from what is used and the limits.
        recount: Also count what came into the queue before its limit was set.
        known: The limits of the last promotion, replaced by those of this one. Where one is new,
            what was in the queue before it is counted first. None: there was none.
    """
    known = set() if known is None else known

    async def attempt() -> tuple[int, Iterable[LimitKey]]:
        async with store.db.transaction() as connection:
            await connection.execute(_LOCK)
            if recount:
                await connection.execute(_ADOPT)
            await connection.execute(_RELEASE)
            used, limits = await _used(connection)
            if not recount and not limits.keys() <= known:
                await connection.execute(_ADOPT)
                used, limits = await _used(connection)
            chosen = choose(await _waiting(connection), used, limits)
            granted = await connection.fetch(_GRANT, [task.task_id for task in chosen])
            if recount:
                await connection.execute(_RESTATE, _STREAMS, _WINDOW)
            return len(granted), limits

    promoted, limits = await retrying(attempt)
    known.clear()
    known.update(limits)
    if promoted:
        store.signals.publish("tasks")
    return promoted


async def _used(connection: Queryable) -> tuple[dict[LimitKey, int], dict[LimitKey, int]]:
    rows = await connection.fetch(_USED)
    keys = [_key(row["reason"], row["id"], row["engine"]) for row in rows]
    return (
        {key: row["used"] for key, row in zip(keys, rows, strict=True)},
        {
            key: row["max_running"]
            for key, row in zip(keys, rows, strict=True)
            if row["max_running"] is not None
        },
    )


async def _waiting(connection: Queryable) -> list[Limited]:
    return [
        Limited(
            TaskId(row["task_id"]),
            ProjectId(row["project_id"]),
            row["sort_key"],
            (
                (PendingReason.LIMIT_ORGANIZATION, row["org_id"]),
                (PendingReason.LIMIT_PROJECT, row["project_id"]),
                (PendingReason.LIMIT_ENGINE, row["engine"]),
            ),
            row["org_weight"],
            row["weight"],
        )
        for row in await connection.fetch(_WAITING, _STREAMS, _WINDOW)
    ]


def _key(reason: str, of_id: int | None, engine: str | None) -> LimitKey:
    of_what = of_id if of_id is not None else engine
    assert of_what is not None  # the statement gives one of the two
    return PendingReason(reason), of_what


@dataclass(frozen=True, slots=True)
class ShareChange:
    """What changes of an organisation's or project's share of the queue."""

    #: None: stays.
    weight: int | None = None
    #: Whether the limit changes; to None: not limited.
    sets_limit: bool = False
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class EngineLimit:
    """How many tasks of an engine may be in the queue and on workers at the same time."""

    engine: str
    max_running: int


async def set_engine_limit(store: Store, engine: str, max_running: int | None) -> None:
    """Limit an engine, or (None) no longer."""
    if max_running is None:
        await store.db.execute(_CLEAR_ENGINE, engine)
    else:
        await store.db.execute(_SET_ENGINE, engine, max_running)
    limits_changed(store)


async def engine_limits(store: Store) -> list[EngineLimit]:
    """Return the limits of engines, by name."""
    return [_engine_limit(row) for row in await store.db.fetch(_ENGINES)]


def limits_changed(store: Store) -> None:
    """Have a scheduler look at what waits for limits."""
    store.signals.publish("delayed")


def _engine_limit(row: Any) -> EngineLimit:
    return EngineLimit(row["engine"], row["max_running"])
