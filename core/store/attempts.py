"""Attempts as workers see them: claim, start, finish, release. Every write proves a lease.

A claim is two-phase: what is offered must be started within a time, else it returns to the queue
uncounted, because the answer to a long poll may reach nobody. Every step takes many callers at
once (`claim_many`, `start_many`, `finish_many`): one statement, one commit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from core.domain.codes import english
from core.domain.ids import AttemptId, JobId, TaskId, WorkerId
from core.domain.outcomes import (
    CODE_OF_REASON,
    RESETTING,
    RETRYABLE,
    TOOK_DOWN,
    Outcome,
    Reason,
)
from core.domain.states import TaskKind
from core.runtime.settings import SchedulerSettings
from core.store import quarantine
from core.store.lowwater import LowWater
from core.store.pool import retrying
from core.store.quarantine import Ended
from core.store.queries import query
from core.store.store import Store, job_topic

_CLAIM = query("attempts/claim")
_CLAIM_MANY = query("attempts/claim_many")
_SPECS = query("tasks/specs")
_START = query("attempts/start")
_FINISH = query("attempts/finish")
_FINISHED = query("attempts/finished")
_HELD = query("attempts/held")
_RELEASE = query("attempts/release")

#: How many tasks beyond those wanted a claim looks at: others may be taking the first ones.
_SPARE = 16


@dataclass(frozen=True, slots=True)
class Offer:
    """A task offered to a worker: all of a `TaskSpec` but the lease token."""

    attempt_id: AttemptId
    task_id: TaskId
    job_id: JobId
    number: int
    #: Which of the claim's lease tokens is this attempt's, from 0.
    claim_index: int
    token_hash: bytes
    kind: TaskKind
    engine: str
    spec: dict[str, Any]
    #: Sealed credentials of the repository.
    scm_auth: bytes | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What one worker asks for."""

    worker_id: WorkerId
    #: The worker's name for this claim; the same again gets the same answer.
    claim_id: UUID
    #: Hashes of the lease tokens the offers get, in order: one a task wanted.
    token_hashes: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class AttemptProof:
    """An attempt and the hash of its lease token."""

    attempt_id: AttemptId
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class ArtifactProof:
    """An artifact a result says was uploaded."""

    name: str
    size_bytes: int
    #: Hexadecimal.
    sha256: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A result as it is recorded."""

    attempt_id: AttemptId
    token_hash: bytes
    outcome: Outcome
    reason: Reason | None
    message: str
    exit_code: int | None
    signal: int | None
    #: The result as sent, without the lease token.
    result: dict[str, Any] = field(repr=False)
    body_hash: bytes
    #: Bytes of log, and artifacts, that must be there first.
    log_bytes: int = 0
    artifacts: Sequence[ArtifactProof] = ()


class FinishVerdict(StrEnum):
    """Whether a result counts."""

    ACCEPTED = "accepted"
    LEASE_LOST = "lease_lost"
    LOG_INCOMPLETE = "log_incomplete"
    ARTIFACT_MISSING = "artifact_missing"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and how much of the attempt's log there is, bytes."""

    verdict: FinishVerdict
    log_bytes: int = 0
    #: None where the result was not accepted now.
    job_id: JobId | None = None


async def claim(
    store: Store,
    worker_id: WorkerId,
    *,
    claim_id: UUID,
    token_hashes: Sequence[bytes],
    head_start_s: float = 0.3,
) -> list[Offer]:
    """Offer one worker up to as many tasks as there are *token_hashes*; never waits."""
    asked = Claim(worker_id, claim_id, token_hashes)
    (offers,) = await claim_many(store, [asked], head_start_s=head_start_s)
    return offers


async def claim_many(
    store: Store,
    claims: Sequence[Claim],
    *,
    head_start_s: float = 0.3,
    low_water: LowWater | None = None,
) -> list[list[Offer]]:
    """Offer workers the first ready tasks they fit; never waits.

    Args:
        store: The store.
        claims: At most one a worker.
        head_start_s: How long a task is left to the worker that has its sources already.
        low_water: Where to begin; None: at the start.

    Returns:
        The offers of each claim, in the order of *claims*.
    """
    offers: list[list[Offer]] = [[] for _ in claims]
    waiting = list(range(len(claims)))
    # Workers that fit the same are served by one statement: as many rounds as there are kinds.
    while waiting:
        asked = [claims[place] for place in waiting]
        rows = await _claim_once(store, asked, head_start_s, low_water or LowWater())
        found = [row for row in rows if row["attempt_id"] is not None]
        specs = await _missing_specs(store, found)
        for row in found:
            place = waiting[row["n"] - 1] if len(waiting) > 1 else waiting[0]
            offers[place].append(_offer(row, specs))
        waiting = [waiting[row["n"] - 1] for row in rows if row["attempt_id"] is None]
    for found_offers in offers:
        found_offers.sort(key=lambda offer: offer.claim_index)
    return offers


