"""`kennel up`: everything in one go, and nothing of it afterwards."""

from __future__ import annotations

import signal
import time
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
