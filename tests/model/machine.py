"""The machine: any operation in any order by anybody, the database compared after each."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)

from core.domain.outcomes import REPORTABLE, RETRYABLE, Reason
from core.domain.states import ActiveJobPolicy, JobPhase, TaskPlace
from tests.model import explanations
from tests.model import operations as op
from tests.model.books import HEAD_START_S, Books, Job, Mismatch, Project, Task, Worker
from tests.model.many import ClaimMany, CreateMany, FinishMany, StartMany
from tests.model.operations import Operation, Seen, World, load_dice
from tests.model.picture import Picture, read

ENGINES = ("lines", "ruff")
#: A lease token nobody was given.
_FORGED = "00" * 32
_ENGINE_SETS = st.sampled_from([ENGINES, ("lines",), ("ruff",), ()])
_PLANS = st.sampled_from([ENGINES, ("lines",), ("ruff",), ("lines", "ruff", "lines")])
_SORT_KEYS = st.integers(0, 3)
_REASONS = st.sampled_from(
    [None, None, *sorted(RETRYABLE & REPORTABLE), Reason.ENGINE_FAILED, Reason.CANCELLED]
)


@dataclass(frozen=True, slots=True)
class Offered:
    """An attempt as its worker knows it."""

    worker: int
    attempt: int
    task: int
    token: str
    claim: str


@dataclass(slots=True)
class Session:
    """One database, one loop, many examples."""

    world: World
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    projects: Sequence[Project]
    #: Empties all but the registry.
    reset: str
    last_event: int = 0
    steps: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    async def look(self) -> Picture:
        """Return the picture, with the events since the last one."""
        picture, self.last_event = await read(self.world.store.db, self.last_event)
        return picture


class StoreMachine(RuleBasedStateMachine):
    """Several clients, schedulers and workers on one store, one call at a time."""

    session: ClassVar[Session]

    jobs: Bundle[int] = Bundle("jobs")
    workers: Bundle[int] = Bundle("workers")
    offers: Bundle[Offered] = Bundle("offers")

    def __init__(self) -> None:
        super().__init__()
        self.books = Books(
            projects={
                project.id: Project(project.id, project.cancels_siblings)
                for project in self.session.projects
            }
        )
        self.claims: list[op.Claim] = []
        self.tokens: list[str] = []
        #: Retries whose back-off was made certain: task, failures, resets.
        self.loaded: set[tuple[int, int, int]] = set()
        #: How often it was asked why a job is where it is.
        self.asked = 0
        self.session.run(self.session.world.store.db.execute(self.session.reset))
        picture = self.session.run(self.session.look())
        assert picture.jobs == {}
        assert picture.workers == {}

    # -- one step --------------------------------------------------------------------------

    def do(self, operation: Operation) -> Any:
        """Perform an operation on both sides and compare; return its answer."""
        return self.session.run(self._do(operation))

    async def _do(self, operation: Operation) -> Any:
        self.session.steps += 1
        self.session.operations[type(operation).__name__] += 1
        answer = await operation.perform(self.session.world)
        picture = await self.session.look()
        self.books.events = Counter()
        expected = operation.expect(self.books, Seen(answer, picture))
        if answer != expected:
            raise Mismatch(f"{operation} answered {answer!r}, the model says {expected!r}")
        self.compare(picture, operation)
        await self.load_dice()
        await self.ask_why(operation)
        return answer

    def compare(self, picture: Picture, *operations: Operation) -> None:
        """Raise `Mismatch` with every difference between database and model."""
        different = picture.differences(self.books.picture())
        if different:
            done = " and ".join(map(str, operations))
            raise Mismatch(f"after {done}:\n" + "\n".join(different))

    async def load_dice(self) -> None:
        """Give what was just put off a due time that is no matter of chance."""
        put_off = {
            (task.id, task.failures, task.resets)
            for task in self.books.tasks.values()
            if task.place is TaskPlace.PENDING
        } - self.loaded
        if put_off:
            await load_dice(self.session.world, [task_id for task_id, *_ in put_off])
            self.loaded |= put_off

    async def ask_why(self, *operations: Operation) -> None:
        """Raise `Mismatch` unless the store tells why jobs are where they are.

        Asked of the next one in turn and of those with tasks in the queue; of all when time passed.
        """
        self.asked += 1
        jobs = list(self.books.jobs.values())
        queued = {task.job for task in self.books.tasks.values() if task.place is TaskPlace.READY}
        for place, job in enumerate(jobs):
            is_next = place == self.asked % len(jobs)
            if not (is_next or job.id in queued or op.PassTime() in operations):
                continue
            try:
                await explanations.check(self.session.world.store, self.books, job)
            except Mismatch as error:
                raise Mismatch(f"after {' and '.join(map(str, operations))}: {error}") from error

    def new_token(self) -> str:
        """Return the token of another scheduler's admission."""
        self.tokens.append(str(uuid.UUID(int=len(self.tokens) + 1)))
        return self.tokens[-1]

    def claim(self, claim: op.Claim) -> list[Offered]:
        """Claim; return what was offered."""
        return [
            Offered(claim.worker, attempt, task, token, claim.claim)
            for _, task, _, token, attempt in self.do(claim)
        ]

    def new_claim(self, worker: int, slots: int, head_start_s: float = 0.0) -> op.Claim:
        """Return a claim that was not made before."""
        number = len(self.claims) + 1
        self.claims.append(op.Claim(worker, str(uuid.UUID(int=number)), slots, head_start_s))
        return self.claims[-1]

    def project_of(self, index: int) -> int:
        return self.session.projects[index % len(self.session.projects)].id

    # -- who there is ----------------------------------------------------------------------

    @initialize(target=workers)
    def some_workers(self) -> Any:
        """A worker that can do everything and one that can only prepare."""
        return multiple(self.register(ENGINES), self.register(()))

    @initialize(target=jobs, forced=st.lists(st.booleans(), min_size=1, max_size=3))
    def some_jobs(self, forced: list[bool]) -> Any:
        return multiple(
            *(
                self.do(op.Create(self.project_of(0), is_forced=is_forced))[1]
                for is_forced in forced
            )
        )

    def register(self, engines: tuple[str, ...]) -> int:
        classes = {self.session.world.classes[name] for name in ("prepare", *engines)}
        key = (len(self.books.workers) + 1).to_bytes(8)
        registered: int = self.do(op.Register(key, engines, frozenset(classes)))
        return registered

    def key_of(self, worker: int) -> bytes:
        """Return the instance key of a worker: its place among them."""
        return (sorted(self.books.workers).index(worker) + 1).to_bytes(8)

    def engines_of(self, worker: Worker) -> tuple[str, ...]:
        return tuple(name for name in ENGINES if self.session.world.classes[name] in worker.classes)

    @rule(target=workers, engines=_ENGINE_SETS)
    def a_worker_comes(self, engines: tuple[str, ...]) -> int:
        return self.register(engines)

    # -- clients ---------------------------------------------------------------------------

    @rule(
        target=jobs,
        project=st.integers(0, 2),
        policy=st.sampled_from(ActiveJobPolicy),
        is_forced=st.booleans(),
        is_incremental=st.booleans(),
        key=st.sampled_from([None, None, "k1", "k2"]),
        queue_limit_s=st.sampled_from([5_000.0, 1e6]),
    )
    def create(self, project: int, **arguments: Any) -> Any:
        answer = self.do(op.Create(self.project_of(project), **arguments))
        return answer[1] if answer[0] == "created" else multiple()

    @rule(project=st.integers(0, 2), is_active=st.booleans())
    def a_project_is_closed_or_opened(self, project: int, is_active: bool) -> None:
        self.do(op.OpenProject(self.project_of(project), is_active))

    @rule(job=jobs)
    def cancel(self, job: int) -> None:
        self.do(op.Cancel(job))

    # -- schedulers ------------------------------------------------------------------------

    @rule(limit=st.sampled_from([1, 2, 100]))
    def admit(self, limit: int) -> None:
        self.do(op.Admit(self.new_token(), limit))

    @rule(job=jobs, sort_key=_SORT_KEYS, is_foreign=st.booleans())
    def prepare(self, job: int, sort_key: int, is_foreign: bool) -> None:
        self.do(op.Prepare(job, self._admission(job, is_foreign=is_foreign), sort_key))

    @rule(job=jobs, is_foreign=st.booleans())
    def abandon(self, job: int, is_foreign: bool) -> None:
        self.do(op.Abandon(job, self._admission(job, is_foreign=is_foreign)))

    @rule(target=jobs, which=st.integers(0, 2), is_foreign=st.sampled_from([False, False, True]))
    def find_nothing_to_do(self, which: int, is_foreign: bool) -> Any:
        """Where there is a base, a forced job finds the branch as it was."""
        bases = [project for project in self.books.projects.values() if project.base_job]
        if not bases:
            return multiple()
        project = bases[which % len(bases)]
        created = self.do(op.Create(project.id, is_forced=True))
        if created[0] != "created":
            return multiple()
        self.do(op.Admit(self.new_token(), 100))
        token = self._admission(created[1], is_foreign=is_foreign)
        assert project.base_job is not None
        scan = self.books.jobs[project.base_job].scan_id
        self.do(op.CloseUnchanged(created[1], token, project.base_job, scan))
        return created[1]

    def _admission(self, job: int, *, is_foreign: bool) -> str:
        token = self.books.jobs[job].token
        return self.new_token() if is_foreign or token is None else token

    @rule(job=jobs, engines=_PLANS, sort_key=_SORT_KEYS, preferred=st.none() | workers)
    def plan(
        self, job: int, engines: tuple[str, ...], sort_key: int, preferred: int | None
    ) -> None:
        self.do(op.Plan(job, engines, sort_key, preferred))

    @rule(job=jobs)
    def save(self, job: int) -> None:
        self.do(op.Save(job))

    @rule(job=jobs)
    def ingest(self, job: int) -> None:
        self.do(op.Ingest(job, self.books.jobs[job].scan_id))

    @rule(
        job=jobs,
        reason=st.sampled_from([Reason.JOB_CLOSED, Reason.SIBLING_FAILED]),
        phases=st.frozensets(
            st.sampled_from(sorted(set(JobPhase) - {JobPhase.CLOSED})), min_size=1
        ),
    )
    def close(self, job: int, reason: Reason, phases: frozenset[JobPhase]) -> None:
        self.do(op.Close(job, 211, reason, phases))

    @rule(
        operation=st.sampled_from(
            [op.ExpireOffers(), op.Reap(), op.Promote(), op.SweepLeftovers(), op.Expire()]
        )
    )
    def a_loop_looks(self, operation: Operation) -> None:
        self.do(operation)

    @rule()
    def look(self) -> None:
        self.do(op.Look())

    @rule()
    def pass_time(self) -> None:
        self.do(op.PassTime())

    # -- workers ---------------------------------------------------------------------------

    @rule(
        target=offers,
        worker=workers,
        slots=st.integers(1, 3),
        head_start_s=st.sampled_from([0.0, HEAD_START_S]),
    )
    def claim_tasks(self, worker: int, slots: int, head_start_s: float) -> Any:
        return multiple(*self.claim(self.new_claim(worker, slots, head_start_s)))

    @rule(target=offers, which=st.integers(0, 100))
    def repeat_a_claim(self, which: int) -> Any:
        if not self.claims:
            return multiple()
        return multiple(*self.claim(self.claims[-1 - which % len(self.claims)]))

    @rule(offer=offers, worker=st.none() | workers, is_forged=st.sampled_from([False, False, True]))
    def start(self, offer: Offered, worker: int | None, is_forged: bool) -> None:
        self.do(op.Start(worker or offer.worker, offer.attempt, _token(offer, is_forged)))

    @rule(
        offer=offers,
        worker=st.none() | workers,
        is_forged=st.sampled_from([False, False, True]),
        reason=_REASONS,
        body=st.sampled_from(["one", "other"]),
    )
    def finish(
        self, offer: Offered, worker: int | None, is_forged: bool, reason: Reason | None, body: str
    ) -> None:
        token = _token(offer, is_forged)
        self.do(op.Finish(worker or offer.worker, offer.attempt, token, reason, body))

    @rule(offer=offers, reason=_REASONS)
    def start_and_finish_twice(self, offer: Offered, reason: Reason | None) -> None:
        self.do(op.Start(offer.worker, offer.attempt, offer.token))
        for _ in range(2):
            self.do(op.Finish(offer.worker, offer.attempt, offer.token, reason))

    @rule(worker=workers, listed=st.lists(offers, max_size=3), is_draining=st.booleans())
    def beat(self, worker: int, listed: list[Offered], is_draining: bool) -> None:
        attempts = tuple(sorted({offer.attempt for offer in listed}))
        self.beat_of(worker, attempts, is_draining=is_draining)

    def beat_of(self, worker: int, attempts: tuple[int, ...], *, is_draining: bool = False) -> None:
        """Beat; what the worker runs by the books and does not name is taken from it."""
        answer = self.do(op.Beat(worker, attempts, is_draining))
        if answer["forgotten"]:
            self.do(op.Forget(worker, tuple(sorted(answer["forgotten"]))))

    @rule(job=jobs, worker=workers)
    def a_worker_forgets(self, job: int, worker: int) -> None:
        """Where a task of a job runs, or comes to run, its worker beats much later without it."""
        for _ in range(8):
            running = [task for task in self.books.tasks_of(job) if task.place is TaskPlace.RUNNING]
            if running:
                self.do(op.PassTime())
                self.beat_of(running[0].held().worker, ())
                return
            if self._step(self.books.jobs[job], worker, ENGINES) is None:
                return

    @rule(worker=workers)
    def release(self, worker: int) -> None:
        self.do(op.Release(worker))

    @rule(worker=workers)
    def a_worker_comes_back(self, worker: int) -> None:
        its = self.books.workers[worker]
        self.do(op.Register(self.key_of(worker), self.engines_of(its), its.classes, worker))

    @rule(worker=workers, directive=st.sampled_from([None, None, "drain", "pause"]))
    def direct(self, worker: int, directive: Any) -> None:
        self.do(op.Direct(worker, directive))

    # -- several at once -------------------------------------------------------------------

    @rule(
        target=jobs,
        asked=st.lists(
            st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=2, max_size=4
        ),
    )
    def create_many(self, asked: list[tuple[int, bool, bool]]) -> Any:
        creates = tuple(
            op.Create(self.project_of(project), is_forced=is_forced, is_incremental=is_incremental)
            for project, is_forced, is_incremental in asked
        )
        return multiple(*(one[1] for one in self.do(CreateMany(creates)) if one))

    @rule(
        target=offers,
        asked=st.lists(
            st.tuples(workers, st.integers(1, 3)),
            min_size=2,
            max_size=3,
            unique_by=lambda worker_and_slots: worker_and_slots[0],
        ),
        head_start_s=st.sampled_from([0.0, HEAD_START_S]),
        repeated=st.none() | st.integers(0, 100),
    )
    def claim_many(
        self, asked: list[tuple[int, int]], head_start_s: float, repeated: int | None
    ) -> Any:
        """Several workers claim; one of them may repeat what it asked before."""
        before = self.claims[-1 - repeated % len(self.claims)] if repeated and self.claims else None
        claims = [
            before
            if before and before.worker == worker
            else self.new_claim(worker, slots, head_start_s)
            for worker, slots in asked
        ]
        answers = self.do(ClaimMany(tuple(claims), head_start_s))
        return multiple(
            *(
                Offered(claim.worker, attempt, task, token, claim.claim)
                for claim, answer in zip(claims, answers, strict=True)
                for _, task, _, token, attempt in answer
            )
        )

    @rule(
        listed=st.lists(offers, min_size=2, max_size=4),
        is_swapped=st.sampled_from([False, False, True]),
        reasons=st.lists(_REASONS, min_size=4, max_size=4),
    )
    def start_and_finish_many(
        self, listed: list[Offered], is_swapped: bool, reasons: list[Reason | None]
    ) -> None:
        """Several attempts start and end; before, with the tokens of one another.

        The first ends again, with the same and with another result, and with a forged token.
        """
        if is_swapped:
            tokens = [offer.token for offer in (*listed[1:], listed[0])]
            self.do(StartMany(_starts(listed, tokens)))
        tokens = [offer.token for offer in listed]
        self.do(StartMany(_starts(listed, tokens)))
        if is_swapped:
            self.do(FinishMany(_finishes(listed, [*tokens[1:], tokens[0]], reasons)))
        first = listed[0]
        self.do(
            FinishMany(
                (
                    op.Finish(first.worker, first.attempt, _FORGED),
                    *_finishes(listed, tokens, reasons),
                    op.Finish(first.worker, first.attempt, first.token, reasons[0], "other"),
                    op.Finish(first.worker, first.attempt, first.token, reasons[0]),
                )
            )
        )

    # -- the usual way ---------------------------------------------------------------------

    @rule(target=offers, job=jobs, worker=workers, steps=st.integers(1, 16), engines=_PLANS)
    def advance(self, job: int, worker: int, steps: int, engines: tuple[str, ...]) -> Any:
        """Take a job further by its next steps, so that examples reach the late phases.

        Before each, somebody tries who may not.
        """
        offers: list[Offered] = []
        for _ in range(steps):
            made = self._step(self.books.jobs[job], worker, engines)
            if made is None:
                break
            offers += made
        return multiple(*offers)

    def _step(self, job: Job, worker: int, engines: tuple[str, ...]) -> list[Offered] | None:
        """Do what comes next for a job; None: nothing does."""
        match job.phase:
            case JobPhase.WAITING:
                if job not in self.books.admissible():
                    return None
                self.do(op.Admit(self.new_token(), 100))
            case JobPhase.RESOLVING:
                self.do(op.Prepare(job.id, self.new_token()))
                self.do(op.Prepare(job.id, job.token or self.new_token()))
            case JobPhase.SAVING:
                self.do(op.Ingest(job.id, job.scan_id))
            case JobPhase.CLOSED:
                return None
            case _:
                return self._step_of_tasks(job, worker, engines)
        return []

    def _step_of_tasks(
        self, job: Job, worker: int, engines: tuple[str, ...]
    ) -> list[Offered] | None:
        is_open = [
            task for task in self.books.tasks_of(job.id) if task.place is not TaskPlace.CLOSED
        ]
        if not is_open:
            self.do(
                op.Plan(job.id, engines) if job.phase is JobPhase.PREPARING else op.Save(job.id)
            )
            return []
        task = is_open[0]
        match task.place:
            case TaskPlace.READY:
                able = self._able(task, worker)
                if able is None:
                    return None
                return self.claim(self.new_claim(able, 3))
            case TaskPlace.OFFERED:
                held, stranger = task.held(), self._stranger(task)
                self.do(op.Start(held.worker, held.attempt, _FORGED))
                self.do(op.Start(stranger, held.attempt, held.token))
                self.do(op.Start(held.worker, held.attempt, held.token))
            case TaskPlace.RUNNING:
                held, stranger = task.held(), self._stranger(task)
                self.do(op.Finish(held.worker, held.attempt, _FORGED))
                self.do(op.Finish(stranger, held.attempt, held.token))
                self.do(op.Finish(held.worker, held.attempt, held.token))
            case _:
                return None
        return []

    def _stranger(self, task: Task) -> int:
        """Return a worker that does not hold the task."""
        return next(worker for worker in self.books.workers if worker != task.held().worker)

    def _able(self, task: Task, worker: int) -> int | None:
        """Return *worker* if a claim of it is offered the task, or another."""
        for candidate in (worker, *self.books.workers):
            if task in self.books.claimable(self.books.workers[candidate], 0)[:3]:
                return candidate
        return None


def _starts(listed: Sequence[Offered], tokens: Sequence[str]) -> tuple[op.Start, ...]:
    return tuple(
        op.Start(offer.worker, offer.attempt, token)
        for offer, token in zip(listed, tokens, strict=True)
    )


def _finishes(
    listed: Sequence[Offered], tokens: Sequence[str], reasons: Sequence[Reason | None]
) -> tuple[op.Finish, ...]:
    return tuple(
        op.Finish(offer.worker, offer.attempt, token, reason)
        for offer, token, reason in zip(listed, tokens, reasons, strict=False)
    )


def _token(offer: Offered, is_forged: bool) -> str:
    return _FORGED if is_forged else offer.token


def machine_on(session: Session) -> type[StoreMachine]:
    """Return the machine on the database of *session*."""
    return type("Machine", (StoreMachine,), {"session": session})
