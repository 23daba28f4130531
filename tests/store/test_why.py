"""Why a job and each of its tasks is where it is: one cause each, whatever happened to it."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import get_args

import pytest

from core.domain.codes import ResultCode
from core.domain.errors import NotFound
from core.domain.ids import JobId, WorkerId
from core.domain.outcomes import Reason
from core.domain.states import Isolation, JobPhase, TaskKind
from core.domain.waiting import (
    MEANINGS,
    AdmissionDue,
    Cause,
    ClaimDue,
    Closed,
    DeadlinePassed,
    Estimate,
    JobAhead,
    JobCause,
    LimitReached,
    Miss,
    NoWorkerFits,
    Offered,
    PlanningDue,
    Resolving,
    RetryDelayed,
    Running,
    Saving,
    SettlingDue,
    SlotsBusy,
    TaskCause,
    WaitReason,
    WorkerSilent,
    WorkersUnavailable,
    text,
)
from core.store import admissions, beats, jobs, reaping, settling, why, workers
from core.store.beats import ProgressBeat
from core.store.classes import Requirement
from core.store.store import Store
from core.store.why import Explanation, TaskExplanation
from tests.store import lifecycle as life
from tests.store.history import add_project
from tests.store.queueing import plan, prepared, queued


async def explain(store: Store, job_id: JobId) -> Explanation:
    """The explanation, with what must hold of every one."""
    found = await why.explain(store, job_id)
    known = await store.db.fetch(
        "SELECT t.id, o.task_id IS NOT NULL AS is_closed FROM tasks AS t"
        " LEFT JOIN task_outcomes AS o ON t.id = o.task_id WHERE t.job_id = $1 ORDER BY t.id",
        job_id,
    )
    assert [task.task_id for task in found.tasks] == [row["id"] for row in known]
    closed = {row["id"] for row in known if row["is_closed"]}
    is_closed = found.phase is JobPhase.CLOSED
    for task in found.tasks:
        assert isinstance(task.cause, Closed) == (is_closed or task.task_id in closed), task
        assert text(task.cause, at=found.at)
    assert isinstance(found.cause, Closed) == is_closed
    if found.task_id is not None:
        (own,) = [task for task in found.tasks if task.task_id == found.task_id]
        assert own.cause is found.cause
    return found


async def told(store: Store, job_id: JobId) -> tuple[Cause, str]:
    found = await explain(store, job_id)
    return found.cause, text(found.cause, at=found.at)


async def only_task(store: Store, job_id: JobId) -> TaskExplanation:
    found = await explain(store, job_id)
    (task,) = [task for task in found.tasks if task.kind is TaskKind.ENGINE]
    return task


async def create(store: Store, project_id: int, *, is_forced: bool = False) -> JobId:
    return (await jobs.create(store, life.new_job(project_id, is_forced=is_forced))).job_id


async def waits_for(store: Store, project_id: int, requirement: Requirement) -> tuple[Cause, str]:
    """What a job says whose one engine task requires this."""
    preparer = await life.add_worker(store, engines=())
    job_id = await prepared(store, project_id, preparer)
    await store.db.execute("UPDATE workers SET lost_at = now() WHERE id = $1", preparer)
    await plan(store, job_id, [requirement])
    return await told(store, job_id)


def age(cause: Cause) -> dict[str, object]:
    """What a cause says but for its moments."""
    values = dataclasses.asdict(cause)
    return {name: value for name, value in values.items() if name not in {"since", "until"}}


# --- before there are tasks -----------------------------------------------------------------------


async def test_a_job_with_nothing_ahead_is_to_be_admitted(store: Store, project_id: int) -> None:
    job_id = await create(store, project_id)

    cause, words = await told(store, job_id)

    assert cause == AdmissionDue(resolving=0)
    assert words == "is about to be admitted by a scheduler"


async def test_a_job_waits_for_the_earlier_ones_of_its_project(
    store: Store, project_id: int
) -> None:
    first = await jobs.create(store, life.new_job(project_id))
    second, third = await create(store, project_id), await create(store, project_id)

    assert (await told(store, second))[0] == JobAhead(first.job_id, first.scan_id, jobs_ahead=1)
    cause, words = await told(store, third)

    assert cause == JobAhead(first.job_id, first.scan_id, jobs_ahead=2)
    assert f"waits for job {first.job_id} (scan {first.scan_id}) and 1 more" in words


async def test_a_forced_job_waits_for_resolvers_only(store: Store, project_id: int) -> None:
    await create(store, project_id)
    await life.admit(store)
    forced = await create(store, project_id, is_forced=True)

    cause, words = await told(store, forced)

    assert cause == AdmissionDue(resolving=1)
    assert words == "waits to be admitted: 1 other job is being resolved"


async def test_a_job_that_is_resolved_names_its_scheduler(store: Store, project_id: int) -> None:
    job_id = await create(store, project_id)
    token = (await life.admit(store))[0]
    await admissions.abandon(store, {job_id: token})
    again = await admissions.admit(store, token, lease_s=60, limit=1, by="vera:7")
    assert again == [job_id]

    cause, words = await told(store, job_id)

    assert isinstance(cause, Resolving)
    assert cause.scheduler == "vera:7"
    assert cause.since is not None
    assert cause.until - cause.since == timedelta(seconds=60)
    assert words.startswith("is being resolved: scheduler vera:7 has been asking the repository")


async def test_a_job_past_its_deadline_says_so_first(store: Store, project_id: int) -> None:
    await create(store, project_id)
    job_id = await create(store, project_id)
    await store.db.execute(
        "UPDATE jobs SET expires_at = now() - interval '90 s' WHERE id = $1", job_id
    )

    cause, words = await told(store, job_id)

    assert isinstance(cause, DeadlinePassed)
    assert words == "is about to be closed: its deadline passed 1 min 30 s ago"


async def test_a_job_that_does_not_exist_is_not_explained(store: Store) -> None:
    with pytest.raises(NotFound, match="job 7"):
        await why.explain(store, JobId(7))


# --- who could run it -----------------------------------------------------------------------------


async def test_a_preparation_without_any_worker_says_so(store: Store, project_id: int) -> None:
    job_id = await create(store, project_id)
    token, _ = await life.admit(store)
    await life.prepare(store, token, job_id)

    found = await explain(store, job_id)

    assert age(found.cause) == {
        "engine": "prepare",
        "version_range": "",
        "tag": "",
        "isolation": "group",
        "workers": 0,
        "nearest": (),
    }
    assert found.task_id == found.tasks[0].task_id
    assert found.tasks[0].kind is TaskKind.PREPARE
    assert "there is no worker at all" in text(found.cause, at=found.at)


async def test_the_workers_with_another_version_are_named(store: Store, project_id: int) -> None:
    for _ in range(2):
        await life.add_worker(store, engines=("pylint",))
    await life.add_worker(store, engines=("ruff",))

    cause, words = await waits_for(store, project_id, Requirement("pylint", ">=4"))

    assert isinstance(cause, NoWorkerFits)
    assert (cause.workers, cause.nearest) == (3, (Miss(("version",), "1.2", 2),))
    assert words == "waits: no worker offers pylint >=4; 2 workers have pylint 1.2"


async def test_an_engine_that_nobody_offers_is_named(store: Store, project_id: int) -> None:
    await life.add_worker(store, engines=("ruff",))

    cause, words = await waits_for(store, project_id, Requirement("pylint"))

    assert isinstance(cause, NoWorkerFits)
    assert cause.nearest == (Miss(("engine",), "", 1),)
    assert words == "waits: no worker offers pylint; 1 worker has no pylint"


@pytest.mark.parametrize(
    ("requirement", "lacks", "words"),
    [
        (
            Requirement("lines", "", "gpu"),
            ("tag",),
            "no worker offers lines with the tag gpu; 1 worker has not the tag gpu",
        ),
        (
            Requirement("lines", "", "", Isolation.BWRAP),
            ("isolation",),
            "no worker offers lines with isolation bwrap; 1 worker has a weaker isolation",
        ),
        (
            Requirement("lines", "<1", "gpu", Isolation.BWRAP),
            ("version", "tag", "isolation"),
            "no worker offers lines <1 with the tag gpu and isolation bwrap",
        ),
    ],
)
async def test_what_the_nearest_worker_lacks_is_named(
    store: Store, project_id: int, requirement: Requirement, lacks: tuple[str, ...], words: str
) -> None:
    registration = workers.Registration(
        name="near",
        instance_hash=b"n" * 32,
        tags=["cpu"],
        engines=[{"name": "lines", "version": "1.2", "module": "codemetric", "languages": []}],
        slots=1,
        isolation="group",
        version="1",
    )
    await workers.register(store, registration, retry=life.RETRY)

    cause, said = await waits_for(store, project_id, requirement)

    assert isinstance(cause, NoWorkerFits)
    assert cause.nearest == (Miss(lacks, "1.2", 1),)
    assert words in said


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("directive = 'drain'", "draining"),
        ("is_draining = true", "draining"),
        ("directive = 'pause'", "paused"),
        ("quarantined_until = now() + interval '1 min'", "quarantined"),
    ],
)
async def test_workers_that_fit_and_take_nothing_are_counted(
    store: Store, project_id: int, change: str, state: str
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute(f"UPDATE workers SET {change}")
    assert await life.claim(store, worker) == []

    cause, words = await told(store, job_id)

    counts = {"draining": 0, "paused": 0, "quarantined": 0, "lost": 0} | {state: 1}
    assert cause == WorkersUnavailable(**counts)
    assert words == f"waits: no worker that fits takes tasks (1 {state})"


@pytest.mark.parametrize("change", ["", ", directive = 'pause', is_draining = true"])
async def test_workers_that_are_lost_are_told_from_workers_that_never_were(
    store: Store, project_id: int, change: str
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute(f"UPDATE workers SET lost_at = now() {change}")

    cause, _ = await told(store, job_id)

    assert cause == WorkersUnavailable(draining=0, paused=0, quarantined=0, lost=1)


# --- in the queue ---------------------------------------------------------------------------------


async def test_a_task_with_a_free_slot_is_to_be_claimed(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)

    cause, words = await told(store, job_id)

    assert cause == ClaimDue(slots=4, free=4, position=1)
    assert words == "is about to be claimed: 4 of 4 fitting slots free"


async def test_a_task_behind_others_says_its_position(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_ids = await queued(store, [await add_project(store.db) for _ in range(7)])
    assert len(await life.claim(store, worker, slots=3)) == 3

    causes = [(await told(store, job_id))[0] for job_id in job_ids[3:]]

    assert causes == [
        ClaimDue(slots=4, free=1, position=1),
        *(SlotsBusy(slots=4, free=1, position=position) for position in (2, 3, 4)),
    ]
    assert len(await life.claim(store, worker)) == 1
    cause, words = await told(store, job_ids[-1])
    assert cause == SlotsBusy(slots=4, free=0, position=3)
    assert words == "is in the queue at position 3: all 4 fitting slots busy"


async def test_the_queue_of_a_task_is_that_of_its_workers(store: Store, project_id: int) -> None:
    both = await life.add_worker(store, engines=("lines", "ruff"))
    await life.add_worker(store, engines=("pylint",))
    job_id = await life.planned_job(
        store, project_id, both, engines=("lines", "ruff", "pylint", "ruff")
    )
    await store.db.execute("UPDATE workers SET slots = 1")

    found = await explain(store, job_id)

    places = {
        (task.engine, task.cause.position): task.cause.slots
        for task in found.tasks
        if isinstance(task.cause, SlotsBusy | ClaimDue)
    }
    assert places == {("lines", 1): 1, ("ruff", 2): 1, ("pylint", 1): 1, ("ruff", 3): 1}


async def test_a_position_is_counted_to_a_bound(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute(
        "INSERT INTO task_ready (task_id, job_id, project_id, class_id, sort_key)"
        " SELECT -n, job_id, project_id, class_id, sort_key FROM task_ready,"
        " generate_series(1, 10000) AS n"
    )

    cause, words = await told(store, job_id)

    assert cause == SlotsBusy(slots=4, free=4, position=10_001)
    assert "position more than 10,000" in words
    await store.db.execute("DELETE FROM task_ready WHERE task_id = -1")
    assert (await told(store, job_id))[0] == SlotsBusy(slots=4, free=4, position=10_000)


@pytest.mark.parametrize(
    ("reason", "limited", "words"),
    [
        ("limit_organization", "UPDATE organizations SET max_running = 2", "its organisation"),
        ("limit_project", "UPDATE projects SET max_running = 2", "its project"),
        ("limit_engine", "INSERT INTO engine_limits VALUES ('lines', 2)", "its engine"),
    ],
)
async def test_a_limit_is_named_with_its_numbers(
    store: Store, project_id: int, reason: str, limited: str, words: str
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute(limited)
    await store.db.execute(
        "INSERT INTO task_grants (task_id, project_id, org_id, engine)"
        " SELECT -n, $1, (SELECT id FROM organizations), 'lines' FROM generate_series(1, 2) AS n",
        project_id,
    )
    await store.db.execute(
        "WITH r AS (DELETE FROM task_ready RETURNING *) INSERT INTO task_pending"
        " (task_id, job_id, project_id, class_id, sort_key, failures, resets, not_before, reason)"
        " SELECT task_id, job_id, project_id, class_id, sort_key, 0, 0, now(), $1 FROM r",
        reason,
    )

    cause, said = await told(store, job_id)

    assert cause == LimitReached(WaitReason(reason), limit=2, used=2)
    assert said == f"waits: the limit of {words} is reached (2 of 2 tasks)"


# --- on a worker, and after -----------------------------------------------------------------------


async def test_an_offer_names_the_worker_and_its_end(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim(store, worker)

    cause, words = await told(store, job_id)

    assert isinstance(cause, Offered)
    assert (cause.worker_id, cause.worker) == (worker, "w")
    assert cause.until - cause.since == timedelta(seconds=30)
    assert words.startswith("was offered to worker w, which is to start it within")


async def test_a_running_task_says_how_far_it_is(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    beat = ProgressBeat(task.offer.attempt_id, "running", 30, 1200)
    await beats.beat(store, worker, [beat], is_draining=False, lease_s=30)

    cause, words = await told(store, job_id)

    assert age(cause) == {
        "worker_id": worker,
        "worker": "w",
        "step": "running",
        "files_done": 30,
        "files_planned": 1200,
    }
    assert words.startswith("has been running on worker w for")
    assert words.endswith("(running), 30 of 1,200 files done")


async def test_a_silent_worker_and_the_end_of_its_lease_are_named(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    await store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '12 s'")

    cause, words = await told(store, job_id)

    assert isinstance(cause, WorkerSilent)
    assert cause.until - cause.since == timedelta(seconds=30)
    assert words == "waits for worker w, silent for 12 s; its lease ends in 18 s"


async def test_a_lost_task_is_in_the_queue_again_and_then_tried_later(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    await reaping.lose_attempts(store, [worker], retry=life.RETRY)
    assert isinstance((await told(store, job_id))[0], ClaimDue)
    await life.claim_and_start(store, worker)

    await reaping.lose_attempts(store, [worker], retry=life.RETRY)

    cause, words = await told(store, job_id)
    assert age(cause) == {"failures": 0, "resets": 2}
    assert words.endswith("after 2 lost workers")


async def test_a_retry_says_when_and_after_how_many_failures(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.finish(
        store, await life.claim_and_start(store, worker), reason=Reason.CHECKOUT_FAILED
    )
    await store.db.execute("UPDATE task_pending SET not_before = now() + interval '100 s'")

    cause, words = await told(store, job_id)

    assert isinstance(cause, RetryDelayed)
    assert age(cause) == {"failures": 1, "resets": 0}
    assert words == "is tried again in 1 min 40 s after 1 failure"


async def test_a_job_tells_of_its_task_that_is_furthest_from_its_end(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(
        store, project_id, worker, engines=("lines", "ruff", "unheard-of")
    )
    await life.claim_and_start(store, worker)

    found = await explain(store, job_id)

    assert [type(task.cause) for task in found.tasks] == [Closed, Running, ClaimDue, NoWorkerFits]
    assert found.task_id == found.tasks[3].task_id


async def test_what_schedulers_are_to_do_next_is_told(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await prepared(store, project_id, worker)
    assert isinstance((await told(store, job_id))[0], PlanningDue)
    await life.plan(store, job_id)
    await life.finish(store, await life.claim_and_start(store, worker))
    assert isinstance((await told(store, job_id))[0], SettlingDue)

    await settling.save(store, job_id, superseded_msg="{}")

    found = await explain(store, job_id)
    assert isinstance(found.cause, Saving)
    assert found.expires_at is None


async def test_a_closed_job_says_its_code(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    await jobs.cancel(store, job_id, remarks="wrong branch", by="bob")

    cause, words = await told(store, job_id)

    assert isinstance(cause, Closed)
    assert cause.result_code == ResultCode.CANCELLED
    assert words.startswith("is closed with 301: User( bob ) Canceled: wrong branch")


async def test_what_is_left_of_a_closed_job_is_closed_with_it(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    # As if a claim had committed after the close looked.
    await store.db.execute(
        "UPDATE jobs SET phase = 'closed', open_tasks = 0, result_code = 301, result_msg = 'x',"
        " ended_at = now() WHERE id = $1",
        job_id,
    )

    assert age((await only_task(store, job_id)).cause) == {"result_code": 301, "result_msg": "x"}


# --- estimates ------------------------------------------------------------------------------------


async def run_jobs(store: Store, project_id: int, worker: WorkerId, runs_s: list[int]) -> None:
    """Close jobs whose engine ran for so long."""
    for run_s in runs_s:
        job_id = await life.planned_job(store, project_id, worker)
        await life.finish(store, await life.claim_and_start(store, worker))
        await store.db.execute(
            "UPDATE task_attempts AS a SET started_at = a.ended_at - make_interval(secs => $2)"
            " FROM tasks AS t WHERE a.task_id = t.id AND t.job_id = $1 AND t.kind = 'engine'",
            job_id,
            run_s,
        )
        await jobs.close(store, [job_id], code=0, message="", reason=Reason.JOB_CLOSED)


async def test_an_estimate_is_the_median_of_earlier_runs(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await run_jobs(store, project_id, worker, [10, 500, 20])
    job_id = await life.planned_job(store, project_id, worker)

    task = await only_task(store, job_id)

    assert task.estimate == Estimate(0.0, 20.0, median_s=20.0, samples=3)
    assert (await explain(store, job_id)).ends_in_s == 20.0


async def test_a_place_in_the_queue_lengthens_the_estimate(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await run_jobs(store, project_id, worker, [20, 20, 20])
    others = [await add_project(store.db) for _ in range(6)]
    *_, job_id = await queued(store, [*others, project_id])
    assert len(await life.claim(store, worker, slots=4)) == 4

    task = await only_task(store, job_id)

    assert task.cause == SlotsBusy(slots=4, free=0, position=3)
    assert task.estimate == Estimate(15.0, 35.0, median_s=20.0, samples=3)


async def test_without_history_there_is_no_estimate(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await run_jobs(store, project_id, worker, [10, 20])
    job_id = await life.planned_job(store, project_id, worker)

    assert (await only_task(store, job_id)).estimate is None
    assert (await explain(store, job_id)).ends_in_s is None


async def test_a_run_longer_than_usual_has_no_estimate(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await run_jobs(store, project_id, worker, [20, 20, 20])
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    estimate = (await only_task(store, job_id)).estimate
    assert estimate is not None
    assert estimate.ends_in_s is not None
    assert 0 < estimate.ends_in_s <= 20

    await store.db.execute("UPDATE task_leases SET started_at = now() - interval '21 s'")

    assert (await only_task(store, job_id)).estimate is None


# --- always ---------------------------------------------------------------------------------------


async def test_there_is_one_answer_at_any_moment_of_a_jobs_life(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "ruff", "lines"))
    is_over = asyncio.Event()
    seen: set[WaitReason] = set()

    async def ask() -> None:
        while not is_over.is_set():
            found = await why.explain(store, job_id)
            assert len(found.tasks) == 4
            seen.update(task.cause.reason for task in found.tasks)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask())
        ends = [Reason.HANDED_BACK, Reason.CHECKOUT_FAILED, Reason.WORKER_INTERRUPTED]
        for reason in [*ends, None, None, None]:
            await life.finish(store, await life.claim_and_start(store, worker), reason=reason)
            await store.db.execute("UPDATE task_pending SET not_before = now()")
            await reaping.promote(store)
        is_over.set()

    assert seen >= {WaitReason.CLAIM_DUE, WaitReason.CLOSED}
    assert isinstance((await told(store, job_id))[0], SettlingDue)


def test_every_reason_is_somebodys_and_has_its_meaning() -> None:
    classes_of = {*get_args(TaskCause), *get_args(JobCause)} - {LimitReached}
    limits = {WaitReason.LIMIT_ORGANIZATION, WaitReason.LIMIT_PROJECT, WaitReason.LIMIT_ENGINE}

    assert {cause.reason for cause in classes_of} | limits == set(WaitReason)
    assert len(classes_of) + len(limits) == len(WaitReason)
    assert set(MEANINGS) == set(WaitReason)
