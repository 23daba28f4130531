"""Attempts as workers see them: claim, start, beat, finish, release. Every write proves a lease.

A claim is two-phase: what is offered must be started within a time, else it returns to the queue
uncounted, because the answer to a long poll may reach nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from core.domain.codes import english
from core.domain.ids import AttemptId, JobId, TaskId, WorkerId
from core.domain.outcomes import CODE_OF_REASON, RETRYABLE, Outcome, Reason
from core.domain.states import TaskKind
from core.runtime.settings import SchedulerSettings
from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store, job_topic

_CLAIM = query("attempts/claim")
_OFFERS = query("attempts/offers")
_START = query("attempts/start")
_FINISH = query("attempts/finish")
_FINISHED = query("attempts/finished")
_HELD = query("attempts/held")
_OF_WORKER = query("attempts/of_worker")
_REASONS = query("attempts/reasons")
_PROGRESS = query("attempts/progress")
_RELEASE = query("attempts/release")
_BEAT = query("workers/beat")
_REVIVE = query("workers/revive")


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
class AttemptProof:
    """An attempt and the hash of its lease token."""

    attempt_id: AttemptId
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class ProgressBeat:
    """How far a running attempt has come."""

    attempt_id: AttemptId
    phase: str
    files_done: int
    files_planned: int


@dataclass(frozen=True, slots=True)
class BeatAnswer:
    """What becomes of the attempts a worker believes to hold."""

    known: frozenset[AttemptId]
    #: Over, and why.
    cancelled: Mapping[AttemptId, Reason]
    unknown: frozenset[AttemptId]
    #: `drain`, `pause` or None.
    directive: str | None
    #: Running by the server's books for longer than a lease, and not in the worker's list.
    forgotten: frozenset[AttemptId] = frozenset()


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


class FinishVerdict(StrEnum):
    """Whether a result counts."""

    ACCEPTED = "accepted"
    LEASE_LOST = "lease_lost"


async def claim(
    store: Store,
    worker_id: WorkerId,
    *,
    claim_id: UUID,
    token_hashes: Sequence[bytes],
    head_start_s: float = 0.3,
) -> list[Offer]:
    """Offer a worker up to as many tasks as there are *token_hashes*; never waits.

    Args:
        store: The store.
        worker_id: Who claims.
        claim_id: The worker's name for this claim; the same again gets the same answer.
        token_hashes: Hashes of the lease tokens the offers get, in order.
        head_start_s: How long a task is left to the worker that has its sources already.
    """
    offers = await _offers(store, worker_id, claim_id)
    if offers:
        return offers
    try:
        rows = await retrying(
            lambda: store.db.fetch(_CLAIM, worker_id, claim_id, list(token_hashes), head_start_s)
        )
    except asyncpg.UniqueViolationError:
        # The same claim twice at once: the other one was answered.
        return await _offers(store, worker_id, claim_id)
    return await _offers(store, worker_id, claim_id) if rows else []


async def _offers(store: Store, worker_id: WorkerId, claim_id: UUID) -> list[Offer]:
    rows = await store.db.fetch(_OFFERS, worker_id, claim_id)
    return [
        Offer(
            attempt_id=AttemptId(row["attempt_id"]),
            task_id=TaskId(row["task_id"]),
            job_id=JobId(row["job_id"]),
            number=row["number"],
            claim_index=row["claim_index"],
            token_hash=row["token_hash"],
            kind=TaskKind(row["kind"]),
            engine=row["engine"],
            spec=row["spec"],
            scm_auth=row["scm_auth"],
        )
        for row in rows
    ]


async def start(
    store: Store, worker_id: WorkerId, proofs: Sequence[AttemptProof]
) -> frozenset[AttemptId]:
    """Start offered attempts; return those that run now. Asked again, it answers the same."""
    rows = await retrying(
        lambda: store.db.fetch(
            _START,
            worker_id,
            [proof.attempt_id for proof in proofs],
            [proof.token_hash for proof in proofs],
        )
    )
    store.signals.publish(*{job_topic(row["job_id"]) for row in rows})
    return frozenset(AttemptId(row["attempt_id"]) for row in rows)


async def beat(
    store: Store,
    worker_id: WorkerId,
    beats: Sequence[ProgressBeat],
    *,
    is_draining: bool,
    lease_s: float,
) -> BeatAnswer:
    """Note that a worker lives, extend its leases, record progress, and tell what is over."""
    await store.db.execute(_BEAT, worker_id)
    directive = await store.db.fetchval(_REVIVE, worker_id, is_draining)
    rows = await store.db.fetch(_OF_WORKER, worker_id)
    listed = {beat.attempt_id for beat in beats}
    held = {AttemptId(row["attempt_id"]) for row in rows}
    forgotten = {
        AttemptId(row["attempt_id"])
        for row in rows
        if row["is_running"] and row["running_s"] > lease_s and row["attempt_id"] not in listed
    }
    # One of each: who names an attempt twice means the last.
    news = {beat.attempt_id: beat for beat in beats if beat.attempt_id in held}
    await _record_progress(store, worker_id, list(news.values()), rows)
    over = listed - held
    cancelled = await _reasons(store, worker_id, over) if over else {}
    return BeatAnswer(
        known=frozenset(listed & held),
        cancelled=cancelled,
        unknown=frozenset(over - set(cancelled)),
        directive=directive,
        forgotten=frozenset(forgotten),
    )


async def _record_progress(
    store: Store,
    worker_id: WorkerId,
    beats: Sequence[ProgressBeat],
    leases: Sequence[asyncpg.Record],
) -> None:
    if not beats:
        return
    changed = await store.db.fetch(
        _PROGRESS,
        worker_id,
        [beat.attempt_id for beat in beats],
        [beat.phase for beat in beats],
        [beat.files_done for beat in beats],
        [beat.files_planned for beat in beats],
    )
    attempts = {row["attempt_id"] for row in changed}
    jobs = {row["job_id"] for row in leases if row["attempt_id"] in attempts}
    store.signals.publish(*(job_topic(job_id) for job_id in jobs))


async def _reasons(
    store: Store, worker_id: WorkerId, attempt_ids: set[AttemptId]
) -> dict[AttemptId, Reason]:
    rows = await store.db.fetch(_REASONS, worker_id, list(attempt_ids))
    return {
        AttemptId(row["attempt_id"]): Reason(row["reason"] or Reason.JOB_CLOSED.value)
        for row in rows
    }


async def finish(
    store: Store, worker_id: WorkerId, finished: Finished, *, retry: SchedulerSettings
) -> FinishVerdict:
    """Record a result, once, while its lease holds; the same body again gets the same answer."""
    reason = finished.reason
    row = await retrying(
        lambda: store.db.fetchrow(
            _FINISH,
            worker_id,
            finished.attempt_id,
            finished.token_hash,
            finished.outcome.value,
            reason.value if reason else None,
            finished.message,
            finished.exit_code,
            finished.signal,
            finished.result,
            finished.body_hash,
            int(CODE_OF_REASON[reason]) if reason else 0,
            # What a worker notes of a success stays in its result; the contract's text is this.
            "success" if reason is None else finished.message or english(CODE_OF_REASON[reason]),
            reason in RETRYABLE,
            retry.max_attempts,
            retry.retry_base_s,
            retry.retry_cap_s,
            reason is Reason.HANDED_BACK,
        )
    )
    if row is None:
        is_same = await store.db.fetchval(
            _FINISHED, worker_id, finished.attempt_id, finished.token_hash, finished.body_hash
        )
        return FinishVerdict.ACCEPTED if is_same else FinishVerdict.LEASE_LOST
    topics = {job_topic(row["job_id"])}
    if row["is_requeued"]:
        topics.add("tasks")
    elif row["is_retried"]:
        topics.add("delayed")
    else:
        topics.add("prepared" if row["kind"] == TaskKind.PREPARE else "settle")
    store.signals.publish(*topics)
    return FinishVerdict.ACCEPTED


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
