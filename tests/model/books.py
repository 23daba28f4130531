"""The model: the same jobs, tasks and workers in plain Python, as the documents say they behave.

Knows nothing of SQL. Where the database alone can know (the ids it gives), the model learns from
what was seen, and checks that the database was free to choose so. Time is a number that the tests
move; all limits are far longer than an example takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.domain.codes import ResultCode
from core.domain.outcomes import CODE_OF_REASON, RESETTING, RETRYABLE, Outcome, Reason
from core.domain.states import (
    FIRST_PLACES,
    MOVES,
    STARTED_PHASES,
    STATE_OF_PHASE,
    TRANSITIONS,
    ActiveJobPolicy,
    JobPhase,
    TaskKind,
    TaskPlace,
)
from tests.model.picture import Event, Picture, Values

#: How far time moves at once, s. Every limit below lies between two multiples of it.
TICK_S = 10_000.0
LEASE_S = 5_000.0
START_S = 5_000.0
ADMISSION_S = 5_000.0
HEAD_START_S = 5_000.0
SAVING_S = 5_000.0
#: Minutes, as schemes have it: one tick is not enough to be late, two are.
RUNTIME_MINUTES = 250
KEY_S = 86_400.0
MAX_ATTEMPTS = 3
MAX_RESETS = 3
#: A task is handed back uncounted, but not for ever.
MAX_HANDED_BACK = 100
#: Of every worker that registers.
SLOTS = 4

_WORKABLE = frozenset({JobPhase.PREPARING, JobPhase.QUEUED, JobPhase.RUNNING})


class Mismatch(AssertionError):
    """Database and model disagree."""


def require(condition: object, text: str) -> None:
    """Raise `Mismatch` with *text* unless *condition* holds."""
    if not condition:
        raise Mismatch(text)


@dataclass(slots=True)
class Project:
    """A project and the base of its next incremental scan."""

    id: int
    cancels_siblings: bool
    is_active: bool = True
    base_job: int | None = None


@dataclass(slots=True)
class Job:
    """A job."""

    id: int
    scan_id: int
    project_id: int
    is_forced: bool
    is_incremental: bool
    revision: str | None
    expires_at: float
    phase: JobPhase = JobPhase.WAITING
    code: int | None = None
    task_num: int = 0
    open_tasks: int = 0
    prepare_task: int | None = None
    token: str | None = None
    admitted_until: float = 0.0
    saving_at: float = 0.0

    def become(self, phase: JobPhase) -> None:
        """Change the phase, as the one table of transitions allows."""
        require(phase in TRANSITIONS[self.phase], f"job {self.id}: {self.phase} → {phase}")
        self.phase = phase

    @property
    def is_open(self) -> bool:
        return self.phase is not JobPhase.CLOSED

    @property
    def holds_its_project(self) -> bool:
        return not self.is_forced and self.phase in STARTED_PHASES


@dataclass(slots=True)
class Lease:
    """The right of a worker to a task."""

    attempt: int
    worker: int
    number: int
    token: str
    claim: str
    index: int
    since: float


@dataclass(slots=True)
class Attempt:
    """A try that is over."""

    id: int
    worker: int
    number: int
    token: str
    outcome: Outcome
    reason: Reason | None
    #: What was accepted; None: the server ended it.
    body: str | None = None


@dataclass(slots=True)
class Task:
    """A task, in one place."""

    id: int
    job: int
    kind: TaskKind
    engine: str
    class_id: int
    sort_key: int
    since: float
    place: TaskPlace
    failures: int = 0
    resets: int = 0
    preferred: int | None = None
    lease: Lease | None = None
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Values | None = None

    def __post_init__(self) -> None:
        require(self.place in FIRST_PLACES, f"task {self.id} begins {self.place}")

    def go(self, place: TaskPlace, now: float) -> None:
        """Move, as the one table of moves allows."""
        require(place in MOVES[self.place], f"task {self.id}: {self.place} → {place}")
        if place in {TaskPlace.READY, TaskPlace.PENDING, TaskPlace.CLOSED}:
            self.lease, self.preferred = None, None
        self.place, self.since = place, now

    def held(self) -> Lease:
        """Return its lease; there must be one."""
        require(self.lease, f"task {self.id} has no lease")
        assert self.lease is not None
        return self.lease

    def end_attempt(self, outcome: Outcome, reason: Reason | None, body: str | None = None) -> None:
        """Write the lease into the history."""
        held = self.held()
        self.attempts.append(
            Attempt(held.attempt, held.worker, held.number, held.token, outcome, reason, body)
        )

    def close(
        self, now: float, outcome: Outcome, reason: Reason | None, attempt: int | None
    ) -> None:
        """Give it its outcome: once."""
        self.go(TaskPlace.CLOSED, now)
        self.outcome = {
            "job": self.job,
            "outcome": outcome.value,
            "reason": reason.value if reason else None,
            "code": int(CODE_OF_REASON[reason]) if reason else 0,
            "attempt": attempt,
        }


@dataclass(slots=True)
class Worker:
    """A worker, by the server's books."""

    id: int
    classes: frozenset[int]
    seen_at: float
    is_lost: bool = False
    is_draining: bool = False
    directive: str | None = None


