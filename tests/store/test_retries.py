"""What is tried again, how it is counted, when, and where it ends."""

from __future__ import annotations

import pytest

from core.domain.codes import ResultCode
from core.domain.ids import WorkerId
from core.domain.outcomes import (
    CODE_OF_REASON,
    REPORTABLE,
    RESETTING,
    RETRYABLE,
    Outcome,
    Reason,
)
from core.runtime.settings import SchedulerSettings
from core.store import attempts, reaping, settling
from core.store.attempts import FinishVerdict
from core.store.store import Store
from tests.store import lifecycle as life

BACKOFF = SchedulerSettings(
    retry_base_s=1000.0, retry_cap_s=2500.0, max_attempts=100, max_resets=100, quarantine_faults=0
)


async def counted(store: Store) -> tuple[str, int, int]:
    """Where the one task is, and what was counted: failures, resets."""
    row = await store.db.fetchrow(
        "SELECT 'pending', failures, resets FROM task_pending"
        " UNION ALL SELECT 'ready', failures, resets FROM task_ready"
        " UNION ALL SELECT 'closed', 0, 0 FROM task_outcomes AS o"
        " INNER JOIN tasks AS t ON o.task_id = t.id AND t.kind = 'engine'"
    )
    assert row is not None
    return tuple(row)


async def due_now(store: Store) -> None:
    await store.db.execute("UPDATE task_pending SET not_before = now()")
    await reaping.promote(store)


async def lose(store: Store, worker: WorkerId, policy: SchedulerSettings = life.RETRY) -> None:
    await reaping.lose_attempts(store, [worker], retry=policy)


@pytest.mark.parametrize("reason", sorted(REPORTABLE))
async def test_the_reason_decides_whether_a_task_is_tried_again(
    store: Store, project_id: int, reason: Reason
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)

    await life.finish(store, task, reason=reason)

    if reason is Reason.HANDED_BACK:
        assert await counted(store) == ("ready", 0, 0)
    elif reason in RESETTING:
        assert await counted(store) == ("pending", 0, 1)
    elif reason in RETRYABLE:
        assert await counted(store) == ("pending", 1, 0)
    else:
        (end,) = await settling.outcomes(store, job_id)
        assert (end.reason, end.result_code) == (reason, CODE_OF_REASON[reason])
        assert await life.claim(store, worker) == []


async def test_lost_leases_and_failures_are_counted_apart(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)

    for reason in (Reason.CHECKOUT_FAILED, None, Reason.SCM_UNREACHABLE, Reason.WORKER_INTERRUPTED):
        task = await life.claim_and_start(store, worker)
        if reason is None:
            await lose(store, worker)
        else:
            await life.finish(store, task, reason=reason)
        await due_now(store)

    assert await counted(store) == ("ready", 2, 2)


@pytest.mark.parametrize(
    "ends",
    [
        (None, None, None),
        (Reason.WORKER_INTERRUPTED, Reason.WORKER_INTERRUPTED, Reason.WORKER_INTERRUPTED),
        (None, Reason.WORKER_INTERRUPTED, None),
        (Reason.WORKER_INTERRUPTED, None, Reason.WORKER_INTERRUPTED),
    ],
    ids=["lost", "killed and back", "lost the last time", "back the last time"],
)
async def test_a_task_that_took_three_workers_down_does_not_meet_a_fourth(
    store: Store, project_id: int, ends: tuple[Reason | None, ...]
) -> None:
    fleet = [await life.add_worker(store) for _ in range(4)]
    job_id = await life.planned_job(store, project_id, fleet[0])

    for worker, reason in zip(fleet, ends, strict=False):
        task = await life.claim_and_start(store, worker)
        if reason is None:
            await lose(store, worker)
        else:
            assert await life.finish(store, task, reason=reason) is FinishVerdict.ACCEPTED
        await due_now(store)

    assert await life.claim(store, fleet[3]) == []
    (end,) = await settling.outcomes(store, job_id)
    assert end.result_code == ResultCode.WORKER_LOST
    assert end.outcome is (Outcome.LOST if ends[-1] is None else Outcome.FAILED)
    last = "no heartbeat for longer than the lease" if ends[-1] is None else "it broke"
    assert end.result_msg == (
        "3 attempts at it took their worker down, so it is not tried again; the last: " + last
    )


async def test_a_first_loss_is_made_good_at_once_and_a_second_later(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)

    await life.claim_and_start(store, worker)
    with store.signals.subscribe("tasks") as tasks:
        await lose(store, worker)
        assert await tasks.wait(5)
    assert await counted(store) == ("ready", 0, 1)
    await life.claim_and_start(store, worker)
    with store.signals.subscribe("delayed") as delayed:
        await lose(store, worker)
        assert await delayed.wait(5)

    assert await counted(store) == ("pending", 0, 2)


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "failed"])
@pytest.mark.parametrize(("earlier", "most_s"), [(1, 2000.0), (2, 2500.0), (40, 2500.0)])
async def test_the_back_off_doubles_is_bounded_and_has_full_jitter(
    store: Store, project_id: int, earlier: int, most_s: float, is_lost: bool
) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker, engines=("lines",) * 64)
    await store.db.execute(
        f"UPDATE task_ready SET {'resets' if is_lost else 'failures'} = $1", earlier
    )
    taken = await life.claim(store, worker, slots=64)
    await attempts.start(store, worker, [one.proof for one in taken])

    if is_lost:
        await lose(store, worker, BACKOFF)
    else:
        results = [(worker, life.finished(one, reason=Reason.CHECKOUT_FAILED)) for one in taken]
        await attempts.finish_many(store, results, retry=BACKOFF)

    rows = await store.db.fetch(
        "SELECT extract(epoch FROM not_before - now()) AS wait_s FROM task_pending"
    )
    waits = sorted(float(row["wait_s"]) for row in rows)
    assert len(waits) == 64
    assert waits[-1] <= most_s
    # 64 throws of a fair die: that a quarter of the range is missed happens once in 10^8 times.
    assert waits[0] < most_s / 4
    assert waits[-1] > most_s * 3 / 4
