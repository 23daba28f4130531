"""What `kennel up` is to those beside it: its owner, a second one, a worker that dies."""

from __future__ import annotations

import json
import os
import signal
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.exits import Exit
from tests.cli.commandline import CommandLine, Running, eventually


@pytest.fixture(scope="module")
def kennel(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def up(kennel: CommandLine) -> Iterator[Running]:
    with kennel.up("--workers", "2", "--slots", "3") as running:
        yield running


def test_it_says_what_runs_and_only_its_owner_can_use_it(kennel: CommandLine, up: Running) -> None:
    card = kennel.card()
    workers = kennel("workers", "list", "--json").json()
    with urllib.request.urlopen(f"{card['url']}/readyz", timeout=10) as answer:
        readiness = json.load(answer)
    token = Path(card["token_file"])
    private = (token, kennel.data_dir / "server.json", kennel.data_dir)

    assert (card["pid"], card["kind"]) == (up.process.pid, "up")
    assert all(word in up.out for word in (card["url"], str(token), "kennel scan", "Ctrl-C"))
    assert [worker["slots"] for worker in workers] == [3, 3]
    assert readiness == {"status": "ready", "reasons": []}
    assert [stat.S_IMODE(file.stat().st_mode) for file in private] == [0o600, 0o600, 0o700]


def test_a_second_up_names_the_first(kennel: CommandLine, up: Running) -> None:
    second = kennel("up", "--listen", "127.0.0.1:0")
    still = kennel("workers", "list")

    assert second.status == Exit.USAGE
    assert f"process {up.process.pid} runs a server on {kennel.data_dir}" in second.err
    assert (second.out, second.err.count("\n")) == ("", 1)
    assert still.status == Exit.OK


def test_the_database_in_use_is_good_for_the_doctor(kennel: CommandLine, up: Running) -> None:
    found = kennel("doctor", "--json").json()

    (database,) = (check for check in found["checks"] if check["name"] == "database")
    assert (found["ok"], f"process {up.process.pid}" in database["text"]) == (True, True)


def test_a_port_that_is_taken_is_named(kennel: CommandLine, up: Running, tmp_path: Path) -> None:
    port = kennel.card()["url"].rpartition(":")[2]
    other = CommandLine(tmp_path)

    ended = other("up", "--listen", f"127.0.0.1:{port}")

    assert ended.status == Exit.CONFIGURATION
    assert f"127.0.0.1:{port}" in ended.err
    assert other.processes() == {}


def test_a_worker_the_server_does_not_know_ends_with_its_own_status(
    kennel: CommandLine, up: Running, tmp_path: Path
) -> None:
    ended = kennel("worker", "--server", kennel.card()["url"], "--state-dir", tmp_path / "state")

    assert ended.status == Exit.NOT_ENROLLED
    assert "`kennel tokens create NAME --enrolment` makes one" in ended.err


def test_a_killed_worker_is_started_again(
    kennel: CommandLine, up: Running, repository: Path
) -> None:
    before = set(kennel.workers())
    victim = min(before)
    os.kill(victim, signal.SIGKILL)

    def both_again() -> set[int]:
        now = set(kennel.workers())
        return now if now - before and len(now) == 2 else set()

    after = eventually(both_again)
    scanned = kennel("scan", repository, "--engine", "lines")

    assert victim not in after
    assert scanned.status == Exit.OK
