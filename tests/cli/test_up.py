"""`kennel up`: everything in one go, and nothing of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cli.exits import Exit
from tests.cli.commandline import CommandLine, eventually
from tests.cli.repositories import make_heavy_repository


def files_of(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_up_leaves_no_process_and_no_file_but_its_data(
    kennel: CommandLine, repository: Path
) -> None:
    sockets = set(Path("/tmp").glob("kennel-postgres-*"))
    with kennel.up() as up:
        runtime = Path(kennel.data_dir, "postgres", "runtime").read_text().split()
        processes = kennel.processes()
        scanned = kennel("scan", repository, "--engine", "lines")
        began = time.monotonic()
        ended = up.stop(signal.SIGINT, within_s=20)
        took_s = time.monotonic() - began

    assert scanned.status == Exit.OK
    assert ended.status == Exit.OK
    assert took_s < 10
    assert ended.out.endswith("stopped\n")
    assert up.process.pid in processes
    assert len(processes) > 3, "server, worker, database"
    assert kennel.processes() == {}
    assert not [folder for folder in runtime if Path(folder).exists()]
    assert files_of(kennel.data_dir) == {
        "postgres", "secret.key", "server.lock", "token", "worker-1",
    }  # fmt: skip
    del sockets


def test_up_says_what_runs_and_only_its_owner_can_use_it(kennel: CommandLine) -> None:
    with kennel.up("--workers", "2", "--slots", "3") as up:
        card = kennel.card()
        workers = kennel("workers", "list", "--json").json()
        with urllib.request.urlopen(f"{card['url']}/readyz", timeout=10) as answer:
            readiness = json.load(answer)
        said = up.out
        token = Path(card["token_file"])
        modes = [stat.S_IMODE(file.stat().st_mode) for file in (token, kennel.data_dir)]
        modes.append(stat.S_IMODE((kennel.data_dir / "server.json").stat().st_mode))

    assert (card["pid"], card["kind"]) == (up.process.pid, "up")
    assert all(word in said for word in (card["url"], str(token), "kennel scan", "Ctrl-C"))
    assert [worker["slots"] for worker in workers] == [3, 3]
    assert readiness == {"status": "ready", "reasons": []}
    assert modes == [0o600, 0o700, 0o600]


def test_no_secret_is_in_an_environment_a_command_line_or_what_it_prints(
    kennel: CommandLine,
) -> None:
    secret = "a-bootstrap-token-set-by-hand-0123456789"
    with kennel.up(settings={"KENNEL_BOOTSTRAP_TOKEN": secret}) as up:
        token = (kennel.data_dir / "token").read_text().strip()
        workers = kennel.workers()
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in workers]
        lines = kennel.processes().values()
        by_hand = kennel("jobs", "list", settings={"KENNEL_TOKEN": secret})
        ended = up.stop()

    assert by_hand.status == Exit.OK
    assert workers
    assert not any(secret.encode() in environment for environment in environments)
    for said in (*lines, ended.out, ended.err):
        assert secret not in said
        assert token not in said
        assert "kne_" not in said


def test_a_second_up_names_the_first(kennel: CommandLine) -> None:
    with kennel.up() as first:
        second = kennel("up", "--listen", "127.0.0.1:0")
        still = kennel("workers", "list")

    assert second.status == Exit.USAGE
    assert f"process {first.process.pid} runs a server on {kennel.data_dir}" in second.err
    assert (second.out, second.err.count("\n")) == ("", 1)
    assert still.status == Exit.OK


def test_a_token_of_an_earlier_start_stays_good_and_a_lost_one_is_replaced(
    kennel: CommandLine,
) -> None:
    token = kennel.data_dir / "token"
    with kennel.up():
        first = token.read_text()
    with kennel.up():
        second = token.read_text()
    token.unlink()
    with kennel.up():
        third = token.read_text()
        listed = kennel("tokens", "list")

    assert first == second
    assert third != first
    assert listed.status == Exit.OK


def test_a_killed_worker_is_started_again(kennel: CommandLine, repository: Path) -> None:
    with kennel.up():
        (worker,) = kennel.workers()
        os.kill(worker, signal.SIGKILL)
        (successor,) = eventually(lambda: [pid for pid in kennel.workers() if pid != worker])
        scanned = kennel("scan", repository, "--engine", "lines")

    assert successor != worker
    assert scanned.status == Exit.OK


def test_what_runs_at_a_stop_is_handed_back_and_goes_on_at_the_next_start(
    kennel: CommandLine, tmp_path: Path
) -> None:
    heavy = make_heavy_repository(tmp_path / "heavy")
    with kennel.up() as up:
        scan = kennel("scan", heavy, "--engine", "pylint", "--timeout", "4")
        eventually(lambda: any("pylint" in said for said in kennel.processes().values()))
        began = time.monotonic()
        ended = up.stop(signal.SIGTERM, within_s=20)
        took_s = time.monotonic() - began
        left = kennel.processes()
    with kennel.up():
        (job,) = kennel("jobs", "list", "--json").json()
        restarted = eventually(
            lambda: [
                task
                for task in kennel("jobs", "show", job["id"], "--json").json()["tasks"]
                if task["attempts"] >= 2 or task["state"] == 1
            ]
        )
        cancelled = kennel("jobs", "cancel", job["id"])

    assert scan.status == Exit.TIMEOUT
    assert (ended.status, left) == (Exit.OK, {})
    assert took_s < 10
    assert job["state"] in (0, 1)
    assert restarted[0]["task_name"] == "pylint"
    assert "301" in cancelled.out


def test_a_second_signal_stops_at_once(kennel: CommandLine, tmp_path: Path) -> None:
    heavy = make_heavy_repository(tmp_path / "heavy")
    with kennel.up() as up:
        kennel("scan", heavy, "--engine", "pylint", "--timeout", "4")
        eventually(lambda: any("pylint" in said for said in kennel.processes().values()))
        up.process.send_signal(signal.SIGINT)
        up.says("stopping")
        began = time.monotonic()
        ended = up.stop(signal.SIGINT, within_s=20)
        took_s = time.monotonic() - began

    assert (ended.status, kennel.processes()) == (Exit.OK, {})
    # Less than the time that running tasks are given after a first signal.
    assert took_s < 5


def test_workers_do_not_outlive_a_killed_server(kennel: CommandLine, repository: Path) -> None:
    with kennel.up() as up:
        assert kennel.workers()
        up.stop(signal.SIGKILL)
        eventually(lambda: not kennel.workers(), within_s=20)
        card = kennel.data_dir / "server.json"
        assert card.exists(), "a killed server takes nothing away"
    # The next start stops the database that was left behind, and believes no old card.
    scanned = kennel("scan", repository, "--engine", "lines")

    assert scanned.status == Exit.OK
    assert kennel.processes() == {}


def test_a_stop_during_the_start_leaves_nothing(kennel: CommandLine) -> None:
    with kennel.started("up", "--listen", "127.0.0.1:0") as up:
        up.says("starting on")
        ended = up.stop(signal.SIGTERM, within_s=30)

    assert ended.status == Exit.OK
    assert kennel.processes() == {}


def test_a_port_that_is_taken_is_named(kennel: CommandLine, tmp_path: Path) -> None:
    with kennel.up():
        port = kennel.card()["url"].rpartition(":")[2]
        other = CommandLine(tmp_path / "other")
        other.folder.mkdir()
        ended = other("up", "--listen", f"127.0.0.1:{port}")

    assert ended.status == Exit.CONFIGURATION
    assert f"127.0.0.1:{port}" in ended.err
    assert other.processes() == {}


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "127.0.0.1:-1", "[::1"])
def test_a_wrong_address_is_refused(kennel: CommandLine, listen: str) -> None:
    ended = kennel("up", "--listen", listen)

    assert ended.status == Exit.USAGE
    assert "--listen" in ended.err
    assert not kennel.data_dir.exists()


def test_beyond_loopback_folders_are_refused(kennel: CommandLine, repository: Path) -> None:
    with kennel.started("up", "--listen", "0.0.0.0:0") as up:
        up.says("stop ")
        ended = kennel("scan", repository)

    assert ended.status == Exit.REFUSED
    assert "local repositories are not accepted here" in ended.err
