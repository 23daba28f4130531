"""Every way a tree of processes is ended: limits, cancels, leases; nothing of it stays alive."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from core.domain.outcomes import Reason
from core.domain.states import Isolation
from core.protocol.messages import TaskLimits
from tests.sandbox.conftest import limits, living, python, shell, until
from worker import sandbox as sandbox_module
from worker.engines.base import Command
from worker.sandbox import Cause, Place, Sandbox, SupervisedRun
from worker.supervisor import descendants, descendants_by_parent, is_alive

LEASE = 60.0

#: Three levels deep, ignores TERM, and one of them leaves the session and the group.
STUBBORN = """
trap '' TERM
(trap '' TERM; while :; do sleep 1; done) &
setsid sh -c "trap '' TERM; while :; do sleep 1; done" &
setsid setsid sleep 1000 &
echo ready > {ready}
while :; do sleep 1; done
"""

#: Forks twice and lets its parents die, as daemons do.
DAEMON = """
import os, select, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({ready!r}, "w").close()
        signal.pause()
    os._exit(0)
os.wait()
while not os.path.exists({ready!r}):
    select.select([], [], [], 0.01)
"""


def ready_file(place: Place) -> Path:
    return place.out / "ready"


async def start_stubborn(sandbox: Sandbox, place: Place, bounds: TaskLimits) -> SupervisedRun:
    command = shell(STUBBORN.format(ready=ready_file(place)))
    run = await sandbox.start(command, place, bounds, lease_s=LEASE)
    await until(ready_file(place).exists, within_s=10)
    return run


async def test_abort_kills_a_tree_that_ignores_terminate_within_a_second(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits())
    assert len(living(place.tag)) >= 4

    run.cancel("abort")
    took = await until(lambda: not living(place.tag), within_s=1.0)
    result = await run.wait()

    assert took < 1.0
    assert (result.cause, result.ended.limit) == (Cause.CANCELLED, None)


async def test_graceful_cancel_kills_what_ignores_terminate_after_the_grace(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits())

    started = time.monotonic()
    run.cancel("graceful")
    result = await run.wait()

    assert 0.5 <= time.monotonic() - started < 3
    assert result.cause is Cause.CANCELLED
    assert living(place.tag) == []


async def test_graceful_cancel_lets_an_engine_flush_its_report(
    sandbox: Sandbox, place: Place
) -> None:
    script = (
        f"trap 'echo flushed > {place.out}/report; exit 3' TERM; "
        f"echo > {ready_file(place)}; while :; do sleep 0.05; done"
    )
    run = await sandbox.start(shell(script, grace_s=20.0), place, limits(), lease_s=LEASE)
    await until(ready_file(place).exists, within_s=10)

    run.cancel("graceful")
    result = await run.wait()

    assert (place.out / "report").read_text() == "flushed\n"
    assert (result.cause, result.ended.exit_code) == (Cause.CANCELLED, 3)
    assert result.wall_s < 10


async def test_abort_cuts_a_graceful_cancel_short(sandbox: Sandbox, place: Place) -> None:
    command = shell(STUBBORN.format(ready=ready_file(place)), grace_s=25.0)
    run = await sandbox.start(command, place, limits(), lease_s=LEASE)
    await until(ready_file(place).exists, within_s=10)

    run.cancel("graceful")
    run.cancel("abort")
    await until(lambda: not living(place.tag), within_s=1.0)

    assert (await run.wait()).cause is Cause.CANCELLED


async def test_a_daemon_that_forked_twice_is_dead_when_the_command_has_ended(
    sandbox: Sandbox, place: Place
) -> None:
    command = python(DAEMON.format(ready=str(ready_file(place))))

    result = await sandbox.run(command, place, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 0
    assert ready_file(place).exists()
    assert living(place.tag) == []


async def test_cancel_at_once_after_the_start_leaves_nothing(
    sandbox: Sandbox, place: Place
) -> None:
    run = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    run.cancel("abort")

    result = await asyncio.wait_for(run.wait(), 5)

    assert result.cause is Cause.CANCELLED
    assert living(place.tag) == []


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
async def test_a_start_cancelled_while_it_spawns_leaves_nothing(
    sandbox: Sandbox, place: Place, steps: int
) -> None:
    before = set(descendants(os.getpid()))
    starting = asyncio.create_task(sandbox.run(shell("sleep 1000"), place, limits(), lease_s=LEASE))
    for _ in range(steps):
        await asyncio.wait({starting}, timeout=0.002)

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 10)

    new = [pid for pid in set(descendants(os.getpid())) - before if is_alive(pid)]
    assert new == []
    assert living(place.tag) == []


async def test_a_cancelled_wait_kills_the_tree_before_it_raises(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits())
    waiting = asyncio.create_task(run.wait())
    await asyncio.wait({waiting}, timeout=0.05)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5)

    assert living(place.tag) == []


async def test_the_wall_time_ends_a_tree_that_ignores_terminate(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits(wall_s=1.0))

    result = await run.wait()

    assert (result.cause, result.ended.limit) == (Cause.WALL, Reason.ENGINE_TIMEOUT)
    assert "ran longer than 1 s" in place.log.read_text()
    assert living(place.tag) == []


async def test_a_silent_command_ends_and_one_that_makes_progress_does_not(
    sandbox: Sandbox, place: Place
) -> None:
    silent = await sandbox.run(shell("sleep 60"), place, limits(idle_s=0.4), lease_s=LEASE)
    busy = shell(
        f"for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; echo $i >> {place.out}/done; done",
        progress="done",
    )
    lively = await sandbox.run(busy, place, limits(idle_s=3.0), lease_s=LEASE)

    assert (silent.cause, silent.ended.limit) == (Cause.IDLE, Reason.ENGINE_SILENT)
    assert (lively.cause, lively.ended.exit_code) == (Cause.EXIT, 0)


@pytest.mark.parametrize("stdout", [None, "report"])
async def test_a_flood_of_output_ends_and_is_bounded(
    sandbox: Sandbox, place: Place, stdout: str | None
) -> None:
    result = await sandbox.run(
        shell("exec yes", stdout=stdout), place, limits(file_bytes=2 << 20), lease_s=LEASE
    )

    assert (result.cause, result.ended.limit) == (Cause.OUTPUT, Reason.OUTPUT_LIMIT)
    assert place.log.stat().st_size <= 1 << 20
    if stdout:
        assert (place.out / stdout).stat().st_size <= 2 << 20


async def test_a_flood_from_an_engine_that_ignores_the_refused_write_ends(
    sandbox: Sandbox, place: Place
) -> None:
    code = "import os\nwhile True:\n    try: os.write(1, b'x' * 65536)\n    except OSError: pass\n"
    result = await sandbox.run(python(code), place, limits(file_bytes=2 << 20), lease_s=LEASE)

    assert (result.cause, result.ended.limit) == (Cause.OUTPUT, Reason.OUTPUT_LIMIT)


async def test_filling_the_disk_with_many_files_ends(sandbox: Sandbox, place: Place) -> None:
    code = (
        "import itertools\n"
        f"for i in itertools.count(): open({str(place.out)!r} + f'/{{i}}', 'wb').write(b'x' * 1000000)"
    )
    result = await sandbox.run(python(code), place, limits(file_bytes=2 << 20), lease_s=LEASE)

    assert (result.cause, result.ended.limit) == (Cause.OUTPUT, Reason.OUTPUT_LIMIT)


async def test_memory_used_by_the_whole_tree_is_limited(sandbox: Sandbox, place: Place) -> None:
    code = (
        "import os, select\n"
        "for _ in range(3): os.fork() or None\n"
        "held = bytearray(os.urandom(1 << 20) * 60)\n"
        "select.select([], [], [], 60)\n"
    )
    result = await sandbox.run(python(code), place, limits(memory_bytes=200 << 20), lease_s=LEASE)

    assert (result.cause, result.ended.limit) == (Cause.MEMORY, Reason.OUT_OF_MEMORY)
    assert result.max_rss_bytes > 200 << 20
    assert living(place.tag) == []


async def test_an_allocation_beyond_the_address_space_is_told_as_memory(
    sandbox: Sandbox, place: Place
) -> None:
    result = await sandbox.run(
        python("bytearray(1 << 40)"), place, limits(memory_bytes=200 << 20), lease_s=LEASE
    )

    assert (result.cause, result.ended.limit) == (Cause.MEMORY, Reason.OUT_OF_MEMORY)
    assert result.ended.exit_code == 1


async def test_pages_shared_by_forks_count_once(sandbox: Sandbox, place: Place) -> None:
    code = (
        "import os, select\n"
        "held = bytearray(os.urandom(1 << 20) * 60)\n"
        "for _ in range(3): os.fork()\n"
        "select.select([], [], [], 0.5)\n"
    )
    result = await sandbox.run(python(code), place, limits(memory_bytes=200 << 20), lease_s=LEASE)

    assert (result.cause, result.ended.exit_code) == (Cause.EXIT, 0)


async def test_cpu_time_is_limited(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    # Wall time is generous in the supervisor's eyes: it is the kernel that ends this one.
    real = sandbox_module._spec

    def patient(*args: object, **kwargs: object) -> dict[str, object]:
        return {**real(*args, **kwargs), "wall_s": 60.0}  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(sandbox_module, "_spec", patient)
    result = await sandbox.run(python("while True: pass"), place, limits(wall_s=1.0), lease_s=LEASE)

    assert (result.cause, result.ended.limit) == (Cause.CPU, Reason.ENGINE_TIMEOUT)
    assert 0.5 <= result.cpu_s < 5


async def test_a_fork_bomb_is_ended(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_MAX_PROCESSES", 40)
    bomb = "f() { f & f & wait; }; f"

    result = await sandbox.run(shell(bomb), place, limits(wall_s=20.0), lease_s=LEASE)

    assert (result.cause, result.ended.limit) == (Cause.PROCESSES, Reason.OUT_OF_MEMORY)
    assert living(place.tag) == []


async def test_an_engine_gives_way_to_its_supervisor(sandbox: Sandbox, place: Place) -> None:
    await sandbox.run(python("import os; print(os.nice(0))"), place, limits(), lease_s=LEASE)

    assert int(place.log.read_text()) == min(19, os.nice(0) + 10)


async def test_core_dumps_are_off_and_open_files_are_limited(
    sandbox: Sandbox, place: Place
) -> None:
    code = (
        "import resource as r; print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    await sandbox.run(python(code), place, limits(), lease_s=LEASE)

    open_files = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert place.log.read_text() == f"(0, 0) {open_files}\n"


async def test_the_end_of_the_lease_kills_the_tree(sandbox: Sandbox, place: Place) -> None:
    run = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=0.5)

    result = await asyncio.wait_for(run.wait(), 5)

    assert (result.cause, result.ended.limit) == (Cause.LEASE, None)
    assert living(place.tag) == []


async def test_an_extended_lease_lets_the_command_go_on(sandbox: Sandbox, place: Place) -> None:
    run = await sandbox.start(shell("sleep 1.5; exit 4"), place, limits(), lease_s=1.0)
    run.extend_lease(30.0)
    run.extend_lease(0.1)  # never shortens

    result = await run.wait()

    assert (result.cause, result.ended.exit_code) == (Cause.EXIT, 4)


async def test_orders_after_the_end_are_harmless(sandbox: Sandbox, place: Place) -> None:
    run = await sandbox.start(shell("exit 0"), place, limits(), lease_s=LEASE)
    result = await run.wait()

    run.extend_lease(10)
    run.cancel("graceful")
    run.cancel("abort")

    assert result.ended.exit_code == 0


async def test_a_supervisor_that_is_killed_is_told_and_its_tree_is_swept(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits())

    os.kill(run.pid, signal.SIGKILL)
    result = await asyncio.wait_for(run.wait(), 10)

    assert result.cause is Cause.SUPERVISOR_LOST
    assert living(place.tag) == []


async def test_a_supervisor_that_hangs_is_killed_with_its_tree(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_SUPERVISOR_SLACK_S", 0.5)
    run = await start_stubborn(sandbox, place, limits())
    os.kill(run.pid, signal.SIGSTOP)

    run.cancel("abort")
    result = await asyncio.wait_for(run.wait(), 10)

    assert result.cause is Cause.SUPERVISOR_LOST
    assert living(place.tag) == []


async def test_a_supervisor_that_is_told_to_end_ends_its_tree(
    sandbox: Sandbox, place: Place
) -> None:
    run = await start_stubborn(sandbox, place, limits())

    os.kill(run.pid, signal.SIGTERM)
    result = await asyncio.wait_for(run.wait(), 10)

    assert result.cause is Cause.LEASE
    assert living(place.tag) == []


async def test_both_ways_of_finding_descendants_agree(sandbox: Sandbox, place: Place) -> None:
    run = await start_stubborn(sandbox, place, limits())
    try:
        slow: set[int] = set()

        def agree() -> bool:  # the script starts a `sleep` each second
            slow.clear()
            slow.update(descendants_by_parent(run.pid))
            return set(descendants(run.pid)) == slow

        await until(agree, within_s=5)
        assert set(living(place.tag)) <= slow
        assert len(slow) >= 4
    finally:
        run.cancel("abort")
        await run.wait()


DAEMON_OF_ITS_OWN = """
from __future__ import annotations
import asyncio
from pathlib import Path
from core.domain.states import Isolation
from core.protocol.messages import TaskLimits
from worker.engines.base import Command
from worker.sandbox import Place, Sandbox
from worker.supervisors import Supervisors

