"""Heartbeats: note that workers live, extend leases, hear of progress, tell what is over.

The beats of many workers are one write; what they are told is one read after it. Only what
changed is written besides: progress, a worker that is back, one that begins to drain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.domain.ids import AttemptId, WorkerId
from core.domain.outcomes import Reason
from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store, job_topic

_BEAT = query("workers/beat")
_REVIVE = query("workers/revive")
_ORDERS = query("workers/orders")
_PROGRESS = query("attempts/progress")
_REASONS = query("attempts/reasons")


@dataclass(frozen=True, slots=True)
class ProgressBeat:
    """How far a running attempt has come."""

    attempt_id: AttemptId
    phase: str
    files_done: int
    files_planned: int


@dataclass(frozen=True, slots=True)
class Beat:
    """One worker's heartbeat."""

    worker_id: WorkerId
    progress: Sequence[ProgressBeat]
    is_draining: bool
    #: Attempts beyond this id may have begun after it was sent; None: it does not say.
    begun_to: int | None = None

    @property
    def attempt_ids(self) -> frozenset[AttemptId]:
        """The attempts the worker believes to hold."""
        return frozenset(beat.attempt_id for beat in self.progress)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A worker gets no offers for a while."""

    reason: str
    #: Seconds left.
    left_s: float


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
    quarantine: Quarantine | None = None


@dataclass(slots=True)
class _Standing:
    """What the books say of one worker."""

    directive: str | None = None
    is_draining: bool = False
    is_lost: bool = False
    quarantine: Quarantine | None = None
    #: attempt → its job
    held: dict[AttemptId, int] = field(default_factory=dict)
    #: attempt → seconds since its start, of those that run
    running_s: dict[AttemptId, float] = field(default_factory=dict)


async def beat_many(store: Store, beats: Sequence[Beat], *, lease_s: float) -> list[BeatAnswer]:
    """Note that workers live, extend their leases, record progress, and tell what is over.

    Args:
        store: The store.
        beats: At most one a worker counts as its state; the answers are in their order.
        lease_s: A running attempt older than this that its worker does not list is forgotten.
    """
    await retrying(lambda: store.db.execute(_BEAT, [beat.worker_id for beat in beats]))
    standings = await _standings(store, beats)
    await _revive(store, beats, standings)
    await _record_progress(store, beats, standings)
    return await _answers(store, beats, standings, lease_s)


async def orders_many(store: Store, beats: Sequence[Beat], *, lease_s: float) -> list[BeatAnswer]:
    """Tell what is over, as `beat_many` does, and write nothing: for a beat noted before."""
    return await _answers(store, beats, await _standings(store, beats), lease_s)


async def beat(
    store: Store,
    worker_id: WorkerId,
    progress: Sequence[ProgressBeat],
    *,
    is_draining: bool,
    lease_s: float,
) -> BeatAnswer:
    """Note the heartbeat of one worker."""
    (answer,) = await beat_many(store, [Beat(worker_id, progress, is_draining)], lease_s=lease_s)
    return answer


async def _standings(store: Store, beats: Sequence[Beat]) -> dict[WorkerId, _Standing]:
    # After the beat's own statement: it sees what the reaper did while the beat waited for it.
    standings = {beat.worker_id: _Standing() for beat in beats}
    for row in await store.db.fetch(_ORDERS, list(standings)):
        standing = standings[row["worker_id"]]
        standing.directive = row["directive"]
        standing.is_draining = row["is_draining"]
        standing.is_lost = row["is_lost"]
        if row["quarantine_s"] > 0:
            standing.quarantine = Quarantine(row["quarantine_reason"] or "", row["quarantine_s"])
        if row["attempt_id"] is not None:
            attempt_id = AttemptId(row["attempt_id"])
            standing.held[attempt_id] = row["job_id"]
            if row["is_running"]:
                standing.running_s[attempt_id] = row["running_s"]
    return standings


async def _revive(
    store: Store, beats: Sequence[Beat], standings: Mapping[WorkerId, _Standing]
) -> None:
    changed = {
        beat.worker_id: beat.is_draining
        for beat in beats
        if standings[beat.worker_id].is_lost
        or standings[beat.worker_id].is_draining != beat.is_draining
    }
    if changed:
        await retrying(lambda: store.db.execute(_REVIVE, list(changed), list(changed.values())))


async def _record_progress(
    store: Store, beats: Sequence[Beat], standings: Mapping[WorkerId, _Standing]
) -> None:
    # One of each: who names an attempt twice means the last.
    news = {
        (beat.worker_id, progress.attempt_id): progress
        for beat in beats
        for progress in beat.progress
        if progress.attempt_id in standings[beat.worker_id].held
    }
    if not news:
        return
    changed = await store.db.fetch(
        _PROGRESS,
        [worker_id for worker_id, _ in news],
        [progress.attempt_id for progress in news.values()],
        [progress.phase for progress in news.values()],
        [progress.files_done for progress in news.values()],
        [progress.files_planned for progress in news.values()],
    )
    jobs: dict[Any, int] = {}
    for standing in standings.values():
        jobs |= standing.held
    store.signals.publish(*{job_topic(jobs[row["attempt_id"]]) for row in changed})


async def _answers(
    store: Store,
    beats: Sequence[Beat],
    standings: Mapping[WorkerId, _Standing],
    lease_s: float,
) -> list[BeatAnswer]:
    over = [
        (beat.worker_id, attempt_id)
        for beat in beats
        for attempt_id in beat.attempt_ids - standings[beat.worker_id].held.keys()
    ]
    reasons = await _reasons(store, over) if over else {}
    return [_answer(beat, standings[beat.worker_id], reasons, lease_s) for beat in beats]


def _answer(
    beat: Beat, standing: _Standing, reasons: Mapping[AttemptId, Reason], lease_s: float
) -> BeatAnswer:
    listed = beat.attempt_ids
    over = listed - standing.held.keys()
    cancelled = {attempt_id: reasons[attempt_id] for attempt_id in over if attempt_id in reasons}
    return BeatAnswer(
        known=listed & standing.held.keys(),
        cancelled=cancelled,
        unknown=over - cancelled.keys(),
        directive=standing.directive,
        forgotten=frozenset(
            attempt_id
            for attempt_id, running_s in standing.running_s.items()
            if running_s > lease_s
            and attempt_id not in listed
            and (beat.begun_to is None or attempt_id <= beat.begun_to)
        ),
        quarantine=standing.quarantine,
    )


async def _reasons(
    store: Store, over: Sequence[tuple[WorkerId, AttemptId]]
) -> dict[AttemptId, Reason]:
    rows = await store.db.fetch(
        _REASONS, [worker_id for worker_id, _ in over], [attempt_id for _, attempt_id in over]
    )
    return {
        AttemptId(row["attempt_id"]): Reason(row["reason"] or Reason.JOB_CLOSED.value)
        for row in rows
    }
