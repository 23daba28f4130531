"""What the store says of why a job is where it is, beside what the model says.

Exactly one reason for a job and for each of its tasks, and of each reason the facts that the model
knows: what it names (the job ahead, the worker) and what it counts (slots, places, retries).
"""

from __future__ import annotations

from core.domain.ids import JobId
from core.domain.states import JobPhase, TaskPlace
from core.domain.waiting import Cause, WaitReason, text
from core.runtime.settings import LeaseSettings
from core.store.store import Store
from core.store.why import Explanation, explain
from tests.model.books import LEASE_S, SLOTS, START_S, Books, Job, Task, Worker, require
from tests.model.picture import Values

#: A worker is silent after two heartbeats: longer than an example takes, shorter than a tick.
_SILENT_S = 4_000.0
_LEASE = LeaseSettings(
    lease_s=LEASE_S, fence_s=LEASE_S - 500, heartbeat_s=_SILENT_S / 2, start_s=START_S
)

#: A reason and its facts.
Why = tuple[WaitReason, Values]

_FAR_TO_NEAR = (
    WaitReason.NO_WORKER_FITS,
    WaitReason.WORKERS_UNAVAILABLE,
    WaitReason.RETRY_DELAYED,
    WaitReason.SLOTS_BUSY,
    WaitReason.CLAIM_DUE,
    WaitReason.OFFERED,
    WaitReason.WORKER_SILENT,
    WaitReason.RUNNING,
)


async def check(store: Store, books: Books, job: Job) -> None:
    """Raise `Mismatch` unless the store explains a job as the model does."""
    explanation = await explain(store, JobId(job.id), lease=_LEASE)
    tasks = _tasks(books, job)
    whys = {task.id: _of_task(books, task) for task in tasks}
    told = [one.task_id for one in explanation.tasks]
    require(told == list(whys), f"job {job.id} has tasks {list(whys)}, {told} explained")
    for one in explanation.tasks:
        _agree(f"task {one.task_id}", explanation, one.cause, whys[one.task_id])
    holding, why = _of_job(books, job, tasks, whys)
    _agree(f"job {job.id}", explanation, explanation.cause, why)
    require(
        explanation.task_id == holding,
        f"job {job.id} is held up by task {holding}, not by {explanation.task_id}",
    )


def _agree(what: str, explanation: Explanation, cause: Cause, why: Why) -> None:
    reason, facts = why
    found = {name: getattr(cause, name, "not told") for name in facts}
    require(
        (cause.reason, found) == (reason, facts),
        f"{what} is explained by {cause}, the model says {reason.value} {facts}",
    )
    require(text(cause, at=explanation.at), f"{what} is explained without words")


def _tasks(books: Books, job: Job) -> list[Task]:
    """Return the tasks that are explained."""
    return [] if job.prepare_task is None else books.tasks_of(job.id)


# --- jobs -----------------------------------------------------------------------------------------


def _of_job(
    books: Books, job: Job, tasks: list[Task], whys: dict[int, Why]
) -> tuple[int | None, Why]:
    """Return why a job is where it is, and whose reason this is: its own (None) or a task's."""
    if job.phase is JobPhase.CLOSED:
        return None, (WaitReason.CLOSED, {"result_code": job.code})
    if job.phase is JobPhase.SAVING:
        return None, (WaitReason.SAVING, {})
    if job.expires_at < books.now:
        return None, (WaitReason.DEADLINE_PASSED, {})
    if job.phase is JobPhase.WAITING:
        return None, _of_waiting(books, job)
    if job.phase is JobPhase.RESOLVING:
        return None, (WaitReason.RESOLVING, {})
    is_open = [task for task in tasks if task.place is not TaskPlace.CLOSED]
    if not is_open:
        is_prepared = job.phase is JobPhase.PREPARING
        return None, (WaitReason.PLANNING_DUE if is_prepared else WaitReason.SETTLING_DUE, {})
    far = min(is_open, key=lambda task: _FAR_TO_NEAR.index(whys[task.id][0]))
    # Of several with the same reason the first: the job's facts are that task's.
    return far.id, whys[far.id]


def _of_waiting(books: Books, job: Job) -> Why:
    ahead = [one for one in books.jobs_of(job.project_id) if one.is_open and one.id < job.id]
    if ahead and not job.is_forced:
        first = ahead[0]
        facts = {"job_id": first.id, "scan_id": first.scan_id, "jobs_ahead": len(ahead)}
        return WaitReason.JOB_AHEAD, facts
    resolving = [one for one in books.jobs.values() if one.phase is JobPhase.RESOLVING]
    return WaitReason.ADMISSION_DUE, {"resolving": len(resolving)}


# --- tasks ----------------------------------------------------------------------------------------


def _of_task(books: Books, task: Task) -> Why:
    match task.place:
        case TaskPlace.CLOSED:
            assert task.outcome is not None
            return WaitReason.CLOSED, {"result_code": task.outcome["code"]}
        case TaskPlace.PENDING:
            facts = {"failures": task.failures, "resets": task.resets}
            return WaitReason.RETRY_DELAYED, facts
        case TaskPlace.OFFERED:
            return WaitReason.OFFERED, {"worker_id": task.held().worker}
        case TaskPlace.RUNNING:
            worker = books.workers[task.held().worker]
            is_silent = worker.is_lost or worker.seen_at + _SILENT_S < books.now
            reason = WaitReason.WORKER_SILENT if is_silent else WaitReason.RUNNING
            return reason, {"worker_id": worker.id}
        case TaskPlace.READY:
            return _of_ready(books, task)


def _of_ready(books: Books, task: Task) -> Why:
    fitting = [worker for worker in books.workers.values() if task.class_id in worker.classes]
    if not fitting:
        live = [worker for worker in books.workers.values() if not worker.is_lost]
        return WaitReason.NO_WORKER_FITS, {"engine": task.engine, "workers": len(live)}
    states = [_state(worker) for worker in fitting]
    if "live" not in states:
        counts: Values = {state: states.count(state) for state in ("draining", "paused", "lost")}
        return WaitReason.WORKERS_UNAVAILABLE, counts | {"quarantined": 0}
    takers = [worker for worker in fitting if _state(worker) == "live"]
    free = sum(max(SLOTS - len(books.held_by(worker.id)), 0) for worker in takers)
    position = _position(books, task)
    reason = WaitReason.CLAIM_DUE if position <= free else WaitReason.SLOTS_BUSY
    return reason, {"slots": SLOTS * len(takers), "free": free, "position": position}


def _state(worker: Worker) -> str:
    if worker.is_lost:
        return "lost"
    if worker.is_draining or worker.directive == "drain":
        return "draining"
    return "paused" if worker.directive == "pause" else "live"


def _position(books: Books, task: Task) -> int:
    """Return the place of a task among all that go to workers which could take it, from 1."""
    classes: set[int] = {task.class_id}
    for worker in books.workers.values():
        if task.class_id in worker.classes:
            classes |= worker.classes
    return 1 + sum(
        (other.sort_key, other.id) < (task.sort_key, task.id)
        for other in books.tasks.values()
        if other.place is TaskPlace.READY and other.class_id in classes
    )
