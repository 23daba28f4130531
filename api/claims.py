"""Held claims of workers, answered together: one statement offers tasks to all that wait.

A claim is asked for once when it comes, then whenever tasks may have become ready; as a safety net
it is seen every few seconds whether any are. Workers wait at no connection of their own.
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
from core.store.pool import is_unavailable
from core.store.ready import any_ready
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
    #: When it is asked for next without a wake-up, by the loop's clock; None: only by one.
    look_at: float | None = 0.0
    #: Looks it gets in a row: one now, a second once the head starts of other workers are over.
    looks: int = 2
    #: A statement that may offer it tasks is under way.
    is_asked: bool = False

    @property
    def is_wanted(self) -> bool:
        return self.offers is None and not self.hold.is_over and not self.hold.is_abandoned

    def is_due(self, now: float) -> bool:
        """Tell whether it is to be asked for at *now*, by the loop's clock."""
        return self.is_wanted and self.look_at is not None and self.look_at <= now


@dataclass(slots=True)
class ClaimDesk:
    """The claims that wait in one process."""

    store: Store
    #: How often all are asked for although no notification came, seconds.
    tick_s: float = 5.0
    name: str = "claims"
    _waiting: dict[WorkerId, _Waiting] = field(default_factory=dict)
    #: How many times everybody is asked for, since tasks may have become ready.
    _stirred: int = 0
    #: Tasks may have become ready unheard.
    _is_unsure: bool = False
    _look: EventWake = field(default_factory=EventWake)
    _low_water: LowWater = field(default_factory=LowWater)
    _timer: asyncio.TimerHandle | None = None

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
        """Ask for every claim that waits: tasks may have become ready.

        Twice, since some may be left to another worker for a moment.
        """
        self._stirred = 2
        self._look.set()

    async def tick(self) -> int:
        """Ask once for the claims that are due."""
        stirred, self._stirred = self._stirred, 0
        is_unsure, self._is_unsure = self._is_unsure, False
        if is_unsure and not stirred and self._waiting and await any_ready(self.store):
            # The safety net is for all; nobody's head start is over because of it.
            stirred = 1
        now = asyncio.get_running_loop().time()
        for waiting in self._waiting.values():
            if stirred and waiting.is_wanted:
                waiting.looks = max(waiting.looks, stirred)
                waiting.look_at = now
        due = [waiting for waiting in self._waiting.values() if waiting.is_due(now)]
        try:
            for first in range(0, len(due), _BATCH):
                await self._ask(due[first : first + _BATCH])
        finally:
            self._look_again()
        # Nothing more to do until the next wake-up, however many it served.
        return 0

    async def _ask(self, due: Sequence[_Waiting]) -> None:
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
        second_at = asyncio.get_running_loop().time() + _SECOND_LOOK_S
        for waiting, offers in zip(due, answers, strict=True):
            waiting.looks -= 1
            waiting.look_at = second_at if waiting.looks > 0 else None
            if offers:
                waiting.offers = offers
                waiting.hold.subscription.wake()

    def _look_again(self) -> None:
        """Have the next look begin when the first claim is due for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        looks = [
            waiting.look_at
            for waiting in self._waiting.values()
            if waiting.is_wanted and waiting.look_at is not None
        ]
        if looks:
            self._timer = asyncio.get_running_loop().call_at(min(looks), self._look.set)

    async def run(self) -> None:
        """Serve the claims until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="claims-listen")
            run = LoopRun(self, self._look, self.tick_s, tick_limit_s=60.0)
            shell = run_loop(run, LoopHealth(), is_outage=is_unavailable)
            group.create_task(shell, name="claims-look")

    async def _listen(self) -> None:
        with self.store.signals.subscribe("tasks") as tasks:
            while True:
                if await tasks.wait(self.tick_s):
                    self.stir()
                else:
                    self._is_unsure = True
                    self._look.set()


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
