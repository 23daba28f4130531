"""Workers whose attempts die of their own fault: counted, quarantined, tried again, let back in.

A fault is counted when it has happened, a success looked at only when its worker has faults: an
attempt that ends well costs no write here. After a quarantine a worker is on probation: it is
offered one attempt. That attempt's good end clears it; a fault quarantines it again, for longer.
A task that failed on several workers is itself the suspect, and counts against none but the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from core.domain.ids import AttemptId, TaskId, WorkerId
from core.domain.outcomes import CONTESTED_FAULTS, VINDICATING, WORKER_FAULTS, Reason
from core.runtime.logs import get_logger
from core.runtime.settings import SchedulerSettings
from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store, worker_topic

log = get_logger(__name__)

_FAULT = query("workers/fault")
_SUSPECTS = query("workers/suspects")
_VINDICATE = query("workers/vindicate")
_PROBE = query("workers/probe")


#: A task and an attempt of it.
Attempt: TypeAlias = tuple[TaskId, AttemptId]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that is over, as far as its worker is judged by it."""

    worker_id: WorkerId
    attempt: Attempt
    #: None: it succeeded.
    reason: Reason | None
    #: The task had failed before.
    is_retry: bool
    #: The worker has faults that are not cleared.
    is_suspect: bool


async def judge(store: Store, ended: Sequence[Ended], *, policy: SchedulerSettings) -> None:
    """Count the faults of workers, accuse those that others outdid, clear those that work."""
    await count_faults(
        store, [one.attempt for one in ended if one.reason in WORKER_FAULTS], policy=policy
    )
    good = [one for one in ended if one.reason is None or one.reason in VINDICATING]
    await _accuse(store, [one for one in good if one.reason is None and one.is_retry], policy)
    await _vindicate(store, [one for one in good if one.is_suspect])


async def count_faults(
    store: Store, attempts: Sequence[Attempt], *, policy: SchedulerSettings
) -> None:
    """Count a fault of each worker on which *attempts* died: one, however many there were."""
    await _count(store, attempts, WORKER_FAULTS, policy, is_proven=False)


async def probe(store: Store, worker_ids: Sequence[WorkerId], *, policy: SchedulerSettings) -> None:
    """Offer workers on probation nothing beside what each was just offered."""
    await store.db.execute(
        _PROBE,
        list(worker_ids),
        policy.quarantine_faults,
        policy.quarantine_s,
        policy.quarantine_cap_s,
    )


async def _accuse(store: Store, proofs: Sequence[Ended], policy: SchedulerSettings) -> None:
    """Count as faults what the same tasks' success on other workers proves to be some."""
    if not proofs:
        return
    rows = await store.db.fetch(
        _SUSPECTS,
        [one.attempt[0] for one in proofs],
        [one.worker_id for one in proofs],
        [reason.value for reason in CONTESTED_FAULTS],
    )
    suspects = [(TaskId(row["task_id"]), AttemptId(row["attempt_id"])) for row in rows]
    await _count(store, suspects, CONTESTED_FAULTS, policy, is_proven=True)


async def _count(
    store: Store,
    attempts: Sequence[Attempt],
    faults: Iterable[Reason],
    policy: SchedulerSettings,
    *,
    is_proven: bool,
) -> None:
    if not attempts or not policy.quarantine_faults:
        return
    rows = await retrying(
        lambda: store.db.fetch(
            _FAULT,
            [task_id for task_id, _ in attempts],
            [attempt_id for _, attempt_id in attempts],
            [reason.value for reason in faults],
            is_proven,
            policy.quarantine_faults,
            policy.quarantine_window_s,
            policy.quarantine_s,
            policy.quarantine_cap_s,
        )
    )
    for row in rows:
        told = {"worker_id": row["id"], "name": row["name"], "faults": row["faults"]}
        if row["is_quarantined"]:
            log.warning(
                "worker.quarantined", **told, reason=row["reason"], for_s=row["quarantine_s"]
            )
            store.signals.publish(worker_topic(row["id"]))
        else:
            log.info("worker.fault_counted", **told, reason=row["reason"])


async def _vindicate(store: Store, good: Sequence[Ended]) -> None:
    if not good:
        return
    rows = await retrying(
        lambda: store.db.fetch(
            _VINDICATE, [one.attempt[0] for one in good], [one.attempt[1] for one in good]
        )
    )
    for row in rows:
        if row["was_quarantined"]:
            log.info("worker.quarantine_lifted", worker_id=row["id"], name=row["name"])
            # "tasks" as well: its parked claim must look again.
            store.signals.publish(worker_topic(row["id"]), "tasks")
