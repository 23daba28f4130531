"""Requests that wait for something to happen: claims, heartbeats, synchronous creates.

A held request costs memory and nothing else: it waits for a wake-up, never asks the database in
turns. What is over (time, the process stops, the caller went away) ends the wait. Held creates
share one look at the database, for all jobs somebody was woken for, and as a safety net one for
all held jobs every few seconds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from api.errors import Refused
from api.keys import SETTINGS, STOPPING, STORE
from core.domain.ids import JobId, WorkerId
from core.runtime.loops import EventWake, LoopHealth, LoopRun, run_loop
from core.store import jobs
from core.store.jobs import ClosedJob
from core.store.notify import Subscription
from core.store.pool import is_unavailable
from core.store.store import Store, job_topic

#: Claims one process holds; beyond it workers are told to try again.
MOST_CLAIMS = 4096
#: How often it is seen that a caller went away, seconds.
SWEEP_S = 1.0


@dataclass(eq=False, slots=True)
class Hold:
    """One held request."""

    request: web.Request
    subscription: Subscription
    deadline: float
    #: The process stops, the caller went away, or another request took this one's place.
    is_ended: bool = False
    closed: ClosedJob | None = None

    @property
    def is_over(self) -> bool:
        """Whether the request is to be answered with what there is."""
        return self.is_ended or asyncio.get_running_loop().time() >= self.deadline

    @property
    def is_settled(self) -> bool:
        """Whether the job it waits for is closed."""
        return self.closed is not None

    @property
    def is_abandoned(self) -> bool:
        """Whether the caller went away: an answer would reach nobody."""
        transport = self.request.transport
        return transport is None or transport.is_closing()

    async def news(self, at_most_s: float | None = None) -> bool:
        """Wait for a wake-up, at most until the hold is over; True: there may be news."""
        if self.is_over:
            return False
        left_s = self.deadline - asyncio.get_running_loop().time()
        return await self.subscription.wait(left_s if at_most_s is None else min(at_most_s, left_s))

    def end(self) -> None:
        """Have the request answered now."""
        self.is_ended = True
        self.subscription.wake()


@dataclass(slots=True)
class Holding:
    """The held requests of one process."""

    store: Store
    #: How often held jobs are looked up although no notification came, seconds.
    tick_s: float = 5.0
    #: Name of the loop that looks up held jobs.
    name: str = "held-jobs"
    _holds: set[Hold] = field(default_factory=set)
    _claims: dict[WorkerId, Hold] = field(default_factory=dict)
    _jobs: dict[JobId, set[Hold]] = field(default_factory=lambda: defaultdict(set))
    #: Jobs that something happened to since they were last looked up.
    _stirred: set[JobId] = field(default_factory=set)
    _look: EventWake = field(default_factory=EventWake)
    _is_stopping: bool = False

    def __len__(self) -> int:
        return len(self._holds)

    @contextmanager
    def hold(self, request: web.Request, *topics: str, timeout_s: float) -> Iterator[Hold]:
        """Hold a request for at most *timeout_s* seconds, woken by *topics*."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        with self.store.signals.subscribe(*topics) as subscription:
            hold = Hold(request, subscription, deadline, is_ended=self._is_stopping)
            self._holds.add(hold)
            try:
                yield hold
            finally:
                self._holds.discard(hold)

    @contextmanager
    def hold_claim(
        self, request: web.Request, worker_id: WorkerId, *topics: str, timeout_s: float
    ) -> Iterator[Hold]:
        """Hold a worker's claim; one it left behind is answered."""
        earlier = self._claims.get(worker_id)
        if earlier is not None:
            earlier.end()
        elif len(self._claims) >= MOST_CLAIMS:
            raise Refused(503, "too many claims are held; try again", headers={"Retry-After": "1"})
        with self.hold(request, *topics, timeout_s=timeout_s) as hold:
            self._claims[worker_id] = hold
            try:
                yield hold
            finally:
                if self._claims.get(worker_id) is hold:
                    del self._claims[worker_id]

    async def until_closed(
        self, request: web.Request, job_id: JobId, *, timeout_s: float
    ) -> ClosedJob | None:
        """Hold a request until a job is closed; None: it is still open, answer without."""
        with self.hold(request, job_topic(job_id), timeout_s=timeout_s) as hold:
            self._jobs[job_id].add(hold)
            try:
                # It may have closed before anybody listened.
                self._stir(job_id)
                while await hold.news() and not hold.is_settled:
                    self._stir(job_id)
                return hold.closed
            finally:
                self._jobs[job_id].discard(hold)
                if not self._jobs[job_id]:
                    del self._jobs[job_id]

    def _stir(self, job_id: JobId) -> None:
        self._stirred.add(job_id)
        self._look.set()

    async def tick(self) -> int:
        """Look up the jobs that stirred, or all that are held; wake whose job is closed."""
        held = set(self._jobs)
        wanted = self._stirred & held if self._stirred else held
        self._stirred = set()
        if wanted:
            for job_id, closed in (await jobs.closed(self.store, wanted)).items():
                for hold in self._jobs.get(job_id, ()):
                    hold.closed = closed
                    hold.subscription.wake()
        # Not the number found: there is nothing more to do until the next wake-up.
        return 0

    def sweep(self) -> None:
        """End the holds whose callers went away."""
        for hold in list(self._holds):
            if hold.is_abandoned:
                hold.end()

    def stop(self) -> None:
        """Have every held request answered, and hold none from here on."""
        self._is_stopping = True
        for hold in list(self._holds):
            hold.end()

    async def watch(self, stopping: asyncio.Event) -> None:
        """Let go of abandoned requests, and of all once *stopping* is set."""
        while not stopping.is_set():
            try:
                async with asyncio.timeout(SWEEP_S):
                    await stopping.wait()
            except TimeoutError:
                self.sweep()
        self.stop()

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve the held requests until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch(stopping), name="holding-watch")
            run = LoopRun(self, self._look, self.tick_s, tick_limit_s=30.0)
            shell = run_loop(run, LoopHealth(), is_outage=is_unavailable)
            group.create_task(shell, name="holding-look")


HOLDING = web.AppKey("holding", Holding)


def add_holding(app: web.Application) -> None:
    """Give an application what its held requests need."""
    app[HOLDING] = Holding(app[STORE], tick_s=app[SETTINGS].scheduler.tick_s)
    app.cleanup_ctx.append(_serve)


async def _serve(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[HOLDING].run(app[STOPPING]), name="holding")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