async def _claim_once(
    store: Store, claims: Sequence[Claim], head_start_s: float, low_water: LowWater
) -> list[asyncpg.Record]:
    hints = low_water.hints()
    wanted = sum(len(claim.token_hashes) for claim in claims)

    async def ask() -> list[asyncpg.Record]:
        rest = (head_start_s, list(hints), list(hints.values()), 2 * wanted + _SPARE)
        if len(claims) == 1:
            (one,) = claims
            return await store.db.fetch(
                _CLAIM, one.worker_id, one.claim_id, list(one.token_hashes), *rest
            )
        return await store.db.fetch(_CLAIM_MANY, *_claim_columns(claims), *rest)

    started = time.monotonic()
    try:
        rows = await retrying(ask)
    except asyncpg.UniqueViolationError:
        # The same claim twice at once: the other one was answered, and this one finds its answer.
        rows = await retrying(ask)
    taken = [(row["class_id"], row["sort_key"]) for row in rows if row["attempt_id"] is not None]
    low_water.note(
        taken,
        is_short=len(taken) < wanted,
        was_full=not hints,
        took_s=time.monotonic() - started,
    )
    return rows


def _claim_columns(claims: Sequence[Claim]) -> list[list[Any]]:
    sizes = [len(claim.token_hashes) for claim in claims]
    return [
        [claim.worker_id for claim in claims],
        [claim.claim_id for claim in claims],
        sizes,
        # where in the next column each claim's tokens begin
        [sum(sizes[:place]) for place in range(len(sizes))],
        [token_hash for claim in claims for token_hash in claim.token_hashes],
    ]


async def _missing_specs(store: Store, rows: Sequence[asyncpg.Record]) -> dict[int, asyncpg.Record]:
    """Read the specs that a requeue or a repeated claim left with the tasks."""
    missing = [row["task_id"] for row in rows if row["spec"] is None]
    if not missing:
        return {}
    return {row["id"]: row for row in await store.db.fetch(_SPECS, missing)}


def _offer(row: asyncpg.Record, specs: Mapping[int, asyncpg.Record]) -> Offer:
    told = specs.get(row["task_id"], row)
    return Offer(
        attempt_id=AttemptId(row["attempt_id"]),
        task_id=TaskId(row["task_id"]),
        job_id=JobId(row["job_id"]),
        number=row["number"],
        claim_index=row["claim_index"],
        token_hash=row["token_hash"],
        kind=TaskKind.PREPARE if told["engine"] == TaskKind.PREPARE else TaskKind.ENGINE,
        engine=told["engine"],
        spec=told["spec"],
        scm_auth=row["scm_auth"],
    )


async def start(
    store: Store, worker_id: WorkerId, proofs: Sequence[AttemptProof]
) -> frozenset[AttemptId]:
    """Start offered attempts; return those that run now. Asked again, it answers the same."""
    return await start_many(store, [(worker_id, proof) for proof in proofs])


async def start_many(
    store: Store, proofs: Sequence[tuple[WorkerId, AttemptProof]]
) -> frozenset[AttemptId]:
    """Start offered attempts of workers; return those that run now."""
    rows = await retrying(
        lambda: store.db.fetch(
            _START,
            [worker_id for worker_id, _ in proofs],
            [proof.attempt_id for _, proof in proofs],
            [proof.token_hash for _, proof in proofs],
        )
    )
    store.signals.publish(*{job_topic(row["job_id"]) for row in rows})
    return frozenset(AttemptId(row["attempt_id"]) for row in rows)


async def finish(
    store: Store, worker_id: WorkerId, finished: Finished, *, retry: SchedulerSettings
) -> FinishVerdict:
    """Record a result, once, while its lease holds; the same body again gets the same answer."""
    (judged,) = await finish_many(store, [(worker_id, finished)], retry=retry)
    return judged.verdict


