"""What can be done to a store: each operation does it for real, and says what the model expects.

`perform` calls the public functions of `core.store`; `expect` changes the model and returns the
answer `perform` must have given. Ids come from what was seen (`Seen`).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from core.domain.codes import ResultCode
from core.domain.errors import ActiveJobExists, InvalidField
from core.domain.ids import AttemptId, JobId, ProjectId, ScanId, TokenId, WorkerId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import (
    ActiveJobPolicy,
    FullReason,
    JobPhase,
    ScanType,
    TaskKind,
    TaskPlace,
)
from core.runtime.settings import SchedulerSettings
from core.store import admissions, attempts, beats, jobs, reaping, settling, workers
from core.store.admissions import Base, PlannedTask, Resolved
from core.store.attempts import AttemptProof, Finished, FinishVerdict, Offer
from core.store.beats import ProgressBeat
from core.store.store import Store
from scheduler.expirer import Expirer
from tests.model import books as model
from tests.model.books import Attempt, Books, Job, Key, Lease, Task, Worker, require
from tests.model.picture import Picture

#: Longer than an example takes, shorter than the time that passes at once.
_BACKOFF_S = 4_000.0
RETRY = SchedulerSettings(
    max_attempts=model.MAX_ATTEMPTS,
    max_resets=model.MAX_RESETS,
    retry_base_s=_BACKOFF_S,
    retry_cap_s=_BACKOFF_S,
    saving_limit_s=model.SAVING_S,
    # Has tests of its own: tests/store/test_quarantine.py.
    quarantine_faults=0,
)
#: The back-off is a matter of chance: checked, then set to this, so that examples repeat.
_DUE_S = 5_000.0
_LOAD_DICE = """
UPDATE task_pending AS p
SET not_before = now() + make_interval(secs => $1)
FROM task_pending AS was
WHERE p.task_id = ANY($3::bigint[]) AND was.task_id = p.task_id
RETURNING
    was.not_before >= now() - interval '1 minute'
    AND was.not_before <= now() + make_interval(secs => $2) AS is_fair
"""
REVISION = "a" * 40


@dataclass(frozen=True, slots=True)
class World:
    """A database under test with its registry."""

    store: Store
    #: Engine → capability class; `prepare` for preparations.
    classes: Mapping[str, int]
    token_id: TokenId
    #: Moves every time in the database back.
    shift: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of an operation: whatever the model cannot know it learns from here."""

    answer: Any
    picture: Picture


class Operation(Protocol):
    """One call."""

    async def perform(self, world: World) -> Any:
        """Do it; return the answer as plain values."""
        ...

    def expect(self, books: Books, seen: Seen) -> Any:
        """Do it to the model; return the answer that must have come."""
        ...


# --- jobs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """A client asks for a job."""

    project: int
    policy: ActiveJobPolicy = ActiveJobPolicy.QUEUE
    is_forced: bool = False
    is_incremental: bool = True
    revision: str | None = None
    key: str | None = None
    queue_limit_s: float = 1e6

    def new_job(self, world: World) -> jobs.NewJob:
        """Return what the client asks for, as the store takes it."""
        return jobs.NewJob(
            project_id=ProjectId(self.project),
            is_incremental=self.is_incremental,
            is_forced=self.is_forced,
            revision=self.revision,
            created_from="api",
            creator="ann",
            policy=self.policy,
            queue_limit_s=self.queue_limit_s,
            idempotency=jobs.Idempotency(world.token_id, self.key) if self.key else None,
        )

    async def perform(self, world: World) -> Any:
        try:
            created = await jobs.create(world.store, self.new_job(world))
        except ActiveJobExists as error:
            return ("refused", error.scan_ids)
        except InvalidField as error:
            return ("invalid", error.field)
        return ("created", created.job_id, created.scan_id, created.is_new)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return (self.project, self.is_incremental, self.is_forced, self.revision)

    def expect(self, books: Books, seen: Seen) -> Any:
        if not books.projects[self.project].is_active:
            return ("invalid", "project")
        known = books.keys.get(self.key) if self.key else None
        if known is not None and known.at + model.KEY_S > books.now:
            if known.arguments != self._arguments:
                return ("invalid", "Idempotency-Key")
            return ("created", known.job, books.jobs[known.job].scan_id, False)
        job, is_new = None, False
        if not self.is_forced:
            refusing = model.policy_refuses(books, self.project, self.policy)
            if refusing:
                return ("refused", refusing)
            if self.policy is ActiveJobPolicy.JOIN:
                job = books.joinable(
                    self.project, is_incremental=self.is_incremental, revision=self.revision
                )
        if job is None:
            job, is_new = self._new(books, seen), True
        if self.key:
            books.keys[self.key] = Key(self._arguments, job.id, books.now)
        return ("created", job.id, job.scan_id, is_new)

    def _new(self, books: Books, seen: Seen) -> Job:
        require(seen.answer[0] == "created", f"a create was answered {seen.answer}")
        _, job_id, scan_id, _ = seen.answer
        others = [job.id for job in books.jobs_of(self.project)]
        require(job_id > max(others, default=0), f"job {job_id} is not the project's newest")
        books.jobs[job_id] = job = Job(
            id=job_id,
            scan_id=scan_id,
            project_id=self.project,
            is_forced=self.is_forced,
            is_incremental=self.is_incremental,
            revision=self.revision,
            expires_at=books.now + self.queue_limit_s,
        )
        books.write("job.created", job_id)
        return job