@dataclass(slots=True)
class Key:
    """What an idempotency key was used for."""

    arguments: tuple[Any, ...]
    job: int
    at: float


@dataclass(slots=True)
class Books:
    """Everything."""

    now: float = 0.0
    projects: dict[int, Project] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    #: Of the step under way.
    events: Counter[Event] = field(default_factory=Counter)

    def write(
        self,
        kind: str,
        job: int | None = None,
        task: int | None = None,
        attempt: int | None = None,
        worker: int | None = None,
    ) -> None:
        """Write an event."""
        self.events[kind, job, task, attempt, worker] += 1

    # -- looking ---------------------------------------------------------------------------

    def jobs_of(self, project_id: int) -> list[Job]:
        """Return the jobs of a project, oldest first."""
        return sorted(
            (job for job in self.jobs.values() if job.project_id == project_id),
            key=lambda job: job.id,
        )

    def tasks_of(self, job_id: int) -> list[Task]:
        """Return the tasks of a job, in order."""
        return sorted(
            (task for task in self.tasks.values() if task.job == job_id), key=lambda task: task.id
        )

    def leased(self, where: Callable[[Task, Lease], bool]) -> list[Task]:
        """Return the tasks under a lease for which *where* holds, in order of the attempts."""
        found = [task for task in self.tasks.values() if task.lease and where(task, task.lease)]
        return sorted(found, key=lambda task: task.held().attempt)

    def held_by(self, worker: int) -> list[Task]:
        """Return the tasks a worker holds a lease of, in order of the attempts."""
        return self.leased(lambda _, lease: lease.worker == worker)

    def picture(self) -> Picture:
        """Return what the database must hold."""
        return Picture(
            jobs={job.id: _job_values(job) for job in self.jobs.values()},
            tasks={
                task.id: {
                    "job": task.job,
                    "kind": task.kind.value,
                    "engine": task.engine,
                    "class": task.class_id,
                }
                for task in self.tasks.values()
            },
            places={task.id: {task.place: _place_values(task)} for task in self.tasks.values()},
            attempts={
                (task.id, attempt.id): {
                    "job": task.job,
                    "worker": attempt.worker,
                    "number": attempt.number,
                    "outcome": attempt.outcome.value,
                    "reason": attempt.reason.value if attempt.reason else None,
                    "is_accepted": attempt.body is not None,
                }
                for task in self.tasks.values()
                for attempt in task.attempts
            },
            workers={
                worker.id: {
                    "is_lost": worker.is_lost,
                    "is_draining": worker.is_draining,
                    "directive": worker.directive,
                }
                for worker in self.workers.values()
            },
            bases={project.id: project.base_job for project in self.projects.values()},
            events=self.events,
        )

    # -- jobs ------------------------------------------------------------------------------

    def joinable(
        self, project_id: int, *, is_incremental: bool, revision: str | None
    ) -> Job | None:
        """Return the job that a create with the policy `join` is answered with."""
        for job in reversed(self.jobs_of(project_id)):
            if (
                job.phase is JobPhase.WAITING
                and not job.is_forced
                and (job.is_incremental, job.revision) == (is_incremental, revision)
            ):
                return job
        return None

    def admissible(self) -> list[Job]:
        """Return the waiting jobs that may start: forced, or without an earlier open one."""
        return [
            job
            for job in sorted(self.jobs.values(), key=lambda job: job.id)
            if job.phase is JobPhase.WAITING
            and (
                job.is_forced
                or not any(
                    earlier.is_open and earlier.id < job.id
                    for earlier in self.jobs_of(job.project_id)
                )
            )
        ]

    def abandoned(self) -> list[Job]:
        """Return the jobs whose admission has run out."""
        return [
            job
            for job in sorted(self.jobs.values(), key=lambda job: job.id)
            if job.phase is JobPhase.RESOLVING and job.admitted_until < self.now
        ]

    def admit(self, job: Job, token: str) -> None:
        """Lease a job to a scheduler."""
        if job.phase is not JobPhase.RESOLVING:
            job.become(JobPhase.RESOLVING)
        job.token, job.admitted_until = token, self.now + ADMISSION_S

    def close(
        self, jobs: Iterable[Job], code: int, reason: Reason, *, event: str = "job.closed"
    ) -> None:
        """Close jobs and what is left of their tasks."""
        for job in jobs:
            job.become(JobPhase.CLOSED)
            job.code, job.open_tasks, job.token = code, 0, None
            self.write(event, job.id)
            self.sweep(job, reason)

    def sweep(self, job: Job, reason: Reason) -> None:
        """Close what is left of the tasks of a closed job."""
        for task in self.tasks_of(job.id):
            if task.place is TaskPlace.CLOSED:
                continue
            if task.lease:
                task.end_attempt(Outcome.CANCELLED, reason)
            task.close(self.now, Outcome.CANCELLED, reason, None)
            self.write("task.closed", job.id, task.id)

    def become_base(self, job: Job) -> None:
        """Make a job what the next incremental scan starts from, unless a newer one is."""
        project = self.projects[job.project_id]
        if project.base_job is None or project.base_job < job.id:
            project.base_job = job.id

    # -- attempts --------------------------------------------------------------------------

    def claimable(self, worker: Worker, head_start_s: float) -> list[Task]:
        """Return the ready tasks a worker may be offered, first one first."""
        if worker.directive or worker.is_draining:
            return []
        found = [
            task
            for task in self.tasks.values()
            if task.place is TaskPlace.READY
            and task.class_id in worker.classes
            and (
                task.preferred in {None, worker.id}
                or head_start_s == 0
                or task.since + head_start_s < self.now
            )
        ]
        return sorted(found, key=lambda task: (task.sort_key, task.id))

    def offer(self, task: Task, lease: Lease) -> None:
        """Lease a ready task."""
        task.go(TaskPlace.OFFERED, self.now)
        task.lease = lease

    def start(self, task: Task) -> bool:
        """Start an offered task, if its job is open; asked again, the same."""
        job = self.jobs[task.job]
        if job.phase not in _WORKABLE:
            return False
        if task.place is TaskPlace.RUNNING:
            return True
        task.go(TaskPlace.RUNNING, self.now)
        held = task.held()
        self.write("task.started", job.id, task.id, held.attempt, held.worker)
        if task.kind is TaskKind.ENGINE and job.phase is JobPhase.QUEUED:
            job.become(JobPhase.RUNNING)
            job.expires_at = self.now + RUNTIME_MINUTES * 60
            self.write("job.started", job.id)
        return True

    def requeue(self, tasks: Iterable[Task]) -> None:
        """Return tasks that were only offered to the queue, uncounted."""
        for task in tasks:
            held = task.held()
            self.write("task.requeued", task.job, task.id, held.attempt, held.worker)
            task.go(TaskPlace.READY, self.now)

    def finish(self, task: Task, reason: Reason | None, body: str) -> None:
        """Accept a result: hand back, retry or close the task."""
        held = task.held()
        outcome = outcome_of(reason)
        task.end_attempt(outcome, reason, body)
        if reason is Reason.HANDED_BACK and held.number < MAX_HANDED_BACK:
            task.go(TaskPlace.READY, self.now)
            kind = "task.requeued"
        elif reason in RESETTING and task.resets + 1 < MAX_RESETS:
            task.resets += 1
            task.go(TaskPlace.PENDING, self.now)
            kind = "task.retried"
        elif reason in RETRYABLE - RESETTING and task.failures + 1 < MAX_ATTEMPTS:
            task.failures += 1
            task.go(TaskPlace.PENDING, self.now)
            kind = "task.retried"
        else:
            self._end(task, outcome, reason, held.attempt)
            kind = "task.closed"
        self.write(kind, task.job, task.id, held.attempt, held.worker)

    def lose(self, tasks: Iterable[Task]) -> None:
        """Take running tasks from workers that are gone."""
        for task in tasks:
            if task.place is not TaskPlace.RUNNING or self.jobs[task.job].phase not in _WORKABLE:
                continue
            held = task.held()
            task.end_attempt(Outcome.LOST, Reason.WORKER_LOST)
            if task.resets + 1 < MAX_RESETS:
                # The first loss may be any worker's; from the second on the task may be its cause.
                task.go(TaskPlace.PENDING if task.resets else TaskPlace.READY, self.now)
                task.resets += 1
                kind = "task.requeued"
            else:
                self._end(task, Outcome.LOST, Reason.WORKER_LOST, held.attempt)
                kind = "task.closed"
            self.write(kind, task.job, task.id, held.attempt, held.worker)

    def _end(
        self, task: Task, outcome: Outcome, reason: Reason | None, attempt: int | None
    ) -> None:
        task.close(self.now, outcome, reason, attempt)
        if task.kind is TaskKind.ENGINE:
            self.jobs[task.job].open_tasks -= 1


