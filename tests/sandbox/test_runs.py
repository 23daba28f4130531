"""What a command gets and how its end is told, at each isolation level."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.domain.errors import SettingError
from core.domain.states import Isolation
from tests.sandbox.conftest import limits, python, shell
from worker import bubblewrap
from worker.engines.base import Command
from worker.sandbox import Cause, Place, Sandbox, detect, streamable_bytes
from worker.supervisors import Supervisors

LEASE = 60.0


async def test_a_command_runs_in_the_source_and_its_exit_code_is_passed_on(
    sandbox: Sandbox, place: Place
) -> None:
    code = "import os; print(os.getcwd()); print(open('code.py').read()); raise SystemExit(7)"
    result = await sandbox.run(python(code), place, limits(), lease_s=LEASE)

    assert (result.ended.exit_code, result.ended.signal, result.ended.limit) == (7, None, None)
    assert result.cause is Cause.EXIT
    assert place.log.read_text().splitlines()[:2] == [str(place.source), "print('hello')"]


async def test_a_signal_that_ended_the_command_is_told(sandbox: Sandbox, place: Place) -> None:
    result = await sandbox.run(shell("kill -SEGV $$"), place, limits(), lease_s=LEASE)

    assert (result.ended.exit_code, result.ended.signal) == (None, signal.SIGSEGV)


async def test_the_environment_is_built_from_nothing(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KENNEL_SECRET_KEY", "do-not-leak")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    command = python(code, stdout="env.json", env={"ENGINE_OPTION": "1"})

    await sandbox.run(command, place, limits(), lease_s=LEASE)

    seen = json.loads((place.out / "env.json").read_text())
    assert seen.pop("HOME") == seen.pop("TMPDIR") == str(place.out / ".scratch")
    seen.pop("PWD", None)
    seen.pop("LC_CTYPE", None)
    assert seen == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "ENGINE_OPTION": "1",
        "KENNEL_TASK": place.tag,
    }


async def test_inputs_are_there_and_outputs_come_back(sandbox: Sandbox, place: Place) -> None:
    command = shell(
        f"cat {place.out}/question; echo problem >&2; echo answer > {place.out}/answer",
        inputs={"question": b"why?\n"},
        stdout="report",
    )
    result = await sandbox.run(command, place, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 0
    assert (place.out / "report").read_bytes() == b"why?\n"
    assert (place.out / "answer").read_text() == "answer\n"
    assert place.log.read_bytes() == b"problem\n"


async def test_a_link_planted_by_an_earlier_command_is_not_written_through(
    sandbox: Sandbox, place: Place, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant = f"cd {place.out} && for name in report input progress; do ln -s {victim} $name; done"
    await sandbox.run(shell(plant), place, limits(), lease_s=LEASE)
    command = shell("echo x", inputs={"input": b"y"}, stdout="report", progress="progress")

    result = await sandbox.run(command, place, limits(), lease_s=LEASE)

    assert result.ended.exit_code == 0
    assert victim.read_text() == "precious"
    assert (place.out / "report").read_text() == "x\n"


@pytest.mark.parametrize("plant", ["mkdir -p {0}/x; touch {0}/x/y", "mkfifo {0}", "ln -s / {0}"])
async def test_whatever_stands_in_an_outputs_place_is_replaced(
    sandbox: Sandbox, place: Place, plant: str
) -> None:
    names = ("report", "input", "progress", ".scratch")
    script = "rm -rf .scratch; " + "; ".join(plant.format(name) for name in names)
    await sandbox.run(shell(f"cd {place.out}; {script}"), place, limits(), lease_s=LEASE)
    command = shell("echo x; echo $HOME > $HOME/y", inputs={"input": b"y"}, stdout="report")
    command = replace(command, progress="progress")

    run = await sandbox.start(command, place, limits(), lease_s=LEASE)
    result = await run.wait()

    assert result.ended.exit_code == 0, place.log.read_text()
    assert (place.out / "report").read_text() == "x\n"
    assert (place.out / ".scratch" / "y").is_file()
    assert run.progress() == 0


async def test_a_progress_file_replaced_by_something_else_is_no_progress(
    sandbox: Sandbox, place: Place
) -> None:
    script = f"cd {place.out}; rm done; mkdir done"
    run = await sandbox.start(shell(script, progress="done"), place, limits(), lease_s=LEASE)

    await run.wait()

    assert run.progress() == 0


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "", ".", "..", "a/b", ".scratch"])
async def test_an_output_with_a_path_for_a_name_is_refused(
    sandbox: Sandbox, place: Place, name: str
) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        await sandbox.start(shell("true", stdout=name), place, limits(), lease_s=LEASE)


async def test_a_command_that_does_not_exist_ends_with_127_or_1_and_a_line_in_the_log(
    sandbox: Sandbox, place: Place
) -> None:
    result = await sandbox.run(
        Command(argv=["/nonexistent/engine"]), place, limits(), lease_s=LEASE
    )

    assert result.ended.exit_code in {1, 127}
    assert "/nonexistent/engine" in place.log.read_text()


async def test_progress_counts_the_lines_written_so_far(sandbox: Sandbox, place: Place) -> None:
    script = f"printf 'a\\nb\\n' > {place.out}/done; printf 'c\\npartial' >> {place.out}/done"
    run = await sandbox.start(shell(script, progress="done"), place, limits(), lease_s=LEASE)

    await run.wait()

    assert run.progress() == 3


async def test_standard_input_is_empty_and_no_descriptor_leaks(
    sandbox: Sandbox, place: Place
) -> None:
    code = (
        "import os, sys\n"
        "assert sys.stdin.read() == ''\n"
        "def is_open(fd):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print([fd for fd in range(256) if is_open(fd)])"
    )
    leak = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        await sandbox.run(python(code), place, limits(), lease_s=LEASE)
    finally:
        os.close(leak)

    assert place.log.read_text() == "[0, 1, 2]\n"


async def test_a_long_log_keeps_its_head_and_its_tail(sandbox: Sandbox, place: Place) -> None:
    bounded = limits(output_bytes=40_000)
    code = "print('first'); print(('x' * 99 + chr(10)) * 1500); print('last words')"

    await sandbox.run(python(code), place, bounded, lease_s=LEASE)

    log = place.log.read_text()
    assert len(log) <= 40_000
    assert log.startswith("first\n")
    assert "bytes of the log left out here" in log
    assert log.endswith("last words\n")
    assert streamable_bytes(place.log, bounded) == 30_000


async def test_the_streamed_head_of_a_log_survives_further_commands(
    sandbox: Sandbox, place: Place
) -> None:
    bounded = limits(output_bytes=40_000)
    flood = "print(({!r} * 99 + chr(10)) * 1500)"
    await sandbox.run(python(flood.format("x")), place, bounded, lease_s=LEASE)
    head = place.log.read_bytes()[: streamable_bytes(place.log, bounded)]

    await sandbox.run(python(flood.format("y")), place, bounded, lease_s=LEASE)

    assert place.log.read_bytes()[: len(head)] == head
    assert place.log.stat().st_size <= 40_000


async def test_pylint_and_ruff_of_this_environment_run(sandbox: Sandbox, place: Place) -> None:
    (place.source / "code.py").write_text("import os\n")
    empty = {"empty.rc": b""}
    pylint = Command(
        argv=[
            sys.executable,
            "-m",
            "pylint",
            f"--rcfile={place.out}/empty.rc",
            "-f",
            "json",
            "-j",
            "2",
            "code.py",
            "--disable=all",
            "--enable=unused-import",
        ],
        inputs=empty,
        stdout="pylint.json",
    )
    ruff = Command(
        argv=[
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--no-cache",
            "--output-format=json",
            "code.py",
        ],
        stdout="ruff.json",
    )

    ended = [await sandbox.run(each, place, limits(), lease_s=LEASE) for each in (pylint, ruff)]

    assert [result.ended.exit_code for result in ended] == [4, 1], place.log.read_text()
    found = json.loads((place.out / "pylint.json").read_text())
    assert [finding["symbol"] for finding in found] == ["unused-import"]
    assert [f["code"] for f in json.loads((place.out / "ruff.json").read_text())] == ["F401"]


needs_bwrap = pytest.mark.skipif(
    bool(bubblewrap.bubblewrap_problem()), reason=bubblewrap.bubblewrap_problem()
)


@needs_bwrap
async def test_bwrap_shows_neither_host_nor_network_and_writes_only_to_out(
    supervisors: Supervisors, place: Place, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    code = f"""
