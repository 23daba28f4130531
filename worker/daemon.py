"""The worker as a whole: in which order things begin and end, and how it stops.

Begin: what the last run owes is delivered, then the worker registers, then it works. Stop: a
first signal (or the server's order) drains, a second aborts; heartbeats go on until every
result is accepted. Whatever a part of it does is that part's module's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from core.protocol.messages import AttemptResult, Beat, HeartbeatRequest
from core.runtime import systemd
from core.runtime.logs import get_logger
from core.runtime.loops import EventWake, Loop, LoopHealth, LoopRun, run_loop
from worker.attempt import Fate
from worker.claiming import Claimer
from worker.client import CallRefused, ServerUnavailable, Unauthorized
from worker.enrolment import EnrolmentRefused
from worker.heartbeat import Fence, Heartbeat
from worker.roster import MAX_HELD, Roster
from worker.spool import Entry
from worker.tools import Tools

log = get_logger(__name__)

#: How often a loop looks although nothing woke it, seconds.
_IDLE_S = 1.0
#: A loop without a success for that long makes the worker unhealthy, seconds.
_STALE_S = 180.0
#: Between two reminders to attempts that were told to end, seconds.
_REMIND_S = 0.2
#: Longest wait for killed attempts to be gone, seconds; beyond, the process ends all the same.
_KILLED_S = 30.0
_GOODBYE_S = 5.0
#: Longest the delivery of the last run's results holds up a start, seconds, once the server is
#: reached; beyond, they are delivered later, if their leases last.
_DEBTS_S = 120.0
#: Longest wait for the answer to a heartbeat that is not held, seconds.
_BEAT_S = 10.0


class Stop(Protocol):
    """How a worker is told to end: `core.runtime.signals.StopSignals`, or its owner's own."""

    #: Take no more work, finish what runs.
    drain: asyncio.Event
    #: End what runs.
    abort: asyncio.Event


@dataclass(frozen=True, slots=True)
class StopBounds:
    """How long stopping may take, seconds."""

    #: After an abort: until what was asked to end is killed, and then until results that cannot
    #: be delivered are left to the next start.
    shutdown_s: float
    #: After a drain: until what has not finished is killed and handed back; None: no bound.
    hand_back_within_s: float | None = None


@dataclass(frozen=True, slots=True)
class Wakes:
    """What tells the parts of a worker that slots or results have changed."""

    room: EventWake
    status: EventWake

    def set(self) -> None:
        """Wake all of them."""
        self.room.set()
        self.status.set()


