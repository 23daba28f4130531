"""Capability classes: what a task requires of a worker, matched when either is new.

A claim then needs no matching: a worker is offered tasks of its classes. Both sides of the match
are written under one advisory lock, so that a worker and a class that appear at the same moment
do not miss each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from core.domain.states import ISOLATION_RANK, Isolation
from core.store.pool import Queryable
from core.store.queries import query
from core.store.store import Store

_LOCK = query("workers/lock_capabilities")
_FIND = query("tasks/find_classes")
_ENSURE = query("tasks/ensure_class")
_CLASSES = query("tasks/classes")
_CAPABLE = query("workers/capable")
_LIVE = query("workers/live")
_FIT_CLASS = query("workers/fit_class")
_FIT = query("workers/fit")

PREPARE = "prepare"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a task requires."""

    #: Name of the engine; `prepare`, which every worker can do.
    engine: str
    #: PEP 440 range of its version, "" for any.
    version_range: str = ""
    #: Tag of the worker, "" for any worker.
    tag: str = ""
    isolation: Isolation = Isolation.GROUP


@dataclass(frozen=True, slots=True)
class Capability:
    """What a worker can do."""

    #: Engine name → version.
    engines: Mapping[str, str]
    tags: frozenset[str] = field(default_factory=frozenset)
    isolation: Isolation = Isolation.GROUP

    def fits(self, requirement: Requirement) -> bool:
        """Tell whether a worker that can do this may run a task that requires that."""
        if ISOLATION_RANK[self.isolation] < ISOLATION_RANK[requirement.isolation]:
            return False
        if requirement.tag and requirement.tag not in self.tags:
            return False
        if requirement.engine == PREPARE:
            return True
        version = self.engines.get(requirement.engine)
        return version is not None and version_fits(version, requirement.version_range)


def version_fits(version: str, version_range: str) -> bool:
    """Tell whether *version* lies in a PEP 440 range; one that is no version fits "" only."""
    if not version_range:
        return True
    try:
        return SpecifierSet(version_range).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


async def ensure_class(store: Store, requirement: Requirement) -> int:
    """Return the id of the class of *requirement*; a new one is matched with all workers."""
    [class_id] = await ensure_classes(store, [requirement])
    return class_id


async def ensure_classes(store: Store, requirements: Sequence[Requirement]) -> list[int]:
    """Return the ids of the classes of *requirements*; new ones are matched with all workers."""
    # Nearly always there, and matched then: classes are never dropped. Asked for each time, since
    # another server may have taken over that never heard of them.
    columns = zip(*map(_columns, requirements), strict=True)
    known = await store.db.fetch(_FIND, *map(list, columns)) if requirements else []
    return [
        await _made(store, requirement) if row["id"] is None else int(row["id"])
        for requirement, row in zip(requirements, known, strict=True)
    ]


def _columns(requirement: Requirement) -> tuple[str, str, str, str]:
    return (
        requirement.engine,
        requirement.version_range,
        requirement.tag,
        requirement.isolation.value,
    )


async def _made(store: Store, requirement: Requirement) -> int:
    async with store.db.transaction() as connection:
        await connection.execute(_LOCK)
        row = await connection.fetchrow(_ENSURE, *_columns(requirement))
        assert row is not None  # made or found, under the lock
        if row["is_new"]:
            workers = await connection.fetch(_CAPABLE)
            fitting = [
                w["id"]
                for w in workers
                if capability(w["engines"], w["tags"], w["isolation"]).fits(requirement)
            ]
            await connection.execute(_FIT_CLASS, row["id"], fitting)
        return int(row["id"])


async def match_worker(connection: Queryable, worker_id: int, capability: Capability) -> None:
    """Write which classes a worker fits; in the transaction that writes the worker."""
    await connection.execute(_LOCK)
    rows = await connection.fetch(_CLASSES)
    fitting = [
        row["id"]
        for row in rows
        if capability.fits(
            Requirement(
                row["engine"], row["version_range"], row["tag"], Isolation(row["isolation"])
            )
        )
    ]
    await connection.execute(_FIT, worker_id, fitting)


async def live_engines(store: Store, tag: str | None) -> dict[str, list[dict[str, Any]]]:
    """Return what live workers with *tag* offer, by the engine's name.

    Each offer is a mapping with `name`, `version`, `module` and `languages`.
    """
    offers: dict[str, list[dict[str, Any]]] = {}
    for worker in await store.db.fetch(_LIVE, tag or None):
        for engine in worker["engines"]:
            offers.setdefault(engine["name"], []).append(engine)
    return offers


def capability(
    engines: Sequence[Mapping[str, Any]], tags: Sequence[str], isolation: str
) -> Capability:
    """Return what a worker with these columns can do."""
    return Capability(
        engines={engine["name"]: engine["version"] for engine in engines},
        tags=frozenset(tags),
        isolation=Isolation(isolation),
    )