import os, socket, subprocess
def tries(name, action):
    try: action()
    except OSError as error: print(name, "refused")
    else: print(name, "ALLOWED")
tries("secret", lambda: open({str(secret)!r}))
tries("shadow", lambda: open("/etc/shadow"))
tries("control", lambda: os.listdir({str(place.control)!r}))
tries("write", lambda: open("code.py", "w"))
tries("usr", lambda: open("/usr/x", "w"))
tries("network", lambda: socket.create_connection(("1.1.1.1", 53), 2))
def unshare():
    if subprocess.run(["/usr/bin/unshare", "--user", "true"], stderr=subprocess.DEVNULL).returncode:
        raise OSError
tries("namespaces", unshare)
tries("out", lambda: open({str(place.out / "fine")!r}, "w"))
tries("tmp", lambda: open("/tmp/fine", "w"))
"""
    await Sandbox(Isolation.BWRAP, supervisors).run(python(code), place, limits(), lease_s=LEASE)

    said = dict(line.split() for line in place.log.read_text().splitlines())
    allowed = {name for name, verdict in said.items() if verdict == "ALLOWED"}
    assert allowed == {"out", "tmp"}
    assert len(said) == 9


@needs_bwrap
async def test_bwrap_keeps_paths_that_lead_through_links(
    supervisors: Supervisors, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(tmp_path, target_is_directory=True)
    linked = Place(
        source=tmp_path / "alias" / "source",
        out=tmp_path / "alias" / "out",
        log=place.log,
        control=place.control,
        tag=place.tag,
    )
    script = f"cat {linked.source}/code.py > {linked.out}/copy"

    result = await Sandbox(Isolation.BWRAP, supervisors).run(
        shell(script), linked, limits(), lease_s=LEASE
    )

    assert result.ended.exit_code == 0, place.log.read_text()
    assert (place.out / "copy").read_text() == "print('hello')\n"


@needs_bwrap
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_bwrap_works_for_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without this interpreter, which may lie in a folder of root's.
    monkeypatch.setattr(bubblewrap, "interpreter_paths", list)
    nobody = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = bubblewrap.wrap(
        ["/usr/bin/id", "-u"], env={}, source=Path("/usr"), out=Path("/var/tmp"), readable=()
    )

    done = subprocess.run([*nobody, *command], capture_output=True, check=False, timeout=20)

    assert (done.returncode, done.stdout) == (0, b"65534\n"), done.stderr


def test_detection_answers_what_works_and_refuses_what_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert detect("group") is Isolation.GROUP
    monkeypatch.setattr(bubblewrap, "_PROGRAM", "bwrap-that-is-not-installed")
    assert detect("auto") is Isolation.GROUP
    with pytest.raises(SettingError, match="install the package bubblewrap"):
        detect("bwrap")