class Daemon:
    """One worker process."""

    def __init__(
        self, tools: Tools, roster: Roster, wakes: Wakes, *, stop: Stop, bounds: StopBounds
    ) -> None:
        self._tools = tools
        self._roster = roster
        self._wakes = wakes
        self._stop = stop
        self._bounds = bounds
        self._health = LoopHealth(tools.clock)
        self._heartbeat = Heartbeat(
            tools.client,
            tools.enrolment,
            roster,
            tools.clock,
            on_directives=self._follow_directives,
        )
        self._claimer = Claimer(tools, roster, self._heartbeat)
        self._leftovers: Sequence[tuple[Entry, AttemptResult]] = ()
        self._directives: frozenset[str] = frozenset()
        self._drain_ordered = asyncio.Event()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            EnrolmentRefused: the server does not take this worker.
        """
        if not await self._unless_stopped(self._begin()):
            return
        systemd.ready(self.status())
        try:
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(part, name=name) for name, part in self._parts()]
                claiming = group.create_task(
                    self._loop(self._claimer, self._wakes.room), name="claimer"
                )
                await _first(self._stop.drain, self._stop.abort, self._drain_ordered)
                await self._wind_down(claiming)
                for task in work:
                    task.cancel()
        except BaseExceptionGroup as failures:
            refusal = failures.subgroup(EnrolmentRefused)
            if refusal is None:
                raise
            raise _leaf(refusal) from None
        await self._say_goodbye("stopped")
        log.info("worker.stopped", results_kept=self._tools.reporter.waiting())

    # --- begin -------------------------------------------------------------------------------

    async def _unless_stopped(self, beginning: Coroutine[Any, Any, None]) -> bool:
        """Return whether *beginning* came to its end before a stop."""
        task = asyncio.create_task(beginning, name="begin")
        stopped = asyncio.create_task(_first(self._stop.drain, self._stop.abort), name="stopped")
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            return task.done()
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.wait({task, stopped})

    async def _begin(self) -> None:
        debts = await self._tools.spool.load()
        # Before registering, which gives the leases of these results away.
        if debts and await self._tools.enrolment.try_last_identity() is not None:
            try:
                async with asyncio.timeout(_DEBTS_S):
                    await self._settle_debts(debts)
            except (TimeoutError, Unauthorized) as error:
                log.warning("results.left", error=str(error))
        await self._tools.enrolment.open()
        # The new identity may deliver what the old one could not.
        self._leftovers = await self._tools.spool.load()

    async def _settle_debts(self, debts: Sequence[tuple[Entry, AttemptResult]]) -> None:
        enrolment = self._tools.enrolment
        for settled, (entry, result) in enumerate(debts):
            # Their leases must last until the last one is delivered.
            left = [Beat(attempt_id=e.ref.attempt_id, phase="spooled") for e, _ in debts[settled:]]
            await enrolment.patiently(partial(self._beat_once, left[:MAX_HELD]))
            await enrolment.patiently(partial(self._tools.reporter.deliver_once, entry, result))

    async def _beat_once(self, beats: list[Beat]) -> None:
        beat = HeartbeatRequest(attempts=beats, hold=False)
        try:
            await self._tools.client.heartbeat(beat, timeout_s=_BEAT_S)
        except CallRefused as refusal:
            log.warning("heartbeat.refused", error=str(refusal))

    def _parts(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield all that runs beside the claims, until everything is delivered."""
        yield "reporter", self._tools.reporter.run()
        yield "attempts", self._claimer.run()
        yield "heartbeat", self._loop(self._heartbeat)
        yield "fence", self._loop(Fence(self._heartbeat, self._roster, self._tools.clock))
        yield "enrolment", self._tools.enrolment.keep(self._before_registering)
        yield "leftovers", self._deliver_leftovers()
        yield "status", self._loop(_StatusLine(self), self._wakes.status)
        yield "watchdog", systemd.watchdog(lambda: not self._health.stale(_STALE_S))

    async def _loop(self, body: Loop, wake: EventWake | None = None) -> None:
        await run_loop(LoopRun(body, wake or EventWake(), _IDLE_S), self._health)

    async def _deliver_leftovers(self) -> None:
        for entry, result in self._leftovers:
            await self._tools.reporter.submit(entry, result)

    # --- orders ------------------------------------------------------------------------------

    def _follow_directives(self, directives: frozenset[str]) -> None:
        if directives != self._directives:
            log.info("worker.directed", directives=sorted(directives))
            self._directives = directives
            self._claimer.is_paused = "pause" in directives
            self._wakes.set()
        if "drain" in directives:
            self._drain_ordered.set()

    async def _before_registering(self) -> None:
        self._claimer.forget()
        await self._end_all("abort", Fate.DROP, within_s=_KILLED_S)

    # --- stop --------------------------------------------------------------------------------

    async def _wind_down(self, claiming: asyncio.Task[None]) -> None:
        systemd.stopping(f"draining, {self.status()}")
        log.info("worker.draining", attempts=self._roster.busy())
        self._heartbeat.is_draining = True
        self._heartbeat.renew()
        self._claimer.close()
        claiming.cancel()
        await asyncio.wait({claiming})
        await self._say_goodbye("draining")
        within_s = self._bounds.hand_back_within_s
        await _first(self._roster.empty, self._stop.abort, within_s=within_s)
        is_bounded = not self._roster.empty.is_set()
        if is_bounded:
            await self._abort()
        await self._settle(is_bounded=is_bounded or within_s is not None)

    async def _abort(self) -> None:
        log.warning("worker.aborting", attempts=self._roster.busy())
        if self._stop.abort.is_set():
            within_s = self._bounds.shutdown_s
            await self._end_all("graceful", Fate.HAND_BACK, within_s=within_s)
        await self._end_all("abort", Fate.HAND_BACK, within_s=_KILLED_S)

    async def _end_all(
        self, mode: Literal["graceful", "abort"], fate: Fate, *, within_s: float
    ) -> None:
        """Tell all attempts to end until none is left, those too that were just beginning."""
        ends_at = self._tools.clock.monotonic() + within_s
        while not self._roster.empty.is_set() and self._tools.clock.monotonic() < ends_at:
            self._roster.stop_all(mode, fate)
            await _first(self._roster.empty, within_s=_REMIND_S)

    async def _settle(self, *, is_bounded: bool) -> None:
        """Wait until every result is accepted, or cannot be: then the next start delivers it."""
        settled = self._tools.reporter.settled
        ends_at = self._tools.clock.monotonic() + self._bounds.shutdown_s
        while not settled.is_set() and not self._heartbeat.is_fenced():
            is_late = self._tools.clock.monotonic() >= ends_at
            if is_late and (is_bounded or self._stop.abort.is_set()):
                return
            await _first(settled, within_s=_REMIND_S)

    async def _say_goodbye(self, reason: str) -> None:
        if not self._tools.enrolment.valid.is_set():
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._tools.client.goodbye(reason)
        except (ServerUnavailable, CallRefused, Unauthorized, TimeoutError) as error:
            log.info("goodbye.failed", error=str(error))

    # --- what it shows -----------------------------------------------------------------------

    def status(self) -> str:
        """Return the line the service manager shows."""
        waiting = self._tools.reporter.waiting()
        results = f", {waiting} results not accepted yet" if waiting else ""
        return f"{self._roster.busy()}/{self._roster.slots} slots busy{results}"


class _StatusLine:
    name = "status"

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._shown = ""

    async def tick(self) -> int:
        text = self._daemon.status()
        if text != self._shown:
            systemd.status(text)
            self._shown = text
        return 0


async def _first(*events: asyncio.Event, within_s: float | None = None) -> None:
    """Wait until one of *events* is set, or the time is over."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)


def _leaf(group: BaseExceptionGroup[EnrolmentRefused]) -> EnrolmentRefused:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
