"""The shell around every repeated work: a loop is one public iteration, this module is the rest.

Owns waking, pausing, back-off after errors, and the record of each loop's last success. A loop
never hears of any of it. Errors are logged here and only here; cancellation passes through.
A defect is logged with its traceback, each time; that what the loops work on is away for a while
is two lines, however long it takes: that it is, and that it is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from core.domain.clock import Clock, SystemClock
from core.runtime.logs import get_logger

log = get_logger(__name__)

#: Iterations in a row without a pause while each found work.
BURST = 50
#: Pause after a burst, seconds: a loop with endless work leaves room for the others.
BREATH_S = 0.02
#: Back-off after the first error in a row, seconds; doubles, with full jitter.
BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 30.0
#: An iteration that takes longer is cancelled and counts as an error, seconds.
TICK_LIMIT_S = 300.0

Pause = Callable[[float], Awaitable[object]]
#: Tells whether an error is nobody's fault: the database is away. Known by who has a database.
IsOutage = Callable[[BaseException], bool]


class Loop(Protocol):
    """Repeated work of one kind."""

    @property
    def name(self) -> str:
        """Agent noun: `reaper`."""
        ...

    async def tick(self) -> int:
        """Do one bounded iteration; return how much was done, 0 when there was nothing."""
        ...


class Wake(Protocol):
    """Tells a loop that there may be work.

    A wake-up is remembered until a `wait` returns it, so one that comes while the loop is at work
    is not lost: the next `wait` returns at once.
    """

    async def wait(self, timeout_s: float) -> bool:
        """Return True on a wake-up since the last return, False after *timeout_s* seconds."""
        ...


class EventWake:
    """A wake-up inside one process: what `set` calls between two waits becomes one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter, or the next one to come."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        # Cleared before the caller looks for work: a later `set` is about later work.
        self._event.clear()
        return True


@dataclass(slots=True)
class _Record:
    succeeded_at: float
    #: It rests so long when nothing wakes it: silence of that length says nothing.
    rests_s: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class LoopHealth:
    """When each loop of a process last succeeded; what health checks and the watchdog ask."""

    clock: Clock = field(default_factory=SystemClock)
    _records: dict[str, _Record] = field(default_factory=dict)

    def started(self, name: str, *, rests_s: float = 0.0) -> None:
        """Note that a loop begins, which may rest so long: it counts as healthy from here."""
        self._records[name] = _Record(self.clock.monotonic(), rests_s)

    def succeeded(self, name: str) -> None:
        """Note an iteration without an error."""
        record = self._records.setdefault(name, _Record(0.0))
        record.succeeded_at, record.failures = self.clock.monotonic(), 0

    def failed(self, name: str) -> int:
        """Note an iteration with an error; return how many came in a row."""
        record = self._records.setdefault(name, _Record(self.clock.monotonic()))
        record.failures += 1
        return record.failures

    def ages_s(self) -> Mapping[str, float]:
        """Return the seconds since each loop's last success."""
        now = self.clock.monotonic()
        return {name: now - record.succeeded_at for name, record in self._records.items()}

    def stale(self, limit_s: float) -> list[str]:
        """Return the loops without a success for longer than *limit_s* beyond a rest, sorted."""
        now = self.clock.monotonic()
        return sorted(
            name
            for name, record in self._records.items()
            if now - record.succeeded_at > limit_s + record.rests_s
        )


@dataclass(frozen=True, slots=True)
class LoopRun:
    """One loop, what wakes it, and how long it waits when nothing does."""

    loop: Loop
    wake: Wake
    interval_s: float
    tick_limit_s: float = TICK_LIMIT_S


@dataclass(slots=True)
class _Outage:
    """What the loop works on is away: since when, how often that was found."""

    since: float
    tries: int = 0


def backoff_s(failures: int, chance: random.Random) -> float:
    """Return the pause after *failures* errors in a row: full jitter below a doubling bound."""
    return chance.uniform(0.0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(failures - 1, 16)))


async def run_loop(
    run: LoopRun,
    health: LoopHealth,
    *,
    is_outage: IsOutage = lambda _error: False,
    chance: random.Random | None = None,
    pause: Pause = asyncio.sleep,
) -> None:
    """Run a loop until it is cancelled: at once, then on each wake-up, at least each interval."""
    chance = chance or random.Random()  # noqa: S311 - jitter is no secret
    name = run.loop.name
    health.started(name, rests_s=run.interval_s)
    in_burst = 0
    outage: _Outage | None = None
    while True:
        done = await _tick(run, health, is_outage)
        if isinstance(done, Exception):
            in_burst = 0
            delay_s = backoff_s(health.failed(name), chance)
            if not is_outage(done):
                await pause(delay_s)
                continue
            outage = outage or _Outage(health.clock.monotonic())
            _note_outage(name, done, outage, delay_s)
            # Whoever hears first that it is back wakes all; never at once, so that no wake-up
            # makes this a busy loop.
            await pause(min(delay_s, BACKOFF_BASE_S))
            if delay_s > BACKOFF_BASE_S:
                await run.wake.wait(delay_s - BACKOFF_BASE_S)
            continue
        if outage is not None:
            lasted_s = round(health.clock.monotonic() - outage.since, 1)
            log.info("loop.recovered", loop=name, lasted_s=lasted_s, tries=outage.tries)
            outage = None
        if done > 0:
            in_burst = (in_burst + 1) % BURST
            await pause(0 if in_burst else BREATH_S)
        else:
            in_burst = 0
            await run.wake.wait(run.interval_s)


async def _tick(run: LoopRun, health: LoopHealth, is_outage: IsOutage) -> int | Exception:
    """Return what one iteration did, or its error, which is logged unless it is an outage."""
    try:
        async with asyncio.timeout(run.tick_limit_s):
            done = await run.loop.tick()
    except Exception as error:
        # The edge of the loop: whatever one iteration meets, the next one tries again.
        if not is_outage(error):
            log.exception("loop.failed", loop=run.loop.name)
        return error
    health.succeeded(run.loop.name)
    return done


def _note_outage(name: str, error: Exception, outage: _Outage, delay_s: float) -> None:
    outage.tries += 1
    text = (str(error) or type(error).__name__)[:500]
    tell = log.warning if outage.tries == 1 else log.debug
    tell("loop.unavailable", loop=name, error=text, delay_s=round(delay_s, 2), tries=outage.tries)


async def run_loops(
    runs: Iterable[LoopRun], health: LoopHealth, *, is_outage: IsOutage = lambda _error: False
) -> None:
    """Run loops side by side, each a named task, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for run in runs:
            shell = run_loop(run, health, is_outage=is_outage)
            group.create_task(shell, name=f"kennel-{run.loop.name}")
