"""Spare supervisors: taken before others are started, replaced, and gone with their daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.domain.states import Isolation
from tests.sandbox.conftest import limits, living, shell, until
from worker.sandbox import Cause, Place, Sandbox
from worker.spares import MOST, Spares
from worker.supervisor import is_alive

ROOT = Path(__file__).parents[2]
LEASE = 60.0


@pytest.fixture
async def spares() -> AsyncIterator[Spares]:
    kept = Spares(1)
    running = asyncio.create_task(kept.run())
    try:
        await until(lambda: len(kept.pids) == 1, within_s=10)
        yield kept
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_run_takes_a_spare_which_is_replaced(
    spares: Spares, place: Place, level: Isolation
) -> None:
    [spare] = spares.pids

    run = await Sandbox(level, spares).start(shell("echo done"), place, limits(), lease_s=LEASE)
    result = await run.wait()

    assert run.pid == spare
    assert (result.cause, result.ended.exit_code) == (Cause.EXIT, 0)
    assert place.log.read_text() == "done\n"
    await until(lambda: len(spares.pids) == 1, within_s=10)
    assert spares.pids != [spare]


async def test_who_finds_no_spare_starts_a_supervisor(
    spares: Spares, place: Place, level: Isolation
) -> None:
    sandbox = Sandbox(level, spares)
    first = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    assert spares.pids == []
    control = place.control.with_name("second")
    control.mkdir()
    second = Place(place.source, place.out, place.log, control, place.tag)

    result = await sandbox.run(shell("exit 3"), second, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 3
    first.cancel("abort")
    assert (await first.wait()).cause is Cause.CANCELLED


async def test_a_spare_that_died_is_passed_over(
    spares: Spares, place: Place, level: Isolation
) -> None:
    [spare] = spares.pids
    os.kill(spare, signal.SIGKILL)
    await until(lambda: not is_alive(spare), within_s=5)

    result = await Sandbox(level, spares).run(shell("exit 4"), place, limits(), lease_s=LEASE)

    assert (result.cause, result.ended.exit_code) == (Cause.EXIT, 4)


async def test_a_cancel_right_behind_the_spec_reaches_a_spare(
    spares: Spares, place: Place, level: Isolation
) -> None:
    sandbox = Sandbox(level, spares)
    run = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    run.cancel("abort")

    result = await asyncio.wait_for(run.wait(), 5)

    assert result.cause is Cause.CANCELLED
    assert living(place.tag) == []


async def test_a_spare_takes_over_no_lease_that_has_ended(
    spares: Spares, place: Place, level: Isolation
) -> None:
    result = await Sandbox(level, spares).run(shell("sleep 60"), place, limits(), lease_s=0.0)

    assert result.cause is Cause.LEASE
    assert living(place.tag) == []


async def test_no_spare_outlives_its_owner() -> None:
    spares = Spares(2)
    running = asyncio.create_task(spares.run())
    await until(lambda: len(spares.pids) == 2, within_s=10)
    pids = spares.pids

    running.cancel()
    await asyncio.wait({running})

    assert not any(map(is_alive, pids))


async def test_no_spare_outlives_a_daemon_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from worker.spares import Spares\n"
        "async def main():\n"
        "    spares = Spares(2)\n"
        "    running = asyncio.create_task(spares.run())\n"
        "    while len(spares.pids) < 2:\n"
        "        await asyncio.wait({running}, timeout=0.01)\n"
        "    print(*spares.pids, flush=True)\n"
        "    await running\n"
        "asyncio.run(main())\n"
    )
    daemon = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        line = await asyncio.to_thread(daemon.stdout.readline)
        pids = [int(word) for word in line.split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
    finally:
        daemon.kill()
        daemon.communicate()

    await until(lambda: not any(map(is_alive, pids)), within_s=5)


async def test_a_worker_of_many_slots_keeps_few_spares() -> None:
    spares = Spares(1000)
    running = asyncio.create_task(spares.run())
    try:
        await until(lambda: len(spares.pids) == MOST, within_s=20)
        await asyncio.wait({running}, timeout=0.3)
        assert len(spares.pids) == MOST
    finally:
        running.cancel()
        await asyncio.wait({running})
