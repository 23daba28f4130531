"""Two calls at the same moment: what comes of them must be what comes of one after the other.

Which of the two came first is the database's choice; that there was a first is what is checked.
Three things are allowed beyond that, each for a reason that is written down: rows that others are
taking are skipped, so two claims (admissions, promotions) may share the work in any way as long
as nothing is passed over (and an admission leaves to the next one a project in which a job is just
being closed); a repeated claim may come away empty while the first is being answered;
and what a claim was taking while its job closed is swept at the next look (docs/adr/0004).
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import rule

from core.domain.outcomes import CODE_OF_REASON, Reason
from core.domain.states import ActiveJobPolicy, JobPhase, TaskPlace
from core.store.pool import Database
from tests.model import operations as op
from tests.model.books import Books, Job, Mismatch, Task, require
from tests.model.machine import ENGINES, Session, StoreMachine
from tests.model.operations import Operation, Seen
from tests.model.picture import Picture

Pair: TypeAlias = tuple[Operation, Operation]

#: Calls that skip rows others have locked: to hold the rows would change what they answer.
_SKIPPING = (op.Admit, op.Ingest)
#: Calls of which two may share the work in any way; their answers are counts.
_SHARED = (op.Promote, op.ExpireOffers, op.Reap)
_HELD_S = 5.0
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class RaceMachine(StoreMachine):
    """The machine, where two calls may come at once."""

    @rule(which=st.integers(0, 10**6), is_held=st.booleans(), is_turned=st.booleans())
    def race(self, which: int, is_held: bool, is_turned: bool) -> None:
        pairs = list(self._pairs())
        pair = pairs[which % len(pairs)]
        if op.PassTime() in pair:
            self.do(op.PassTime())
            return
        self.session.run(self._race(pair[::-1] if is_turned else pair, is_held=is_held))

    async def _race(self, pair: Pair, *, is_held: bool) -> None:
        self.session.steps += 1
        self.session.operations[" and ".join(type(one).__name__ for one in pair)] += 1
        world = self.session.world
        is_held = is_held and not any(isinstance(one, _SKIPPING) for one in pair)
        answers = await self._at_once(pair, is_held=is_held)
        picture = await self.session.look()
        swept = await op.SweepLeftovers().perform(world)
        if swept:
            after = await self.session.look()
            after.events += picture.events
            picture = after
        seen = [Seen(answer, picture) for answer in answers]
        found: list[str] = []
        for books in self._outcomes(pair, seen, found):
            if swept:
                _take_as_leftovers(books, picture)
            different = picture.differences(books.picture())
            if not different:
                self.books = books
                await self.load_dice()
                await self.ask_why(*pair)
                return
            found.append("\n  ".join(different))
        raise Mismatch(
            f"{pair[0]} and {pair[1]} at once answered {answers}, which is neither order:\n- "
            + "\n- ".join(found)
        )

    async def _at_once(self, pair: Pair, *, is_held: bool) -> list[Any]:
        """Perform both at once; held: both first wait for the rows of the jobs, in their order."""
        db = self.session.world.store.db
        gate: AbstractAsyncContextManager[Any] = db.transaction() if is_held else nullcontext()
        async with asyncio.TaskGroup() as group, gate as connection:
            if connection is not None:
                await connection.execute("SELECT FROM jobs FOR NO KEY UPDATE")
            running = []
            for one in pair:
                running.append(group.create_task(one.perform(self.session.world)))
                if connection is not None:
                    await _until_waiting(db, running)
        return [task.result() for task in running]

    def _outcomes(self, pair: Pair, seen: list[Seen], found: list[str]) -> Iterator[Books]:
        """Yield the books after each way in which the two may have met; note why others are none."""
        for first, second in ((0, 1), (1, 0)):
            books = self._copied()
            try:
                expected = {at: pair[at].expect(books, seen[at]) for at in (first, second)}
                _agree(pair, [one.answer for one in seen], [expected[0], expected[1]])
            except Mismatch as error:
                found.append(str(error))
            else:
                yield books
        try:
            match pair:
                case (op.Claim() as one, op.Claim() as other) if one.claim != other.claim:
                    yield self._shared_claims(one, other, seen)
                case (op.Admit() as one, op.Admit() as other):
                    yield self._shared_admissions(one, other, seen)
        except Mismatch as error:
            found.append(f"shared: {error}")

    def _copied(self) -> Books:
        books = copy.deepcopy(self.books)
        books.events = Counter()
        return books

    def _shared_claims(self, one: op.Claim, other: op.Claim, seen: list[Seen]) -> Books:
        books = self._copied()
        taken = [{task for _, task, *_ in each.answer} for each in seen]
        require(not taken[0] & taken[1], f"both were offered {taken[0] & taken[1]}")
        for claim, mine in zip((one, other), taken, strict=True):
            order = [
                task.id
                for task in self.books.claimable(
                    self.books.workers[claim.worker], claim.head_start_s
                )
            ]
            _passed_nothing_over(order, mine, taken[0] | taken[1], claim.slots)
        for claim, each in zip((one, other), seen, strict=True):
            claim.offer_exactly(books, each)
        return books

    def _shared_admissions(self, one: op.Admit, other: op.Admit, seen: list[Seen]) -> Books:
        books = self._copied()
        taken = [set(each.answer) for each in seen]
        require(not taken[0] & taken[1], f"both admitted {taken[0] & taken[1]}")
        due = {job.id for job in (*books.abandoned(), *books.admissible())}
        left = due - taken[0] - taken[1]
        for admit, mine in zip((one, other), taken, strict=True):
            require(mine <= due, f"{mine - due} were not to be admitted")
            require(len(mine) <= admit.limit, f"{len(mine)} admitted of at most {admit.limit}")
            require(len(mine) == admit.limit or not left, f"{left} were passed over")
            for job_id in sorted(mine):
                books.admit(books.jobs[job_id], admit.token)
        return books

    # -- what may meet -----------------------------------------------------------------------

    def _pairs(self) -> Iterator[Pair]:
        """Yield calls that meet in something there is now."""
        books = self.books
        for job in sorted(books.jobs.values(), key=lambda job: job.id):
            if job.is_open:
                yield from self._pairs_of_job(job)
        for task in sorted(books.tasks.values(), key=lambda task: task.id):
            yield from self._pairs_of_task(task)
        for project in self.session.projects[:2]:
            for policy in ActiveJobPolicy:
                yield op.Create(project.id, policy), op.Create(project.id, policy)
            key = f"k{len(books.jobs)}"
            yield op.Create(project.id, key=key), op.Create(project.id, key=key)
            yield op.Create(project.id, key=key), op.Create(project.id, key=key, is_forced=True)
        for worker in sorted(books.workers):
            held = books.held_by(worker)
            listed = tuple(task.held().attempt for task in held)
            yield op.Beat(worker, listed), op.Reap()
            yield op.Release(worker), op.ExpireOffers()
        yield op.Reap(), op.Reap()
        yield op.PassTime(), op.PassTime()

    def _pairs_of_job(self, job: Job) -> Iterator[Pair]:
        cancel = op.Cancel(job.id)
        yield cancel, cancel
        yield cancel, op.Expire()
        token = job.token or self.new_token()
        admit = op.Admit(self.new_token(), 100, frozenset({job.project_id}))
        match job.phase:
            case JobPhase.WAITING:
                yield op.Admit(self.new_token(), 1), op.Admit(self.new_token(), 2)
                yield admit, cancel
                yield op.Admit(self.new_token(), 100), op.Create(job.project_id)
            case JobPhase.RESOLVING:
                prepare = op.Prepare(job.id, token)
                yield prepare, prepare
                yield prepare, cancel
                yield prepare, admit
                yield prepare, op.Abandon(job.id, token)
            case JobPhase.PREPARING:
                yield op.Plan(job.id, ENGINES), op.Plan(job.id, ("lines",))
                yield op.Plan(job.id, ENGINES), cancel
            case JobPhase.RUNNING:
                failed = op.Close(job.id, 211, Reason.JOB_CLOSED, frozenset({JobPhase.RUNNING}))
                for one in (op.Save(job.id), failed):
                    yield op.Save(job.id), one
                    yield one, cancel
                for older in self.books.jobs_of(job.project_id):
                    if older.is_open and older.id < job.id:
                        yield op.Save(job.id), op.Cancel(older.id)
                        yield from self._meetings(op.Save(job.id), older)
            case JobPhase.SAVING:
                ingest = op.Ingest(job.id, job.scan_id)
                yield ingest, ingest
                yield ingest, cancel
                yield ingest, op.Create(job.project_id)
                yield ingest, op.Expire()

    def _meetings(self, save: op.Save, older: Job) -> Iterator[Pair]:
        """Yield a save that supersedes a job, and what happens to that job meanwhile."""
        match older.phase:
            case JobPhase.WAITING:
                yield save, op.Admit(self.new_token(), 100, frozenset({older.project_id}))
            case JobPhase.RESOLVING:
                yield save, op.Prepare(older.id, older.token or "")
            case JobPhase.PREPARING:
                yield save, op.Plan(older.id, ENGINES)
            case JobPhase.RUNNING:
                yield save, op.Save(older.id)
            case JobPhase.SAVING:
                yield save, op.Ingest(older.id, older.scan_id)

    def _pairs_of_task(self, task: Task) -> Iterator[Pair]:
        cancel = op.Cancel(task.job)
        match task.place:
            case TaskPlace.PENDING:
                yield op.Promote(), op.Promote()
                yield op.Promote(), cancel
            case TaskPlace.READY:
                for worker in sorted(self.books.workers):
                    other = self._fresh_claim(worker, 1, 2)
                    yield other, cancel
                    yield other, other
                    for rival in sorted(self.books.workers):
                        if rival != worker:
                            yield other, self._fresh_claim(rival, 2, 3)
            case TaskPlace.OFFERED | TaskPlace.RUNNING:
                yield from self._pairs_of_lease(task, cancel)

    def _pairs_of_lease(self, task: Task, cancel: op.Cancel) -> Iterator[Pair]:
        held = task.held()
        worker = self.books.workers[held.worker]
        start = op.Start(held.worker, held.attempt, held.token)
        back = op.Register(
            self.key_of(held.worker), self.engines_of(worker), worker.classes, worker.id
        )
        if task.place is TaskPlace.OFFERED:
            yield from ((start, one) for one in (start, cancel, back, op.Reap()))
            yield from ((start, one) for one in (op.ExpireOffers(), op.Release(held.worker)))
            return
        finish = op.Finish(held.worker, held.attempt, held.token)
        failed = op.Finish(held.worker, held.attempt, held.token, Reason.ENGINE_FAILED)
        retried = op.Finish(held.worker, held.attempt, held.token, Reason.CHECKOUT_FAILED)
        for one in (finish, failed, cancel, back, op.Reap(), op.Expire(), start):
            yield finish, one
        yield retried, cancel
        yield retried, op.Reap()
        yield cancel, op.Reap()
        for other in self.books.tasks_of(task.job):
            if other.id != task.id and other.place is TaskPlace.RUNNING:
                its = other.held()
                yield finish, op.Finish(its.worker, its.attempt, its.token)

    def _fresh_claim(self, worker: int, number: int, slots: int) -> op.Claim:
        return op.Claim(worker, f"00000000-0000-0000-{number:04}-{self.session.steps:012}", slots)


def _agree(pair: Pair, answers: list[Any], expected: list[Any]) -> None:
    if answers == expected:
        return
    is_shared = type(pair[0]) is type(pair[1]) and isinstance(pair[0], _SHARED)
    if is_shared and sum(answers) == sum(expected):
        return
    if isinstance(pair[0], op.Claim) and pair[0] == pair[1]:
        # While the first is being answered there may be nothing for its repetition.
        given = [answer for answer in answers if answer]
        if given and all(answer == given[0] == expected[0] for answer in given):
            return
    raise Mismatch(f"expected {expected}")


def _passed_nothing_over(order: list[int], mine: set[int], taken: set[int], limit: int) -> None:
    """Raise `Mismatch` unless *mine* is what somebody takes who skips what others took."""
    require(mine <= set(order), f"{mine - set(order)} were not to be taken")
    require(len(mine) <= limit, f"{len(mine)} taken of at most {limit}")
    left = [one for one in order if one not in taken]
    if len(mine) < limit:
        require(not left, f"{left} were passed over")
    elif left:
        require(
            max(order.index(one) for one in mine) < order.index(left[0]),
            f"{left[0]} was passed over",
        )


def _take_as_leftovers(books: Books, picture: Picture) -> None:
    """Give tasks the reason of the reaper where it, and not the close, was who swept them."""
    for task in books.tasks.values():
        found = picture.places.get(task.id, {}).get(TaskPlace.CLOSED)
        if found is None or task.outcome is None or books.jobs[task.job].is_open:
            continue
        if found["reason"] == Reason.JOB_CLOSED and task.outcome["attempt"] is None:
            task.outcome |= {
                "reason": Reason.JOB_CLOSED.value,
                "code": int(CODE_OF_REASON[Reason.JOB_CLOSED]),
            }
            last = task.attempts[-1] if task.attempts else None
            if last is not None and picture.attempts.get((task.id, last.id), {}).get("reason") == (
                Reason.JOB_CLOSED
            ):
                last.reason = Reason.JOB_CLOSED


async def _until_waiting(db: Database, running: list[asyncio.Task[Any]]) -> None:
    """Wait until each of *running* waits for a lock or is done."""
    async with asyncio.timeout(_HELD_S):
        while await db.fetchval(_WAITING) < sum(not task.done() for task in running):
            pass


def race_machine_on(session: Session) -> type[RaceMachine]:
    """Return the machine on the database of *session*."""
    return type("Races", (RaceMachine,), {"session": session})
