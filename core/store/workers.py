"""Workers: who they are, what they can do, whether they live, what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import asyncpg

from core.domain.errors import KennelError
from core.domain.ids import AttemptId, TokenId, WorkerId
from core.runtime.settings import SchedulerSettings
from core.store.classes import capability, match_worker
from core.store.pool import Queryable, retrying
from core.store.queries import query
from core.store.reaping import lose_attempts
from core.store.store import Store, worker_topic
from core.store.tokens import spend_enrolment

_REGISTER = query("workers/register")
_KNOWN = query("workers/known")
_BEAT = query("workers/beat")
_RELEASE = query("attempts/release")
_BY_TOKEN = query("workers/by_token")
_ADD_TOKEN = query("workers/add_token")
_REPEATED = query("workers/repeated")
_DIRECT = query("workers/direct")
_LIST = query("workers/list")

#: A rotated token stays valid this long, seconds: calls under way end well.
TOKEN_GRACE_S = 60.0


class EnrolmentSpent(KennelError):
    """The enrolment token was used for another worker, expired, or was revoked."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker says of itself."""

    name: str
    instance_hash: bytes
    tags: Sequence[str]
    #: Each a mapping with `name`, `version`, `module` and `languages`.
    engines: Sequence[dict[str, Any]]
    slots: int
    isolation: str
    version: str