async def finish_many(
    store: Store, results: Sequence[tuple[WorkerId, Finished]], *, retry: SchedulerSettings
) -> list[Judged]:
    """Record results, each once and while its lease holds; return a verdict on each, in order."""
    rows = await retrying(lambda: store.db.fetch(_FINISH, *_finish_columns(results, retry)))
    judged = {row["n"] - 1: _judged(row) for row in rows}
    # Not held, or held by a job that is closed: lost, unless this very result was accepted before.
    lost = [
        place
        for place in range(len(results))
        if place not in judged or judged[place].verdict is FinishVerdict.LEASE_LOST
    ]
    if lost:
        repeated = await _repeated(store, [results[place] for place in lost])
        judged |= {
            place: Judged(FinishVerdict.ACCEPTED if again else FinishVerdict.LEASE_LOST)
            for place, again in zip(lost, repeated, strict=True)
        }
    store.signals.publish(*_topics(rows))
    await quarantine.judge(store, _ended(results, rows), policy=retry)
    return [judged[place] for place in range(len(results))]


def _finish_columns(
    results: Sequence[tuple[WorkerId, Finished]], retry: SchedulerSettings
) -> list[Any]:
    finished = [one for _, one in results]
    reasons = [one.reason for one in finished]
    return [
        [worker_id for worker_id, _ in results],
        [one.attempt_id for one in finished],
        [one.token_hash for one in finished],
        [one.outcome.value for one in finished],
        [reason.value if reason else None for reason in reasons],
        [one.message for one in finished],
        [one.exit_code for one in finished],
        [one.signal for one in finished],
        [one.result for one in finished],
        [one.body_hash for one in finished],
        [int(CODE_OF_REASON[reason]) if reason else 0 for reason in reasons],
        # What a worker notes of a success stays in its result; the contract's text is this.
        [
            "success" if one.reason is None else one.message or english(CODE_OF_REASON[one.reason])
            for one in finished
        ],
        [reason in RETRYABLE for reason in reasons],
        [reason is Reason.HANDED_BACK for reason in reasons],
        [one.log_bytes for one in finished],
        [
            # An object: a list in an array would be a second dimension.
            {
                "named": [
                    {"name": a.name, "size_bytes": a.size_bytes, "sha256": a.sha256}
                    for a in one.artifacts
                ]
            }
            for one in finished
        ],
        retry.max_attempts,
        retry.retry_base_s,
        retry.retry_cap_s,
        [reason.value for reason in RESETTING],
        retry.max_resets,
        TOOK_DOWN,
    ]


def _ended(
    results: Sequence[tuple[WorkerId, Finished]], rows: Sequence[asyncpg.Record]
) -> list[Ended]:
    """Return the attempts that ended with this, as far as their workers are judged by them."""
    return [
        Ended(
            worker_id=results[row["n"] - 1][0],
            attempt=(TaskId(row["task_id"]), AttemptId(row["attempt_id"])),
            reason=results[row["n"] - 1][1].reason,
            is_retry=row["is_retry"],
            is_suspect=row["is_suspect"],
        )
        for row in rows
        if row["is_accepted"]
    ]


def _judged(row: asyncpg.Record) -> Judged:
    if row["is_accepted"]:
        return Judged(FinishVerdict.ACCEPTED, row["log_size"], JobId(row["job_id"]))
    if not row["has_log"]:
        return Judged(FinishVerdict.LOG_INCOMPLETE, row["log_size"])
    if not row["has_artifacts"]:
        return Judged(FinishVerdict.ARTIFACT_MISSING, row["log_size"])
    return Judged(FinishVerdict.LEASE_LOST)


def _topics(rows: Sequence[asyncpg.Record]) -> set[str]:
    topics: set[str] = set()
    for row in rows:
        if not row["is_accepted"]:
            continue
        topics.add(job_topic(row["job_id"]))
        if row["is_requeued"]:
            topics.add("tasks")
        elif row["is_retried"]:
            topics.add("delayed")
        else:
            topics.add("settle" if row["is_engine"] else "prepared")
    return topics


async def _repeated(store: Store, results: Sequence[tuple[WorkerId, Finished]]) -> list[bool]:
    """Tell of each result whether this very body was accepted before."""
    rows = await store.db.fetch(
        _FINISHED,
        [worker_id for worker_id, _ in results],
        [one.attempt_id for _, one in results],
        [one.token_hash for _, one in results],
        [one.body_hash for _, one in results],
    )
    accepted = {row["n"] - 1 for row in rows}
    return [place in accepted for place in range(len(results))]


async def held(store: Store, worker_id: WorkerId, proof: AttemptProof) -> TaskId | None:
    """Return the task of a running attempt whose lease *proof* shows; None: the lease is lost."""
    row = await store.db.fetchrow(_HELD, worker_id, proof.attempt_id, proof.token_hash)
    return None if row is None else TaskId(row["task_id"])


async def release(store: Store, worker_id: WorkerId) -> int:
    """Return to the queue what a worker was offered and has not started; return how many."""
    rows = await store.db.fetch(_RELEASE, [worker_id])
    if rows:
        store.signals.publish("tasks")
    return len(rows)