def outcome_of(reason: Reason | None) -> Outcome:
    """Return the outcome a worker reports with *reason*."""
    match reason:
        case None:
            return Outcome.SUCCEEDED
        case Reason.CANCELLED:
            return Outcome.CANCELLED
        case _:
            return Outcome.FAILED


def overdue_code(books: Books, job: Job) -> ResultCode:
    """Return the code of a job past its deadline."""
    fits = {
        class_id
        for worker in books.workers.values()
        if not worker.is_lost
        for class_id in worker.classes
    }
    is_stuck = any(
        task.place is TaskPlace.READY and task.class_id not in fits
        for task in books.tasks_of(job.id)
    )
    if is_stuck and job.phase is not JobPhase.RUNNING:
        return ResultCode.NO_WORKER_FITS
    return ResultCode.JOB_TIMEOUT


def first(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return the first *count* of *tasks*."""
    return list(tasks[:count])


def _job_values(job: Job) -> Values:
    return {
        "project": job.project_id,
        "phase": job.phase.value,
        "state": int(STATE_OF_PHASE[job.phase]),
        "code": job.code,
        "task_num": job.task_num,
        "open_tasks": job.open_tasks,
        "prepare_task": job.prepare_task,
        "token": job.token,
    }


def _place_values(task: Task) -> Values:
    if task.outcome is not None:
        return task.outcome
    values: Values = {
        "job": task.job,
        "class": task.class_id,
        "sort_key": task.sort_key,
        "failures": task.failures,
        "resets": task.resets,
    }
    if task.place is TaskPlace.READY:
        values["preferred"] = task.preferred
    if task.lease is not None:
        values |= {
            "attempt": task.lease.attempt,
            "worker": task.lease.worker,
            "number": task.lease.number,
            "token": task.lease.token,
            "claim": task.lease.claim,
            "index": task.lease.index,
        }
    return values


def policy_refuses(books: Books, project_id: int, policy: ActiveJobPolicy) -> list[int]:
    """Return the scans because of which a create is refused; [] where it is not."""
    if policy is not ActiveJobPolicy.REJECT:
        return []
    return sorted(job.scan_id for job in books.jobs_of(project_id) if job.is_open)
