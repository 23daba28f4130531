"""Workers on the wire, as operators see them."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class WorkerEngine(TypedDict):
    """An engine a worker offers."""

    name: str
    version: str
    module: str
    languages: list[str]


class WorkerQuarantine(TypedDict):
    """Why a worker is offered nothing."""

    #: What its last attempt died of.
    reason: str
    #: Then it is offered one task, and after its good end everything; in the past: it is at that.
    until: str
    #: Attempts in a row that died of its own fault.
    faults: int


class WorkerItem(TypedDict):
    """A worker."""

    id: int
    name: str
    #: `live`, `draining`, `paused`, `quarantined` or `lost`
    state: Literal["live", "draining", "paused", "quarantined", "lost"]
    version: str
    isolation: str
    tags: list[str]
    engines: list[WorkerEngine]
    slots: int
    slots_used: int
    #: Attempts it holds, offered ones included.
    attempts: list[int]
    register_time: str
    last_seen: str | None
    #: Null: none, nor is it on probation after one.
    quarantine: WorkerQuarantine | None


class Directed(TypedDict):
    """What a worker was asked for."""

    id: int
    #: `drain`, `pause`; null: go on.
    directive: Literal["drain", "pause"] | None