@dataclass(frozen=True, slots=True)
class WorkerToken:
    """What a registration buys."""

    token_hash: bytes
    #: Its life, seconds.
    ttl_s: float


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker token belongs to."""

    worker_id: WorkerId
    name: str
    #: `drain`, `pause` or None.
    directive: str | None
    #: Quarantined or, after that, on probation: one task at a time.
    is_suspended: bool


#: What a worker is to those who wait for one.
WorkerState: TypeAlias = Literal["live", "lost", "draining", "paused", "quarantined"]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a worker is offered nothing, and until when; in the past: it is on probation."""

    #: The reason its last attempt died of (`core.domain.outcomes.WORKER_FAULTS`).
    reason: str
    until: datetime
    #: Attempts in a row that died of its own fault.
    faults: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as operators see it."""

    id: WorkerId
    name: str
    tags: list[str]
    engines: list[dict[str, Any]]
    slots: int
    isolation: str
    version: str
    state: WorkerState
    quarantine: Quarantine | None
    registered_at: datetime
    #: None: not since the database's last crash.
    seen_at: datetime | None
    attempt_ids: list[AttemptId]


async def register(
    store: Store,
    registration: Registration,
    *,
    retry: SchedulerSettings,
    token: WorkerToken | None = None,
    enrolment_id: TokenId | None = None,
) -> WorkerId:
    """Write a worker; who comes with a known instance key gets its old identity back.

    What that identity still held is requeued: the process that held it is gone. But a repetition,
    known by its token, changes nothing: the process may have begun to work meanwhile. (When this
    process ends between the two, the leases end by themselves: no heartbeat names them.)

    Args:
        store: The store.
        registration: What the worker says of itself.
        token: What it buys. None: nothing.
        retry: How often a task that takes workers down is tried, and when a worker is quarantined.
        enrolment_id: Token that pays for it, used up in the same transaction; a used one still
            serves the worker it was used for, whose answer may have been lost. None: nobody asks.

    Raises:
        EnrolmentSpent: the token is no longer good, and the worker not a known one.
    """
    if token is not None:
        known = await store.db.fetchval(_REPEATED, registration.instance_hash, token.token_hash)
        if known is not None:
            return WorkerId(known)

    async def attempt() -> tuple[WorkerId, bool]:
        async with store.db.transaction() as connection:
            await _pay(connection, registration, enrolment_id)
            worker_id = WorkerId(
                await connection.fetchval(
                    _REGISTER,
                    registration.name,
                    registration.instance_hash,
                    list(registration.tags),
                    list(registration.engines),
                    registration.slots,
                    registration.isolation,
                    registration.version,
                )
            )
            await connection.execute(_BEAT, [worker_id])
            await match_worker(
                connection,
                worker_id,
                capability(registration.engines, registration.tags, registration.isolation),
            )
            is_new = token is None or await _add_token(connection, worker_id, token)
            return worker_id, is_new

    worker_id, is_new = await retrying(attempt)
    if not is_new:
        return worker_id
    released = await store.db.fetch(_RELEASE, [worker_id])
    if released:
        store.signals.publish("tasks")
    await lose_attempts(store, [worker_id], retry=retry)
    return worker_id


async def _pay(
    connection: Queryable, registration: Registration, enrolment_id: TokenId | None
) -> None:
    if enrolment_id is None:
        return
    if await spend_enrolment(connection, enrolment_id):
        return
    if await connection.fetchval(_KNOWN, registration.instance_hash) is None:
        raise EnrolmentSpent("the enrolment token was used; make a new one for this worker")


async def by_tokens(store: Store, token_hashes: Sequence[bytes]) -> list[WorkerIdentity | None]:
    """Return who worker tokens belong to, in order; None: nobody, or the token has expired."""
    found = {
        row["token_hash"]: WorkerIdentity(
            WorkerId(row["id"]), row["name"], row["directive"], is_suspended=row["is_suspended"]
        )
        for row in await store.db.fetch(_BY_TOKEN, list(token_hashes))
    }
    return [found.get(token_hash) for token_hash in token_hashes]


async def add_token(
    store: Store,
    worker_id: WorkerId,
    token_hash: bytes,
    *,
    ttl_s: float,
    replaces: bytes | None = None,
) -> None:
    """Give a worker a token valid for *ttl_s* seconds.

    The one it *replaces* ends within a minute, or all others do. Of a rotation that the network
    repeats, the worker may hear either answer: neither ends the other's token.
    """
    await _add_token(store.db, worker_id, WorkerToken(token_hash, ttl_s), replaces)


async def _add_token(
    connection: Queryable, worker_id: WorkerId, token: WorkerToken, replaces: bytes | None = None
) -> bool:
    """Add a token; False: it is there."""
    added = await connection.fetchval(
        _ADD_TOKEN, worker_id, token.token_hash, token.ttl_s, TOKEN_GRACE_S, replaces
    )
    return added is not None


async def direct(
    store: Store, worker_id: WorkerId, directive: Literal["drain", "pause"] | None, *, by: str
) -> bool:
    """Ask a worker to drain or pause, or (None) to go on; False: there is no such worker.

    To go on also ends a quarantine: whoever says so has seen to it.
    """
    found = await store.db.fetchval(_DIRECT, worker_id, directive, by)
    if found is None:
        return False
    # "tasks" as well: a resumed worker's parked claim must look again.
    store.signals.publish(worker_topic(worker_id), "tasks")
    return True


async def list_workers(store: Store, *, limit: int = 1000) -> list[WorkerRow]:
    """Return workers, live ones first, then by name."""
    return [
        WorkerRow(
            id=WorkerId(row["id"]),
            name=row["name"],
            tags=row["tags"],
            engines=row["engines"],
            slots=row["slots"],
            isolation=row["isolation"],
            version=row["version"],
            state=_state(row),
            quarantine=_quarantine(row),
            registered_at=row["registered_at"],
            seen_at=row["seen_at"],
            attempt_ids=[AttemptId(attempt_id) for attempt_id in row["attempt_ids"]],
        )
        for row in await store.db.fetch(_LIST, limit)
    ]


def _state(row: asyncpg.Record) -> WorkerState:
    if row["lost_at"] is not None:
        return "lost"
    if row["is_draining"] or row["directive"] == "drain":
        return "draining"
    if row["directive"] == "pause":
        return "paused"
    return "quarantined" if row["is_quarantined"] else "live"


def _quarantine(row: asyncpg.Record) -> Quarantine | None:
    if row["quarantined_until"] is None:
        return None
    return Quarantine(row["quarantine_reason"] or "", row["quarantined_until"], row["faults"])