async def main() -> None:
    root = Path({root!r})
    place = Place(root / "source", root / "out", root / "log", root / "control", {tag!r})
    limits = TaskLimits(wall_s=300, idle_s=300, output_bytes=1 << 20, file_bytes=1 << 23, memory_bytes=1 << 30)
    command = Command(argv=["/bin/sh", "-c", {script!r}])
    async with Supervisors() as supervisors:
        sandbox = Sandbox(Isolation({level!r}), supervisors)
        run = await sandbox.start(command, place, limits, lease_s={lease})
        waiting = asyncio.create_task(run.wait())
        while not waiting.done():
            run.extend_lease({lease})
            await asyncio.wait({{waiting}}, timeout={lease} / 4)

asyncio.run(main())
"""


def start_daemon(place: Place, level: Isolation, *, lease: float) -> subprocess.Popen[bytes]:
    program = textwrap.dedent(DAEMON_OF_ITS_OWN).format(
        root=str(place.out.parent),
        tag=place.tag,
        script=STUBBORN.format(ready=ready_file(place)),
        level=level.value,
        lease=lease,
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(sandbox_module.__file__).parents[1]
    )


async def test_a_daemon_that_is_killed_leaves_nothing_running(
    place: Place, level: Isolation
) -> None:
    daemon = start_daemon(place, level, lease=60.0)
    try:
        await until(ready_file(place).exists, within_s=20)
        supervisors = [pid for pid in descendants(daemon.pid) if is_alive(pid)]
        assert len(living(place.tag)) >= 4

        daemon.kill()
        await until(lambda: not living(place.tag), within_s=2.0)
        await until(lambda: not any(map(is_alive, supervisors)), within_s=2.0)
    finally:
        daemon.kill()
        daemon.wait()


async def test_a_daemon_that_is_stopped_beyond_its_lease_has_nothing_running(
    place: Place, level: Isolation
) -> None:
    daemon = start_daemon(place, level, lease=1.0)
    try:
        await until(ready_file(place).exists, within_s=20)
        os.kill(daemon.pid, signal.SIGSTOP)

        await until(lambda: not living(place.tag), within_s=3.0)

        os.kill(daemon.pid, signal.SIGCONT)
        assert await asyncio.to_thread(daemon.wait, 10) == 0
    finally:
        daemon.kill()
        daemon.wait()


async def test_a_cancelled_pylint_is_gone_within_a_second(sandbox: Sandbox, place: Place) -> None:
    lines = "\n".join(f"def f{i}(a, b, c):\n    return [a, b, c, {i}]\n" for i in range(3000))
    for number in range(8):
        (place.source / f"module_{number}.py").write_text(lines)
    argv = [sys.executable, "-m", "pylint", f"--rcfile={place.out}/empty.rc", "-j", "2"]
    command = Command(
        argv=[*argv, *(f"module_{number}.py" for number in range(8))],
        inputs={"empty.rc": b""},
        stdout="report",
    )
    run = await sandbox.start(command, place, limits(memory_bytes=4 << 30), lease_s=LEASE)
    # One for the command and two for its workers (and two more of bwrap itself).
    wanted = 3 if sandbox.level is Isolation.GROUP else 5
    await until(lambda: len(living(place.tag)) >= wanted, within_s=30)

    run.cancel("abort")
    await until(lambda: not living(place.tag), within_s=1.0)

    assert (await run.wait()).cause is Cause.CANCELLED
