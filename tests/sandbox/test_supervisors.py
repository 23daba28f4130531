"""Supervisors are forked by one server, which may go at any time and leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.domain.states import Isolation
from tests.sandbox.conftest import limits, living, python, shell, until
from worker import supervisors as supervisors_module
from worker.sandbox import Cause, Place, Sandbox
from worker.supervisor import children_of, descendants, is_alive, parent_of
from worker.supervisors import Supervisors

ROOT = Path(__file__).parents[2]
LEASE = 60.0

#: Which files it holds open, seen without /proc, which a sandbox need not have.
HOLDS = """
import os, signal
held = []
for number in range(1024):
    try:
        os.fstat(number)
    except OSError:
        continue
    held.append(number)
"""


def server_of(supervisors: Supervisors) -> int:
    pid = supervisors.server_pid
    assert pid is not None
    return pid


def another(place: Place, name: str) -> Place:
    """A place of another attempt beside *place*, which shares its tag."""
    for kind in ("out", "control"):
        place.out.with_name(f"{name}-{kind}").mkdir()
    return Place(
        source=place.source,
        out=place.out.with_name(f"{name}-out"),
        log=place.log.with_name(f"{name}-log"),
        control=place.control.with_name(f"{name}-control"),
        tag=place.tag,
    )


def open_files(pid: int, *numbers: int) -> list[str]:
    """What a process has open, all of it or by number."""
    folder = Path(f"/proc/{pid}/fd")
    entries = [folder / str(number) for number in numbers] or list(folder.iterdir())
    return [str(entry.readlink()) for entry in entries]


async def test_supervisors_are_forked_by_one_server_and_know_their_own_tree_only(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    places = [place, another(place, "second")]
    runs = [
        await sandbox.start(shell("sleep 1000"), each, limits(), lease_s=LEASE) for each in places
    ]
    await until(lambda: all(descendants(run.pid) for run in runs), within_s=10)

    trees = [{run.pid, *descendants(run.pid)} for run in runs]
    assert {parent_of(run.pid) for run in runs} == {server_of(supervisors)}
    assert [os.getsid(run.pid) for run in runs] == [run.pid for run in runs]
    assert not trees[0] & trees[1]

    runs[0].cancel("abort")
    assert (await runs[0].wait()).cause is Cause.CANCELLED
    assert all(map(is_alive, trees[1]))
    runs[1].cancel("abort")
    assert (await runs[1].wait()).cause is Cause.CANCELLED


async def test_a_run_begins_with_a_fresh_process_s_environment_and_folder(
    sandbox: Sandbox, place: Place
) -> None:
    run = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    try:
        environment = Path(f"/proc/{run.pid}/environ").read_bytes()
        assert {word.partition(b"=")[0] for word in environment.split(b"\0") if word} <= {
            b"PATH",
            b"LANG",
        }
        assert Path(f"/proc/{run.pid}/cwd").readlink() == Path("/")
        await until(
            lambda: Path(f"/proc/{run.pid}/comm").read_text() == "supervisor\n", within_s=10
        )
    finally:
        run.cancel("abort")
        await run.wait()


async def test_no_open_file_of_the_server_or_of_another_run_is_passed_on(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    first = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    second = await sandbox.start(
        python(HOLDS + "print(held, flush=True)\nsignal.pause()"),
        (second_place := another(place, "second")),
        limits(),
        lease_s=LEASE,
    )
    await until(
        lambda: second_place.log.exists() and "]" in second_place.log.read_text(), within_s=10
    )

    pipes = [open_files(run.pid, 0)[0] for run in (first, second)]
    held = open_files(second.pid)
    assert pipes[1] in held
    assert pipes[0] not in held
    assert not [file for file in held if "socket" in file or "pidfd" in file]
    assert not [file for file in open_files(server_of(supervisors)) if file in pipes]
    assert second_place.log.read_text() == "[0, 1, 2]\n"

    for run in (first, second):
        run.cancel("abort")
        await run.wait()


async def test_a_server_that_is_killed_is_replaced_and_what_runs_goes_on(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    gate = place.out / "gate"
    script = f"until [ -e {gate} ]; do sleep 0.05; done; exit 5"
    finishing = await sandbox.start(shell(script), place, limits(), lease_s=LEASE)
    endless_place = another(place, "endless")
    endless = await sandbox.start(shell("sleep 1000"), endless_place, limits(), lease_s=LEASE)
    first = server_of(supervisors)

    os.kill(first, signal.SIGKILL)
    await until(lambda: not is_alive(first), within_s=5)
    after = await sandbox.run(shell("exit 4"), another(place, "after"), limits(), lease_s=LEASE)
    gate.touch()
    finished = await finishing.wait()
    endless.cancel("abort")
    ended = await endless.wait()

    assert server_of(supervisors) != first
    assert (after.cause, after.ended.exit_code) == (Cause.EXIT, 4)
    assert (finished.cause, finished.ended.exit_code) == (Cause.EXIT, 5)
    assert ended.cause is Cause.CANCELLED
    assert living(place.tag) == []


async def test_a_supervisor_that_is_killed_after_its_server_is_told_and_swept(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    run = await sandbox.start(shell("sleep 1000"), place, limits(), lease_s=LEASE)
    await until(lambda: bool(living(place.tag)), within_s=10)

    os.kill(server_of(supervisors), signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)
    result = await asyncio.wait_for(run.wait(), 10)

    assert result.cause is Cause.SUPERVISOR_LOST
    assert living(place.tag) == []


async def test_a_server_that_goes_away_under_a_request_is_replaced(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    first = server_of(supervisors)
    os.kill(first, signal.SIGSTOP)
    running = asyncio.create_task(sandbox.run(shell("exit 6"), place, limits(), lease_s=LEASE))
    await until((place.control / "spec.json").exists, within_s=5)

    os.kill(first, signal.SIGKILL)
    result = await asyncio.wait_for(running, 20)

    assert result.ended.exit_code == 6
    assert server_of(supervisors) != first


async def test_a_server_that_is_stuck_is_killed_and_replaced(
    sandbox: Sandbox,
    supervisors: Supervisors,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await sandbox.run(shell("exit 0"), place, limits(), lease_s=LEASE)
    monkeypatch.setattr(supervisors_module, "_ANSWER_S", 1.0)
    first = server_of(supervisors)
    os.kill(first, signal.SIGSTOP)

    result = await sandbox.run(shell("exit 7"), place, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 7
    assert not is_alive(first)


async def test_a_host_without_room_is_told_and_met_again_later(
    supervisors: Supervisors, place: Place, level: Isolation
) -> None:
    sandbox = Sandbox(level, supervisors)
    await sandbox.run(shell("exit 0"), place, limits(), lease_s=LEASE)
    server = server_of(supervisors)
    soft, hard = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (3, hard))

    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        await sandbox.start(shell("exit 0"), place, limits(), lease_s=LEASE)

    resource.prlimit(server, resource.RLIMIT_NOFILE, (soft, hard))
    result = await sandbox.run(shell("exit 3"), place, limits(), lease_s=LEASE)
    assert result.ended.exit_code == 3
    assert server_of(supervisors) == server


async def test_the_server_leaves_no_zombie(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    for _ in range(3):
        await sandbox.run(shell("exit 0"), place, limits(), lease_s=LEASE)

    await until(lambda: children_of(server_of(supervisors)) == [], within_s=5)


async def test_nothing_begins_under_a_lease_that_has_ended(sandbox: Sandbox, place: Place) -> None:
    result = await sandbox.run(shell("sleep 60"), place, limits(), lease_s=0.0)

    assert result.cause is Cause.LEASE
    assert living(place.tag) == []


async def test_a_start_that_is_cancelled_leaves_no_supervisor(supervisors: Supervisors) -> None:
    server = server_of(supervisors)
    os.kill(server, signal.SIGSTOP)
    starting = asyncio.create_task(supervisors.start())
    await asyncio.wait({starting}, timeout=0.05)

    starting.cancel()
    os.kill(server, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 10)

    await until(lambda: children_of(server) == [], within_s=5)


async def test_the_answer_to_a_start_cancelled_twice_is_not_taken_for_the_next_one_s(
    sandbox: Sandbox, supervisors: Supervisors, place: Place
) -> None:
    server = server_of(supervisors)
    os.kill(server, signal.SIGSTOP)
    starting = asyncio.create_task(supervisors.start())
    for _ in range(2):
        await asyncio.wait({starting}, timeout=0.05)
        starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 10)
    if is_alive(server):
        os.kill(server, signal.SIGCONT)

    result = await sandbox.run(shell("exit 8"), place, limits(), lease_s=LEASE)

    assert (result.cause, result.ended.exit_code) == (Cause.EXIT, 8)


async def test_no_server_and_no_waiting_supervisor_outlive_their_owner() -> None:
    async with Supervisors() as supervisors:
        waiting = await supervisors.start()
        pids = [server_of(supervisors), waiting.pid]
        assert all(map(is_alive, pids))
        await waiting.dismiss()

    assert not any(map(is_alive, pids))
    assert supervisors.server_pid is None


async def test_a_server_that_cannot_start_is_told_by_the_attempt(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    async with Supervisors() as supervisors:
        assert supervisors.server_pid is None
        with pytest.raises(OSError, match="nonexistent"):
            await supervisors.start()

        monkeypatch.undo()
        sandbox = Sandbox(Isolation.GROUP, supervisors)
        result = await sandbox.run(python("exit(2)"), place, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 2


async def test_a_server_and_what_waits_end_with_a_daemon_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from worker.supervisors import Supervisors\n"
        "async def main():\n"
        "    async with Supervisors() as supervisors:\n"
        "        waiting = await supervisors.start()\n"
        "        print(supervisors.server_pid, waiting.pid, flush=True)\n"
        "        await waiting.wait()\n"
        "asyncio.run(main())\n"
    )
    daemon = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        line = b""
        while not line.split() or not line.split()[0].isdigit():  # its log goes there as well
            line = await asyncio.to_thread(daemon.stdout.readline)
            assert line, "it ended before it had a supervisor"
        pids = [int(word) for word in line.split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
    finally:
        daemon.kill()
        daemon.communicate()

    await until(lambda: not any(map(is_alive, pids)), within_s=5)
