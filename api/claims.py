"""Held claims of workers, answered together: one statement offers tasks to all that wait.

A claim is asked for once when it comes, then whenever tasks may have become ready, and as a
safety net every few seconds. Workers wait at no connection of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from api.holding import Hold
from api.keys import SETTINGS, STORE
from core.domain.ids import WorkerId
from core.runtime.loops import EventWake, LoopHealth, LoopRun, run_loop
from core.store import attempts
from core.store.attempts import Claim, Offer
from core.store.lowwater import LowWater
from core.store.store import Store

#: A task is left to the worker that has its sources for this long, seconds; who was woken in that
#: time looks once more when it is over.
HEAD_START_S = 0.3
_SECOND_LOOK_S = HEAD_START_S + 0.05
#: Claims one statement answers at most.
_BATCH = 256
#: How long a claim that ends is waited for while a statement may be offering it tasks, seconds.
_LAST_WORD_S = 5.0


@dataclass(eq=False, slots=True)
class _Waiting:
    claim: Claim
    hold: Hold
    offers: list[Offer] | None = None
    #: Times it is still asked for without a wake-up: now, and once head starts are over.
    looks: int = 2
    #: Its next look is when head starts are over.
    is_later: bool = False
    #: A statement that may offer it tasks is under way.
    is_asked: bool = False

    @property
    def is_wanted(self) -> bool:
        return self.offers is None and not self.hold.is_over and not self.hold.is_abandoned


@dataclass(slots=True)
class ClaimDesk:
    """The claims that wait in one process."""

    store: Store
    #: How often all are asked for although no notification came, seconds.
    tick_s: float = 5.0
    name: str = "claims"
    _waiting: dict[WorkerId, _Waiting] = field(default_factory=dict)
    #: Tasks may have become ready: everybody is asked for.
    _is_stirred: bool = False
    _look: EventWake = field(default_factory=EventWake)
    _low_water: LowWater = field(default_factory=LowWater)
    _second_look: asyncio.TimerHandle | None = None

    async def offers(self, claim: Claim, hold: Hold) -> Sequence[Offer]:
        """Wait for tasks, until *hold* is over; return the offers, if any."""
        waiting = _Waiting(claim, hold)
        self._waiting[claim.worker_id] = waiting
        self._look.set()
        try:
            while waiting.is_wanted:
                await hold.news()
            if waiting.is_asked and waiting.offers is None:
                # What is being offered now would be nobody's for a while.
                await hold.subscription.wait(_LAST_WORD_S)
            return waiting.offers or []
        finally:
            if self._waiting.get(claim.worker_id) is waiting:
                del self._waiting[claim.worker_id]

    def stir(self) -> None:
        """Ask for every claim that waits: tasks may have become ready."""
        self._is_stirred = True
        self._look.set()

    async def tick(self) -> int:
        """Ask once for the claims that are due; return how many got tasks."""
        is_stirred, self._is_stirred = self._is_stirred, False
        if is_stirred:
            for waiting in self._waiting.values():
                waiting.looks = 2
        due = [
            waiting
            for waiting in self._waiting.values()
            if waiting.is_wanted and (is_stirred or (waiting.looks and not waiting.is_later))
        ]
        try:
            served = 0
            for first in range(0, len(due), _BATCH):
                served += await self._ask(due[first : first + _BATCH])
        except BaseException:
            self._is_stirred = self._is_stirred or is_stirred
            raise
        if any(waiting.looks for waiting in due):
            self._look_again()
        # Nothing more to do until the next wake-up, however many it served.
        return 0

    async def _ask(self, due: Sequence[_Waiting]) -> int:
        for waiting in due:
            waiting.is_asked = True
        try:
            answers = await attempts.claim_many(
                self.store,
                [waiting.claim for waiting in due],
                head_start_s=HEAD_START_S,
                low_water=self._low_water,
            )
        finally:
            for waiting in due:
                waiting.is_asked = False
                if waiting.hold.is_over:
                    waiting.hold.subscription.wake()
        for waiting, offers in zip(due, answers, strict=True):
            waiting.looks -= 1
            waiting.is_later = True
            if offers:
                waiting.offers = offers
                waiting.hold.subscription.wake()
        return sum(bool(offers) for offers in answers)

    def _look_again(self) -> None:
        """Look once more when the head start of other workers is over."""
        if self._second_look is None:
            loop = asyncio.get_running_loop()
            self._second_look = loop.call_later(_SECOND_LOOK_S, self._second)

    def _second(self) -> None:
        self._second_look = None
        for waiting in self._waiting.values():
            waiting.is_later = False
        self._look.set()

    async def run(self) -> None:
        """Serve the claims until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="claims-listen")
            run = LoopRun(self, self._look, self.tick_s, tick_limit_s=60.0)
            group.create_task(run_loop(run, LoopHealth()), name="claims-look")

    async def _listen(self) -> None:
        with self.store.signals.subscribe("tasks") as tasks:
            while True:
                # A wake-up or the safety net: the same to everybody who waits.
                await tasks.wait(self.tick_s)
                self.stir()


CLAIMS = web.AppKey("claims", ClaimDesk)


def add_claims(app: web.Application) -> None:
    """Give an application the desk its held claims wait at."""
    app[CLAIMS] = ClaimDesk(app[STORE], tick_s=app[SETTINGS].scheduler.tick_s)
    app.cleanup_ctx.append(_serve)


async def _serve(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[CLAIMS].run(), name="claims")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
