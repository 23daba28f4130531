"""Workers whose attempts die of their own fault: which faults count, for how long, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from core.domain.ids import WorkerId
from core.domain.outcomes import CONTESTED_FAULTS, RETRYABLE, VINDICATING, WORKER_FAULTS, Reason
from core.runtime.settings import SchedulerSettings
from core.store import attempts, beats, quarantine, reaping, workers
from core.store.store import Store
from tests.store import lifecycle as life
from tests.store.lifecycle import Claimed
from tests.store.queueing import queued

POLICY = SchedulerSettings(retry_base_s=0.001, retry_cap_s=0.001)


@dataclass
class Bench:
    """Tasks in the queue, and workers that end them as a test says."""

    store: Store
    project_id: int
    policy: SchedulerSettings = field(default_factory=lambda: POLICY)

    async def fill(self, tasks: int = 1) -> None:
        """Put tasks into the queue."""
        await queued(self.store, [self.project_id] * tasks)

    async def take(self, worker: WorkerId, tasks: int = 1) -> list[Claimed]:
        """Claim and start tasks; fewer where the worker is not offered as many."""
        found = await life.claim(self.store, worker, slots=tasks)
        for one in found:
            assert await life.start(self.store, one)
        return found

    async def end(self, *taken: Claimed, reason: Reason | None = None) -> None:
        """Finish attempts, all in one batch."""
        results = [(one.worker_id, life.finished(one, reason=reason)) for one in taken]
        await attempts.finish_many(self.store, results, retry=self.policy)
        await self.store.db.execute("UPDATE task_pending SET not_before = now()")
        await reaping.promote(self.store)

    async def fault(self, worker: WorkerId, reason: Reason = Reason.WORKER_ERROR) -> None:
        """Let a task of its own die on a worker; it is gone afterwards."""
        await self.fill()
        (taken,) = await self.take(worker)
        await self.end(taken, reason=reason)
        await self.store.db.execute("DELETE FROM task_ready")

    async def succeed(self, worker: WorkerId) -> None:
        await self.fill()
        await self.end(*await self.take(worker))

    async def faults(self, worker: WorkerId) -> int:
        count: int = await self.store.db.fetchval(
            "SELECT faults FROM workers WHERE id = $1", worker
        )
        return count

    async def left_s(self, worker: WorkerId) -> float | None:
        """Seconds of quarantine left, rounded; None: it is in none."""
        left: float | None = await self.store.db.fetchval(
            "SELECT round(extract(epoch FROM quarantined_until - now())) FROM workers"
            " WHERE id = $1",
            worker,
        )
        return None if left is None else float(left)

    async def let_pass(self, span: str) -> None:
        """Move what is remembered of workers into the past."""
        await self.store.db.execute(
            "UPDATE workers SET first_fault_at = first_fault_at - $1::text::interval,"
            " last_fault_at = last_fault_at - $1::text::interval,"
            " quarantined_until = quarantined_until - $1::text::interval",
            span,
        )


@pytest.fixture
async def bench(store: Store, project_id: int) -> Bench:
    return Bench(store, project_id)


@pytest.fixture
async def worker(store: Store) -> WorkerId:
    return await life.add_worker(store)


@pytest.fixture
async def other(store: Store) -> WorkerId:
    return await life.add_worker(store)


async def standing(store: Store, worker: WorkerId) -> workers.WorkerRow:
    (row,) = [row for row in await workers.list_workers(store) if row.id == worker]
    return row


# --- what counts ----------------------------------------------------------------------------------


async def test_three_faults_in_a_row_quarantine_a_worker(bench: Bench, worker: WorkerId) -> None:
    for _ in range(2):
        await bench.fault(worker)
    assert await bench.left_s(worker) is None

    await bench.fault(worker, Reason.UPLOAD_FAILED)

    assert await bench.left_s(worker) == 60
    await bench.fill()
    assert await bench.take(worker) == []
    row = await standing(bench.store, worker)
    assert row.state == "quarantined"
    assert row.quarantine is not None
    assert (row.quarantine.reason, row.quarantine.faults) == ("upload_failed", 3)
    answer = await beats.beat(bench.store, worker, [], is_draining=False, lease_s=30)
    assert answer.quarantine is not None
    assert answer.quarantine.reason == "upload_failed"
    event = await bench.store.db.fetchrow("SELECT * FROM events WHERE kind = 'worker.quarantined'")
    assert event is not None
    assert (event["worker_id"], event["detail"]["faults"]) == (worker, 3)


async def test_a_worker_that_is_quarantined_hears_of_it(bench: Bench, worker: WorkerId) -> None:
    for _ in range(2):
        await bench.fault(worker)

    with bench.store.signals.subscribe(f"worker:{worker}") as orders:
        await bench.fault(worker)
        assert await orders.wait(5)


@pytest.mark.parametrize("reason", [None, *sorted(VINDICATING)])
async def test_an_attempt_that_got_to_its_engine_ends_the_row(
    bench: Bench, worker: WorkerId, reason: Reason | None
) -> None:
    for _ in range(2):
        await bench.fault(worker)

    await bench.fill()
    await bench.end(*await bench.take(worker), reason=reason)

    assert await bench.faults(worker) == 0
    await bench.fault(worker)
    assert await bench.left_s(worker) is None


@pytest.mark.parametrize(
    "reason",
    [Reason.SCM_AUTH, Reason.CONFIG_REFUSED, Reason.HANDED_BACK, *sorted(CONTESTED_FAULTS)],
)
async def test_what_is_not_the_workers_fault_neither_counts_nor_clears(
    bench: Bench, worker: WorkerId, reason: Reason
) -> None:
    await bench.fault(worker)

    await bench.fault(worker, reason)

    assert await bench.faults(worker) == 1


async def test_one_task_that_fails_again_and_again_is_one_fault(
    bench: Bench, worker: WorkerId
) -> None:
    await bench.fill()

    for _ in range(POLICY.max_attempts):
        await bench.end(*await bench.take(worker), reason=Reason.WORKER_ERROR)

    assert await bench.faults(worker) == 1


async def test_a_task_that_fails_on_every_worker_counts_against_the_first_alone(
    bench: Bench, store: Store
) -> None:
    fleet = [await life.add_worker(store) for _ in range(3)]
    await bench.fill()

    for worker in fleet:
        await bench.end(*await bench.take(worker), reason=Reason.WORKER_ERROR)

    assert [await bench.faults(worker) for worker in fleet] == [1, 0, 0]


async def test_attempts_that_die_together_are_one_fault(bench: Bench, worker: WorkerId) -> None:
    await bench.fill(4)
    first, *rest = await bench.take(worker, tasks=4)

    await bench.end(first, reason=Reason.WORKER_INTERRUPTED)
    await bench.end(*rest, reason=Reason.WORKER_INTERRUPTED)

    assert await bench.faults(worker) == 1


async def test_the_loss_of_a_worker_is_one_fault(bench: Bench, worker: WorkerId) -> None:
    await bench.fill(4)
    await bench.take(worker, tasks=4)
    await bench.store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '1 min'")

    assert await reaping.reap(bench.store, lease_s=30, retry=POLICY) >= 1

    assert await bench.faults(worker) == 1


async def test_a_worker_that_is_lost_again_and_again_is_quarantined(
    bench: Bench, worker: WorkerId
) -> None:
    for _ in range(3):
        await bench.fill()
        await bench.take(worker)
        await reaping.lose_attempts(bench.store, [worker], retry=POLICY)
        await bench.store.db.execute("DELETE FROM task_ready")

    row = await standing(bench.store, worker)
    assert row.quarantine is not None
    assert row.quarantine.reason == "worker_lost"


async def test_a_worker_lost_without_work_has_no_fault(bench: Bench, worker: WorkerId) -> None:
    await bench.store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '1 min'")

    assert await reaping.reap(bench.store, lease_s=30, retry=POLICY) >= 1

    assert await bench.faults(worker) == 0


async def test_faults_far_apart_do_not_add_up(bench: Bench, worker: WorkerId) -> None:
    for _ in range(2):
        await bench.fault(worker)
    await bench.let_pass("601 s")

    await bench.fault(worker)

    assert await bench.faults(worker) == 1
    assert await bench.left_s(worker) is None


async def test_no_worker_is_quarantined_where_the_setting_says_never(
    bench: Bench, worker: WorkerId
) -> None:
    bench.policy = POLICY.model_copy(update={"quarantine_faults": 0})

    for _ in range(4):
        await bench.fault(worker)

    assert await bench.left_s(worker) is None


@pytest.mark.parametrize("reason", sorted(CONTESTED_FAULTS))
async def test_what_another_worker_can_do_is_the_workers_fault(
    bench: Bench, worker: WorkerId, other: WorkerId, reason: Reason
) -> None:
    for _ in range(3):
        await bench.fill()
        await bench.end(*await bench.take(worker), reason=reason)
        await bench.end(*await bench.take(other))

    assert await bench.left_s(worker) == 60
    assert await bench.faults(other) == 0


async def test_what_no_worker_can_do_is_nobodys_fault(
    bench: Bench, worker: WorkerId, other: WorkerId
) -> None:
    for _ in range(3):
        await bench.fill()
        for one in (worker, other, worker):
            await bench.end(*await bench.take(one), reason=Reason.CHECKOUT_FAILED)

    assert [await bench.faults(one) for one in (worker, other)] == [0, 0]


async def test_an_attempt_that_ends_well_writes_nothing_about_its_worker(
    bench: Bench, worker: WorkerId
) -> None:
    async def version() -> Any:
        return await bench.store.db.fetchval("SELECT xmin FROM workers WHERE id = $1", worker)

    await bench.fill()
    before = await version()

    await bench.end(*await bench.take(worker))

    assert await version() == before


def test_what_counts_against_a_worker_is_tried_again_elsewhere() -> None:
    assert RETRYABLE - {Reason.HANDED_BACK} == WORKER_FAULTS | CONTESTED_FAULTS
    assert not WORKER_FAULTS & CONTESTED_FAULTS
    assert not VINDICATING & RETRYABLE


# --- the way back ---------------------------------------------------------------------------------


@pytest.fixture
async def on_probation(bench: Bench, worker: WorkerId) -> WorkerId:
    """A worker whose first quarantine has just ended."""
    for _ in range(3):
        await bench.fault(worker)
    await bench.let_pass("61 s")
    return worker


async def test_a_quarantine_ends_by_itself(bench: Bench, on_probation: WorkerId) -> None:
    await bench.fill()

    assert (await standing(bench.store, on_probation)).state == "live"
    assert len(await bench.take(on_probation)) == 1


async def test_a_success_on_probation_clears_the_worker(
    bench: Bench, on_probation: WorkerId
) -> None:
    with bench.store.signals.subscribe("tasks") as tasks:
        await bench.succeed(on_probation)
        assert await tasks.wait(5)

    assert await bench.faults(on_probation) == 0
    assert await bench.left_s(on_probation) is None
    kinds = await bench.store.db.fetch("SELECT kind FROM events WHERE kind LIKE 'worker.quar%'")
    assert [row["kind"] for row in kinds] == ["worker.quarantined", "worker.quarantine_lifted"]


async def test_each_fault_on_probation_quarantines_for_longer_up_to_a_bound(
    bench: Bench, on_probation: WorkerId
) -> None:
    bench.policy = POLICY.model_copy(update={"quarantine_cap_s": 400.0})
    lengths = []
    for _ in range(4):
        await bench.fault(on_probation)
        lengths.append(await bench.left_s(on_probation))
        await bench.let_pass("401 s")

    assert lengths == [120, 240, 400, 400]


async def test_a_task_that_failed_here_before_counts_on_probation(
    bench: Bench, worker: WorkerId
) -> None:
    for _ in range(2):
        await bench.fault(worker)
    await bench.fill()
    await bench.end(*await bench.take(worker), reason=Reason.WORKER_ERROR)
    await bench.let_pass("61 s")

    await bench.end(*await bench.take(worker), reason=Reason.WORKER_ERROR)

    assert await bench.left_s(worker) == 120


async def test_a_worker_on_probation_gets_nothing_beside_its_probe(
    bench: Bench, on_probation: WorkerId
) -> None:
    await bench.fill(2)
    (probe,) = await bench.take(on_probation)

    await quarantine.probe(bench.store, [on_probation], policy=POLICY)

    assert await bench.take(on_probation) == []
    await bench.end(probe)
    assert len(await bench.take(on_probation)) == 1


async def test_a_probe_is_not_marked_where_the_quarantine_still_lasts(
    bench: Bench, worker: WorkerId
) -> None:
    for _ in range(3):
        await bench.fault(worker)
    await bench.let_pass("30 s")

    await quarantine.probe(bench.store, [worker], policy=POLICY)

    assert await bench.left_s(worker) == 30


async def test_a_success_begun_before_the_quarantine_does_not_end_it(
    bench: Bench, worker: WorkerId
) -> None:
    await bench.fill(1)
    (early,) = await bench.take(worker)
    for _ in range(3):
        await bench.fault(worker)

    await bench.end(early)

    assert await bench.left_s(worker) == 60


async def test_a_fault_begun_before_the_quarantine_does_not_lengthen_it(
    bench: Bench, worker: WorkerId
) -> None:
    await bench.fill(1)
    (early,) = await bench.take(worker)
    for _ in range(3):
        await bench.fault(worker)

    await bench.end(early, reason=Reason.WORKER_ERROR)

    assert await bench.faults(worker) == 3


async def test_an_operator_ends_a_quarantine(bench: Bench, worker: WorkerId) -> None:
    for _ in range(3):
        await bench.fault(worker)

    assert await workers.direct(bench.store, worker, None, by="ann")

    row = await standing(bench.store, worker)
    assert (row.state, row.quarantine, await bench.faults(worker)) == ("live", None, 0)
    await bench.fill()
    assert len(await bench.take(worker)) == 1


async def test_a_pause_and_a_restart_do_not_end_a_quarantine(bench: Bench, store: Store) -> None:
    worker = await life.add_worker(store, key=b"k" * 32)
    for _ in range(3):
        await bench.fault(worker)

    await workers.direct(store, worker, "pause", by="ann")
    assert await life.add_worker(store, key=b"k" * 32) == worker

    assert await bench.left_s(worker) == 60
