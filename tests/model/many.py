"""The same calls, many at once: what the api gathers of several callers goes in one statement.

The model knows no statement: it does the single calls one after the other. Only who gets which of
the first tasks is for the store to choose, within what claims together promise.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from core.domain.ids import AttemptId, WorkerId
from core.store import attempts, jobs
from core.store.attempts import AttemptProof
from tests.model.books import Books, Task, Worker, require
from tests.model.operations import RETRY, Claim, Create, Finish, Seen, Start, World, offer_of


@dataclass(frozen=True, slots=True)
class CreateMany:
    """Clients ask for plain jobs at the same time."""

    creates: tuple[Create, ...]

    async def perform(self, world: World) -> Any:
        created = await jobs.create_many(
            world.store, [create.new_job(world) for create in self.creates]
        )
        return [one and ("created", one.job_id, one.scan_id, one.is_new) for one in created]

    def expect(self, books: Books, seen: Seen) -> Any:
        return [
            create.expect(books, Seen(answer, seen.picture))
            if books.projects[create.project].is_active
            else None
            for create, answer in zip(self.creates, seen.answer, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class StartMany:
    """Workers start what they were offered at the same time."""

    starts: tuple[Start, ...]

    async def perform(self, world: World) -> Any:
        proofs = [
            (
                WorkerId(start.worker),
                AttemptProof(AttemptId(start.attempt), bytes.fromhex(start.token)),
            )
            for start in self.starts
        ]
        return sorted(await attempts.start_many(world.store, proofs))

    def expect(self, books: Books, seen: Seen) -> Any:
        return sorted({attempt for start in self.starts for attempt in start.expect(books, seen)})


@dataclass(frozen=True, slots=True)
class FinishMany:
    """Workers report results at the same time; some have no right to, some do it twice."""

    finishes: tuple[Finish, ...]

    async def perform(self, world: World) -> Any:
        results = [(WorkerId(finish.worker), finish.finished()) for finish in self.finishes]
        judged = await attempts.finish_many(world.store, results, retry=RETRY)
        return [one.verdict for one in judged]

    def expect(self, books: Books, seen: Seen) -> Any:
        return [finish.expect(books, seen) for finish in self.finishes]


@dataclass(frozen=True, slots=True)
class ClaimMany:
    """Workers ask for tasks at the same time, each once."""

    claims: tuple[Claim, ...]
    head_start_s: float = 0.0

    async def perform(self, world: World) -> Any:
        asked = [
            attempts.Claim(WorkerId(claim.worker), uuid.UUID(claim.claim), claim.tokens)
            for claim in self.claims
        ]
        answers = await attempts.claim_many(world.store, asked, head_start_s=self.head_start_s)
        return [[offer_of(offer) for offer in offers] for offers in answers]

    def expect(self, books: Books, seen: Seen) -> Any:
        answers = {
            claim: Seen(answer, seen.picture)
            for claim, answer in zip(self.claims, seen.answer, strict=True)
        }
        expected: dict[Claim, Any] = {
            claim: claim.expect(books, answers[claim])
            for claim in self.claims
            if claim.answered(books) or not _takes(books.workers[claim.worker])
        }
        new = [claim for claim in self.claims if claim not in expected]
        # Those that fit the same are one queue, in the order of their first.
        order = list(dict.fromkeys(books.workers[claim.worker].classes for claim in new))
        new.sort(key=lambda claim: order.index(books.workers[claim.worker].classes))
        for _, group in groupby(new, key=lambda claim: books.workers[claim.worker].classes):
            alike = list(group)
            self._check(books, alike, [answers[claim].answer for claim in alike])
            expected |= {claim: claim.offer_exactly(books, answers[claim]) for claim in alike}
        return [expected[claim] for claim in self.claims]

    def _check(self, books: Books, claims: Sequence[Claim], answers: Sequence[Any]) -> None:
        """Raise `Mismatch` unless workers that fit the same share the first tasks as promised."""
        ready = {
            task.id: task
            for claim in claims
            for task in books.claimable(books.workers[claim.worker], self.head_start_s)
        }
        due = sorted(ready.values(), key=lambda task: (task.sort_key, task.id))
        due = due[: sum(claim.slots for claim in claims)]
        given = [task for answer in answers for _, task, *_ in answer]
        require(
            sorted(given) == sorted(task.id for task in due),
            f"{given} offered, the first are {[task.id for task in due]}",
        )
        for claim, answer in zip(claims, answers, strict=True):
            places = [place for place, *_ in answer]
            require(
                len(set(places)) == len(places) and set(places) <= set(range(claim.slots)),
                f"worker {claim.worker} was offered tasks for the slots {places}",
            )
            self._check_home(claim, {task for _, task, *_ in answer}, due)
        self._check_even(claims, answers, due)

    def _check_home(self, claim: Claim, given: set[int], due: Sequence[Task]) -> None:
        """What has its sources at a worker goes there, as far as it has slots."""
        home = [task.id for task in due if task.preferred == claim.worker][: claim.slots]
        require(set(home) <= given, f"worker {claim.worker} was offered {given}, at home: {home}")

    def _check_even(
        self, claims: Sequence[Claim], answers: Sequence[Any], due: Sequence[Task]
    ) -> None:
        """Nobody's second slot is filled from the common queue before everybody's first."""
        preferred = {task.id: task.preferred for task in due}
        for claim, answer in zip(claims, answers, strict=True):
            common = [place for place, task, *_ in answer if preferred[task] != claim.worker]
            for other, its in zip(claims, answers, strict=True):
                least = min(other.slots, max(common, default=0))
                require(
                    len(its) >= least,
                    f"worker {other.worker} got {len(its)} tasks, {claim.worker} more: {answers}",
                )


def _takes(worker: Worker) -> bool:
    return not worker.directive and not worker.is_draining


#: All there is to do at once.
AT_ONCE = (CreateMany, StartMany, FinishMany, ClaimMany)
