"""The shell around a loop: when it ticks, how it backs off, that cancellation passes through."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.runtime.loops import (
    BACKOFF_BASE_S,
    BACKOFF_CAP_S,
    BREATH_S,
    BURST,
    EventWake,
    LoopHealth,
    LoopRun,
    backoff_s,
    run_loop,
    run_loops,
)

DEADLINE_S = 10.0


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


class ScriptedLoop:
    """Plays a script of results; raises those that are errors; then ends the run."""

    name = "scripted"

    def __init__(self, *script: int | Exception) -> None:
        self._script = list(script)
        self.ticks = 0

    async def tick(self) -> int:
        self.ticks += 1
        if not self._script:
            raise asyncio.CancelledError
        result = self._script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class Recorder:
    """Notes every wait a loop asks for, in order, and lets it go on at once."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, float]] = []

    async def pause(self, seconds: float) -> None:
        self.waits.append(("pause", seconds))

    async def wait(self, timeout_s: float) -> bool:
        self.waits.append(("wake", timeout_s))
        return False


async def play(*script: int | Exception, chance: random.Random | None = None) -> Recorder:
    recorder = Recorder()
    run = LoopRun(ScriptedLoop(*script), recorder, interval_s=5.0)
    with pytest.raises(asyncio.CancelledError):
        await run_loop(run, LoopHealth(), chance=chance, pause=recorder.pause)
    return recorder


async def test_a_loop_ticks_at_once_and_then_waits_for_a_wake_up_or_the_interval() -> None:
    recorder = await play(0, 0)

    assert recorder.waits == [("wake", 5.0), ("wake", 5.0)]


async def test_a_loop_that_found_work_looks_again_without_waiting() -> None:
    recorder = await play(3, 1, 0)

    assert recorder.waits == [("pause", 0), ("pause", 0), ("wake", 5.0)]


async def test_a_loop_with_endless_work_leaves_room_after_each_burst() -> None:
    recorder = await play(*[1] * (2 * BURST))

    breaths = [index for index, wait in enumerate(recorder.waits) if wait == ("pause", BREATH_S)]
    assert breaths == [BURST - 1, 2 * BURST - 1]


async def test_an_idle_look_ends_the_burst() -> None:
    recorder = await play(*[1] * (BURST - 1), 0, *[1] * (BURST - 1))

    assert ("pause", BREATH_S) not in recorder.waits


async def test_errors_back_off_further_and_further_with_full_jitter() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    errors = [OSError("database gone")] * 9

    with capture_logs() as logs:
        recorder = await play(*errors, 0, OSError("again"), chance=Highest())

    pauses = [seconds for kind, seconds in recorder.waits if kind == "pause"]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 0.5]
    assert [log["event"] for log in logs] == ["loop.failed"] * 10
    assert all(log["loop"] == "scripted" and log["exc_info"] for log in logs)


class Away(Exception):
    """What the loop works on is away."""


def is_away(error: BaseException) -> bool:
    return isinstance(error, Away)


async def play_outage(*script: int | Exception) -> tuple[Recorder, list[Any]]:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    recorder, clock = Recorder(), ManualClock()

    async def pause(seconds: float) -> None:
        clock.seconds += 10.0
        await recorder.pause(seconds)

    run = LoopRun(ScriptedLoop(*script), recorder, interval_s=5.0)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await run_loop(run, LoopHealth(clock), is_outage=is_away, chance=Highest(), pause=pause)
    return recorder, logs


async def test_an_outage_is_one_line_and_its_end_another_without_a_traceback() -> None:
    _, logs = await play_outage(Away("refused"), Away("refused"), Away(""), 0, 0)

    told = [log for log in logs if log["log_level"] != "debug"]
    assert [(log["event"], log["log_level"]) for log in told] == [
        ("loop.unavailable", "warning"),
        ("loop.recovered", "info"),
    ]
    assert told[0] | {"loop": "scripted", "error": "refused", "delay_s": 0.5} == told[0]
    assert told[1] | {"loop": "scripted", "tries": 3, "lasted_s": 30.0} == told[1]
    assert not any("exc_info" in log for log in logs)


async def test_a_second_outage_is_told_again_and_a_defect_keeps_its_traceback() -> None:
    _, logs = await play_outage(Away("a"), 0, ValueError("a bug"), Away("b"), 0)

    told = [log["event"] for log in logs]
    assert told == [
        "loop.unavailable",
        "loop.recovered",
        "loop.failed",
        "loop.unavailable",
        "loop.recovered",
    ]
    assert [log["event"] for log in logs if log.get("exc_info")] == ["loop.failed"]


async def test_a_wake_up_ends_the_back_off_of_an_outage_but_not_its_first_moment() -> None:
    recorder, _ = await play_outage(*[Away("refused")] * 4, 0)

    assert recorder.waits == [
        ("pause", 0.5),
        ("pause", 0.5),
        ("wake", 0.5),
        ("pause", 0.5),
        ("wake", 1.5),
        ("pause", 0.5),
        ("wake", 3.5),
        ("wake", 5.0),
    ]


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_back_off_stays_within_its_bounds(failures: int, seed: int) -> None:
    pause_s = backoff_s(failures, random.Random(seed))

    assert 0 <= pause_s <= min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(failures - 1, 1000))