@dataclass(frozen=True, slots=True)
class OpenProject:
    """An operator closes a project, or opens it again."""

    project: int
    is_active: bool

    async def perform(self, world: World) -> Any:
        await world.store.db.execute(
            "UPDATE projects SET status = $2 WHERE id = $1",
            self.project,
            1 if self.is_active else 3,
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        books.projects[self.project].is_active = self.is_active


@dataclass(frozen=True, slots=True)
class Cancel:
    """A person cancels a job."""

    job: int

    async def perform(self, world: World) -> Any:
        return await jobs.cancel(world.store, JobId(self.job), remarks="no", by="ann")

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if not job.is_open:
            return False
        books.close([job], ResultCode.CANCELLED, Reason.CANCELLED, event="job.cancelled")
        return True


@dataclass(frozen=True, slots=True)
class Close:
    """The scheduler closes a job that is in one of some phases."""

    job: int
    code: int
    reason: Reason
    phases: frozenset[JobPhase]

    async def perform(self, world: World) -> Any:
        return await jobs.close(
            world.store,
            [JobId(self.job)],
            code=self.code,
            message="closed",
            reason=self.reason,
            phases=sorted(self.phases),
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase not in self.phases:
            return []
        books.close([job], self.code, self.reason)
        return [job.id]


# --- admissions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """A scheduler admits what may start, and takes over what another left behind."""

    token: str
    limit: int
    #: Projects whose jobs another call has under way: it skips those, and comes back.
    may_skip: frozenset[int] = frozenset()

    async def perform(self, world: World) -> Any:
        return await admissions.admit(
            world.store, uuid.UUID(self.token), lease_s=model.ADMISSION_S, limit=self.limit
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        taken = [books.jobs[job_id] for job_id in seen.answer]
        abandoned, admissible = books.abandoned(), books.admissible()
        # Which of them, where there are more than the limit, is a matter of fairness.
        require(len(taken) <= self.limit, f"{len(taken)} admitted of at most {self.limit}")
        require(
            all(job in abandoned or job in admissible for job in taken),
            f"{seen.answer} admitted, of {[job.id for job in (*abandoned, *admissible)]}",
        )
        due = [job for job in (*abandoned, *admissible) if job.project_id not in self.may_skip]
        is_short = len(taken) < min(self.limit, len(due))
        require(not is_short, f"only {seen.answer} admitted")
        for job in taken:
            books.admit(job, self.token)
        return sorted(job.id for job in taken)


@dataclass(frozen=True, slots=True)
class Abandon:
    """A scheduler that stops gives up what it was resolving."""

    job: int
    token: str

    async def perform(self, world: World) -> Any:
        await admissions.abandon(world.store, {JobId(self.job): uuid.UUID(self.token)})

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is JobPhase.RESOLVING and job.token == self.token:
            job.admitted_until = books.now - 1


@dataclass(frozen=True, slots=True)
class Prepare:
    """A scheduler that resolved a job queues its preparation."""

    job: int
    token: str
    sort_key: int = 0

    async def perform(self, world: World) -> Any:
        resolved = Resolved(
            revision=REVISION,
            base=None,
            config_hash="c",
            scan_type=ScanType.FULL,
            full_reason=FullReason.NO_BASE,
            class_id=world.classes["prepare"],
            spec={},
            sort_key=self.sort_key,
        )
        return await admissions.prepare(
            world.store, JobId(self.job), uuid.UUID(self.token), resolved
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is not JobPhase.RESOLVING or job.token != self.token:
            return False
        task_id = seen.picture.jobs[self.job]["prepare_task"]
        require(task_id is not None and task_id not in books.tasks, "a preparation is a new task")
        job.become(JobPhase.PREPARING)
        job.token, job.prepare_task = None, task_id
        books.tasks[task_id] = Task(
            id=task_id,
            job=job.id,
            kind=TaskKind.PREPARE,
            engine="prepare",
            class_id=seen.picture.tasks[task_id]["class"],
            sort_key=self.sort_key,
            since=books.now,
            place=TaskPlace.READY,
        )
        books.write("job.resolved", job.id, task_id)
        return True


@dataclass(frozen=True, slots=True)
class CloseUnchanged:
    """A scheduler finds that the head of the branch is the base."""

    job: int
    token: str
    base: int
    base_scan: int

    async def perform(self, world: World) -> Any:
        base = Base(JobId(self.base), ScanId(self.base_scan), REVISION, "c", {})
        return await admissions.close_unchanged(
            world.store, JobId(self.job), uuid.UUID(self.token), base, message="same"
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is not JobPhase.RESOLVING or job.token != self.token:
            return False
        books.close([job], ResultCode.NOTHING_CHANGED, Reason.JOB_CLOSED)
        books.become_base(job)
        return True


@dataclass(frozen=True, slots=True)
class Plan:
    """A scheduler gives a prepared job its engine tasks."""

    job: int
    engines: tuple[str, ...]
    sort_key: int = 0
    preferred: int | None = None

    async def perform(self, world: World) -> Any:
        tasks = [PlannedTask(name, "codemetric", world.classes[name], {}) for name in self.engines]
        return await admissions.plan(
            world.store,
            JobId(self.job),
            tasks,
            scan_type=ScanType.FULL,
            full_reason=FullReason.NO_BASE,
            base_revision=None,
            sort_key=self.sort_key,
            preferred_worker_id=None if self.preferred is None else WorkerId(self.preferred),
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is not JobPhase.PREPARING:
            return False
        job.become(JobPhase.QUEUED)
        job.task_num = job.open_tasks = len(self.engines)
        made = sorted(
            task_id
            for task_id, task in seen.picture.tasks.items()
            if task["job"] == job.id and task_id not in books.tasks
        )
        engines = tuple(seen.picture.tasks[task_id]["engine"] for task_id in made)
        require(engines == self.engines, f"tasks of {self.engines} asked for, {engines} made")
        for task_id in made:
            books.tasks[task_id] = Task(
                id=task_id,
                job=job.id,
                kind=TaskKind.ENGINE,
                engine=seen.picture.tasks[task_id]["engine"],
                class_id=seen.picture.tasks[task_id]["class"],
                sort_key=self.sort_key,
                since=books.now,
                place=TaskPlace.READY,
                preferred=self.preferred,
            )
        books.write("job.planned", job.id)
        return True


# --- workers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """A worker comes, or comes back after its process died."""

    key: bytes
    engines: tuple[str, ...]
    #: What these engines fit.
    classes: frozenset[int]
    #: None: a new one.
    worker: int | None = None

    async def perform(self, world: World) -> Any:
        registration = workers.Registration(
            name="rex",
            instance_hash=self.key,
            tags=[],
            engines=[
                {"name": name, "version": "1", "module": "codemetric", "languages": []}
                for name in self.engines
            ],
            slots=model.SLOTS,
            isolation="bwrap",
            version="1",
        )
        return await workers.register(world.store, registration, retry=RETRY)

    def expect(self, books: Books, seen: Seen) -> Any:
        if self.worker is None:
            require(seen.answer not in books.workers, "a new worker has a new id")
            books.workers[seen.answer] = Worker(seen.answer, self.classes, books.now)
            return seen.answer
        worker = books.workers[self.worker]
        worker.seen_at, worker.is_lost, worker.is_draining = books.now, False, False
        worker.directive = None if worker.directive == "drain" else worker.directive
        held = books.held_by(worker.id)
        books.requeue(task for task in held if task.place is TaskPlace.OFFERED)
        books.lose(held)
        return worker.id


@dataclass(frozen=True, slots=True)
class Direct:
    """An operator asks a worker to drain or pause, or to go on."""

    worker: int
    directive: Literal["drain", "pause"] | None

    async def perform(self, world: World) -> Any:
        return await workers.direct(world.store, WorkerId(self.worker), self.directive, by="ann")

    def expect(self, books: Books, seen: Seen) -> Any:
        books.workers[self.worker].directive = self.directive
        books.write("worker.directed", worker=self.worker)
        return True


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker asks for tasks."""

    worker: int
    claim: str
    slots: int
    head_start_s: float = 0.0

    @property
    def tokens(self) -> list[bytes]:
        """The hashes of the lease tokens, one a slot: the same claim, the same tokens."""
        return [
            hashlib.sha256(f"{self.worker}:{self.claim}:{index}".encode()).digest()
            for index in range(self.slots)
        ]

    async def perform(self, world: World) -> Any:
        offers = await attempts.claim(
            world.store,
            WorkerId(self.worker),
            claim_id=uuid.UUID(self.claim),
            token_hashes=self.tokens,
            head_start_s=self.head_start_s,
        )
        return [offer_of(offer) for offer in offers]

    def answered(self, books: Books) -> list[Task]:
        """Return the tasks that still are where this claim, made before, brought them."""
        return books.leased(
            lambda _, lease: (lease.worker, lease.claim) == (self.worker, self.claim)
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        worker = books.workers[self.worker]
        again = self.answered(books)
        if again:
            # The same answer; of a late repetition only what does not run yet.
            return sorted(_offer(task) for task in again if task.place is TaskPlace.OFFERED)
        tasks = model.first(books.claimable(worker, self.head_start_s), self.slots)
        return self._offer(books, list(enumerate(tasks)), seen)

    def offer_exactly(self, books: Books, seen: Seen) -> list[tuple[int, int, int, str, int]]:
        """Offer the tasks that were offered, for their slots, whoever would have been due."""
        tasks = [(index, books.tasks[task_id]) for index, task_id, *_ in seen.answer]
        offered = self._offer(books, tasks, seen)
        require(offered == seen.answer, f"{seen.answer} offered, the model says {offered}")
        return offered

    def _offer(
        self, books: Books, tasks: Sequence[tuple[int, Task]], seen: Seen
    ) -> list[tuple[int, int, int, str, int]]:
        learnt = {task_id: attempt for _, task_id, _, _, attempt in seen.answer}
        for index, task in tasks:
            require(task.id in learnt, f"task {task.id} was not offered: {seen.answer}")
            attempt = learnt[task.id]
            require(attempt not in _attempts(books), f"attempt {attempt} was there before")
            lease = Lease(
                attempt=attempt,
                worker=self.worker,
                number=len(task.attempts) + 1,
                token=self.tokens[index].hex(),
                claim=self.claim,
                index=index,
                since=books.now,
            )
            books.offer(task, lease)
        return [_offer(task) for _, task in tasks]


def offer_of(offer: Offer) -> tuple[int, int, int, str, int]:
    """Return an offer as plain values."""
    return (
        offer.claim_index,
        offer.task_id,
        offer.number,
        offer.token_hash.hex(),
        offer.attempt_id,
    )


def _offer(task: Task) -> tuple[int, int, int, str, int]:
    held = task.held()
    return (held.index, task.id, held.number, held.token, held.attempt)


def _attempts(books: Books) -> set[int]:
    past = {attempt.id for task in books.tasks.values() for attempt in task.attempts}
    return past | {task.lease.attempt for task in books.tasks.values() if task.lease}


@dataclass(frozen=True, slots=True)
class Start:
    """A worker starts what it was offered."""

    worker: int
    attempt: int
    token: str

    async def perform(self, world: World) -> Any:
        proof = AttemptProof(AttemptId(self.attempt), bytes.fromhex(self.token))
        return sorted(await attempts.start(world.store, WorkerId(self.worker), [proof]))

    def expect(self, books: Books, seen: Seen) -> Any:
        found = books.leased(
            lambda _, lease: (
                (lease.attempt, lease.worker, lease.token)
                == (self.attempt, self.worker, self.token)
            )
        )
        return [task.held().attempt for task in found if books.start(task)]


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker lives, and names what it runs."""

    worker: int
    attempts: tuple[int, ...]
    is_draining: bool = False

    async def perform(self, world: World) -> Any:
        answer = await beats.beat(
            world.store,
            WorkerId(self.worker),
            [ProgressBeat(AttemptId(attempt), "running", 1, 2) for attempt in self.attempts],
            is_draining=self.is_draining,
            lease_s=model.LEASE_S,
        )
        return {
            "known": set(answer.known),
            "cancelled": dict(answer.cancelled),
            "unknown": set(answer.unknown),
            "directive": answer.directive,
            "forgotten": set(answer.forgotten),
        }

    def expect(self, books: Books, seen: Seen) -> Any:
        worker = books.workers[self.worker]
        worker.seen_at, worker.is_lost, worker.is_draining = books.now, False, self.is_draining
        held = books.held_by(worker.id)
        listed, holds = set(self.attempts), {task.held().attempt for task in held}
        over = {
            attempt.id: attempt.reason or Reason.JOB_CLOSED
            for task in books.tasks.values()
            for attempt in task.attempts
            if attempt.worker == worker.id and attempt.id in listed - holds
        }
        return {
            "known": listed & holds,
            "cancelled": over,
            "unknown": listed - holds - set(over),
            "directive": worker.directive,
            "forgotten": {
                task.held().attempt
                for task in held
                if task.place is TaskPlace.RUNNING and task.since + model.LEASE_S < books.now
            }
            - listed,
        }


@dataclass(frozen=True, slots=True)
class Forget:
    """The api takes from a worker the running attempts it no longer lists."""

    worker: int
    attempts: tuple[int, ...]

    async def perform(self, world: World) -> Any:
        await reaping.lose_attempts(
            world.store,
            [WorkerId(self.worker)],
            attempt_ids=[AttemptId(attempt) for attempt in self.attempts],
            retry=RETRY,
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        books.lose(
            books.leased(
                lambda _, lease: lease.worker == self.worker and lease.attempt in self.attempts
            )
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """A worker reports a result."""

    worker: int
    attempt: int
    token: str
    reason: Reason | None = None
    body: str = "body"

    @property
    def _hash(self) -> bytes:
        return hashlib.sha256(f"{self.reason}:{self.body}".encode()).digest()

    def finished(self) -> Finished:
        """Return the result as the store takes it."""
        return Finished(
            attempt_id=AttemptId(self.attempt),
            token_hash=bytes.fromhex(self.token),
            outcome=model.outcome_of(self.reason),
            reason=self.reason,
            message="it broke" if self.reason else "",
            exit_code=0,
            signal=None,
            result={"body": self.body},
            body_hash=self._hash,
        )

    async def perform(self, world: World) -> Any:
        return await attempts.finish(
            world.store, WorkerId(self.worker), self.finished(), retry=RETRY
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        held = books.leased(
            lambda task, lease: (
                (lease.attempt, lease.worker, lease.token)
                == (self.attempt, self.worker, self.token)
                and task.place is TaskPlace.RUNNING
            )
        )
        for task in held:
            if books.jobs[task.job].is_open:
                books.finish(task, self.reason, self._hash.hex())
                return FinishVerdict.ACCEPTED
        is_same = any(
            self._is_of(attempt) for task in books.tasks.values() for attempt in task.attempts
        )
        return FinishVerdict.ACCEPTED if is_same else FinishVerdict.LEASE_LOST

    def _is_of(self, attempt: Attempt) -> bool:
        return (attempt.id, attempt.worker, attempt.token, attempt.body) == (
            self.attempt,
            self.worker,
            self.token,
            self._hash.hex(),
        )


@dataclass(frozen=True, slots=True)
class Release:
    """A worker that leaves gives back what it has not started."""

    worker: int

    async def perform(self, world: World) -> Any:
        return await attempts.release(world.store, WorkerId(self.worker))

    def expect(self, books: Books, seen: Seen) -> Any:
        offered = books.leased(
            lambda task, lease: task.place is TaskPlace.OFFERED and lease.worker == self.worker
        )
        books.requeue(offered)
        return len(offered)


# --- what the scheduler does by itself ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExpireOffers:
    """The reaper takes back what nobody started in time."""

    async def perform(self, world: World) -> Any:
        return await reaping.expire_offers(world.store, start_s=model.START_S)

    def expect(self, books: Books, seen: Seen) -> Any:
        late = books.leased(
            lambda task, lease: (
                task.place is TaskPlace.OFFERED and lease.since + model.START_S < books.now
            )
        )
        books.requeue(late)
        return len(late)


@dataclass(frozen=True, slots=True)
class Reap:
    """The reaper takes the leases of silent workers."""

    async def perform(self, world: World) -> Any:
        return await reaping.reap(world.store, lease_s=model.LEASE_S, retry=RETRY)

    def expect(self, books: Books, seen: Seen) -> Any:
        late = 0
        for worker in books.workers.values():
            held = books.held_by(worker.id)
            if worker.seen_at + model.LEASE_S >= books.now or (worker.is_lost and not held):
                continue
            late += 1
            if not worker.is_lost:
                worker.is_lost = True
                books.write("worker.lost", worker=worker.id)
            books.requeue(task for task in held if task.place is TaskPlace.OFFERED)
            books.lose(held)
        return late


@dataclass(frozen=True, slots=True)
class Promote:
    """The promoter makes ready what is due."""

    async def perform(self, world: World) -> Any:
        return await reaping.promote(world.store)

    def expect(self, books: Books, seen: Seen) -> Any:
        due = [
            task
            for task in books.tasks.values()
            if task.place is TaskPlace.PENDING and task.since + _DUE_S < books.now
        ]
        for task in due:
            task.go(TaskPlace.READY, books.now)
        return len(due)


@dataclass(frozen=True, slots=True)
class SweepLeftovers:
    """The reaper closes tasks that a claim was taking while their job closed."""

    async def perform(self, world: World) -> Any:
        return await reaping.sweep_leftovers(world.store)

    def expect(self, books: Books, seen: Seen) -> Any:
        left = [
            job
            for job in books.jobs.values()
            if not job.is_open
            and any(task.place is not TaskPlace.CLOSED for task in books.tasks_of(job.id))
        ]
        for job in left:
            books.sweep(job, Reason.JOB_CLOSED)
        return len(left)


@dataclass(frozen=True, slots=True)
class Expire:
    """The expirer closes what is past its deadline."""

    async def perform(self, world: World) -> Any:
        return await Expirer(world.store, RETRY).tick()

    def expect(self, books: Books, seen: Seen) -> Any:
        late = [
            job
            for job in books.jobs.values()
            if job.is_open and job.phase is not JobPhase.SAVING and job.expires_at < books.now
        ]
        codes = {job.id: model.overdue_code(books, job) for job in late}
        saving = [
            job
            for job in books.jobs.values()
            if job.phase is JobPhase.SAVING and job.saving_at + model.SAVING_S < books.now
        ]
        for job in late:
            books.close([job], codes[job.id], Reason.JOB_TIMEOUT, event="job.expired")
        books.close(saving, ResultCode.SAVING_TIMEOUT, Reason.JOB_TIMEOUT, event="job.expired")
        return len(late) + len(saving)


@dataclass(frozen=True, slots=True)
class Save:
    """The settler begins to save a job, and supersedes the older ones."""

    job: int

    async def perform(self, world: World) -> Any:
        return await settling.save(world.store, JobId(self.job), superseded_msg="see the newer")

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is not JobPhase.RUNNING or job.open_tasks:
            return False
        job.become(JobPhase.SAVING)
        job.saving_at = books.now
        older = [
            other for other in books.jobs_of(job.project_id) if other.is_open and other.id < job.id
        ]
        books.close(older, ResultCode.SUPERSEDED, Reason.SUPERSEDED, event="job.superseded")
        return True


@dataclass(frozen=True, slots=True)
class Ingest:
    """The settler writes the findings of a saved job and closes it."""

    job: int
    scan: int

    async def perform(self, world: World) -> Any:
        return await settling.ingest(
            world.store, JobId(self.job), ScanId(self.scan), findings=[], lines=None, engines={}
        )

    def expect(self, books: Books, seen: Seen) -> Any:
        job = books.jobs[self.job]
        if job.phase is not JobPhase.SAVING:
            return False
        books.close([job], ResultCode.SUCCESS, Reason.JOB_CLOSED)
        books.become_base(job)
        return True


# --- neither --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PassTime:
    """Time passes: what the database holds becomes older."""

    async def perform(self, world: World) -> Any:
        await world.store.db.execute(world.shift)

    def expect(self, books: Books, seen: Seen) -> Any:
        books.now += model.TICK_S


@dataclass(frozen=True, slots=True)
class Look:
    """Everybody who reads before deciding reads."""

    async def perform(self, world: World) -> Any:
        store = world.store
        return {
            "prepared": [
                (job.job_id, job.outcome, job.result_code, job.worker_id)
                for job in await admissions.prepared(store, limit=100)
            ],
            "failing": set(await settling.failing(store, limit=100)),
            "settleable": [
                (job.job_id, job.project_id, job.scan_id)
                for job in await settling.settleable(store, limit=100)
            ],
            "saving": await settling.saving(store, limit=100),
            "is_any_due": (await reaping.pending(store)).due_s is not None,
        }

    def expect(self, books: Books, seen: Seen) -> Any:
        jobs_in_order = sorted(books.jobs.values(), key=lambda job: job.id)
        running = [job for job in jobs_in_order if job.phase is JobPhase.RUNNING]
        return {
            "prepared": [
                _prepared(books, job) for job in jobs_in_order if _is_prepared(books, job)
            ],
            "failing": {
                job.id
                for job in running
                if job.open_tasks
                and books.projects[job.project_id].cancels_siblings
                and any(_has_failed(task) for task in books.tasks_of(job.id))
            },
            "settleable": [
                (job.id, job.project_id, job.scan_id) for job in running if not job.open_tasks
            ],
            "saving": [
                (job.id, job.scan_id) for job in jobs_in_order if job.phase is JobPhase.SAVING
            ],
            "is_any_due": any(task.place is TaskPlace.PENDING for task in books.tasks.values()),
        }


def _is_prepared(books: Books, job: Job) -> bool:
    if job.phase is not JobPhase.PREPARING or job.prepare_task is None:
        return False
    return books.tasks[job.prepare_task].place is TaskPlace.CLOSED


def _prepared(books: Books, job: Job) -> tuple[int, str, int, int | None]:
    assert job.prepare_task is not None
    task = books.tasks[job.prepare_task]
    assert task.outcome is not None
    by = [attempt.worker for attempt in task.attempts if attempt.id == task.outcome["attempt"]]
    return (job.id, Outcome(task.outcome["outcome"]), task.outcome["code"], by[0] if by else None)


def _has_failed(task: Task) -> bool:
    if task.kind is not TaskKind.ENGINE or task.outcome is None:
        return False
    return bool(task.outcome["outcome"] != Outcome.SUCCEEDED)


async def load_dice(world: World, task_ids: Sequence[int]) -> None:
    """Check the back-off of tasks just retried, then set it, so that examples repeat."""
    rows = await world.store.db.fetch(_LOAD_DICE, _DUE_S, _BACKOFF_S, list(task_ids))
    require(all(row["is_fair"] for row in rows), "a back-off lies outside its bounds")


#: All there is to do.
OPERATIONS = (
    Create, OpenProject, Cancel, Close, Admit, Abandon, Prepare, CloseUnchanged, Plan, Register,
    Direct, Claim, Start, Beat, Forget, Finish, Release, ExpireOffers, Reap, Promote,
    SweepLeftovers, Expire, Save, Ingest, PassTime, Look,
)  # fmt: skip