async def test_a_tick_over_its_limit_is_cancelled_and_counts_as_an_error() -> None:
    class Stuck:
        name = "stuck"
        was_cancelled = False

        async def tick(self) -> int:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
            return 0

    stuck = Stuck()
    backed_off = asyncio.Event()

    async def pause(seconds: float) -> None:
        backed_off.set()
        await asyncio.get_running_loop().create_future()

    run = LoopRun(stuck, Recorder(), interval_s=5.0, tick_limit_s=0.01)
    with capture_logs() as logs:
        async with asyncio.timeout(DEADLINE_S):
            task = asyncio.create_task(run_loop(run, LoopHealth(), pause=pause))
            await backed_off.wait()
            await cancelled(task)

    assert stuck.was_cancelled
    assert [log["event"] for log in logs] == ["loop.failed"]


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Gate:
    """A loop whose tick tells that it began and ends when it is let."""

    def __init__(self, name: str = "gate") -> None:
        self._name = name
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.ticks = 0

    @property
    def name(self) -> str:
        return self._name

    async def tick(self) -> int:
        self.ticks += 1
        self.began.set()
        await self.go.wait()
        return 0


@pytest.mark.parametrize("where", ["tick", "wait", "back-off"])
async def test_cancellation_passes_through_wherever_it_meets_the_loop(where: str) -> None:
    gate, reached = Gate(), asyncio.Event()

    class Wake:
        async def wait(self, timeout_s: float) -> bool:
            reached.set()
            await asyncio.get_running_loop().create_future()
            return False

    async def pause(seconds: float) -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    loop = ScriptedLoop(OSError("gone")) if where == "back-off" else gate
    if where == "wait":
        gate.go.set()
    run = LoopRun(loop, Wake(), interval_s=5.0)

    with capture_logs():
        async with asyncio.timeout(DEADLINE_S):
            task = asyncio.create_task(run_loop(run, LoopHealth(), pause=pause))
            await (gate.began if where == "tick" else reached).wait()
            await cancelled(task)

    assert task.cancelled()


async def test_a_wake_up_during_a_tick_is_not_lost() -> None:
    gate, wake = Gate(), EventWake()
    run = LoopRun(gate, wake, interval_s=3600.0)

    async with asyncio.timeout(DEADLINE_S):
        task = asyncio.create_task(run_loop(run, LoopHealth()))
        await gate.began.wait()
        gate.began.clear()
        wake.set()
        gate.go.set()
        await gate.began.wait()
        await cancelled(task)

    assert gate.ticks >= 2


async def test_wake_ups_between_two_waits_become_one() -> None:
    wake = EventWake()
    for _ in range(3):
        wake.set()

    assert await wake.wait(DEADLINE_S) is True
    assert await wake.wait(0.001) is False


async def test_loops_run_side_by_side_in_named_tasks_and_end_together() -> None:
    gates = [Gate("reaper"), Gate("expirer")]
    health = LoopHealth()
    names: Callable[[], set[str]] = lambda: {task.get_name() for task in asyncio.all_tasks()}  # noqa: E731

    async with asyncio.timeout(DEADLINE_S):
        group = asyncio.create_task(
            run_loops([LoopRun(gate, EventWake(), interval_s=5.0) for gate in gates], health)
        )
        for gate in gates:
            await gate.began.wait()
        running = names()
        await cancelled(group)

    assert {"kennel-reaper", "kennel-expirer"} <= running
    assert not {"kennel-reaper", "kennel-expirer"} & names()
    assert set(health.ages_s()) == {"reaper", "expirer"}


async def test_one_loop_s_errors_leave_the_others_alone() -> None:
    class Failing:
        name = "failing"

        async def tick(self) -> int:
            raise OSError("gone")

    gate, health = Gate(), LoopHealth()

    with capture_logs():
        async with asyncio.timeout(DEADLINE_S):
            runs = [LoopRun(loop, EventWake(), interval_s=5.0) for loop in (Failing(), gate)]
            group = asyncio.create_task(run_loops(runs, health))
            await gate.began.wait()
            assert not group.done()
            await cancelled(group)


async def test_health_tells_the_age_of_each_loop_s_last_success() -> None:
    clock = ManualClock()
    health = LoopHealth(clock)
    health.started("reaper")
    health.started("expirer")

    clock.seconds = 20.0
    health.succeeded("reaper")
    clock.seconds = 30.0

    assert health.ages_s() == {"reaper": 10.0, "expirer": 30.0}
    assert health.stale(15.0) == ["expirer"]


async def test_a_loop_that_rests_for_long_is_not_stale_meanwhile() -> None:
    clock = ManualClock()
    health = LoopHealth(clock)
    health.started("pruner", rests_s=600.0)
    health.started("reaper", rests_s=5.0)
    health.succeeded("pruner")

    clock.seconds = 500.0
    assert health.stale(180.0) == ["reaper"]
    clock.seconds = 800.0
    assert health.stale(180.0) == ["pruner", "reaper"]


async def test_an_error_neither_renews_nor_hides_the_last_success() -> None:
    clock = ManualClock()
    health = LoopHealth(clock)
    recorder = Recorder()

    async def pause(seconds: float) -> None:
        clock.seconds += 100.0

    run = LoopRun(ScriptedLoop(0, OSError("gone"), OSError("gone")), recorder, interval_s=5.0)
    with capture_logs(), pytest.raises(asyncio.CancelledError):
        await run_loop(run, health, pause=pause)

    assert health.ages_s() == {"scripted": 200.0}
    assert health.failed("scripted") == 3
