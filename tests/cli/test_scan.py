"""`kennel scan` and its kin beside a running server."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cli.exits import Exit
from tests.cli.commandline import CommandLine, Running, eventually
from tests.cli.repositories import commit, make_heavy_repository, make_repository


def test_a_scan_says_all_that_came_of_it(served: CommandLine, repository: Path) -> None:
    ended = served("scan", repository)

    assert ended.status == Exit.OK
    assert "result     0 success" in ended.out
    assert "full: nothing to compare with yet" in ended.out
    assert "lines      6 in all: 4 code, 0 comment, 2 blank" in ended.out
    assert "app.py:1: error F401 `os` imported but unused [ruff]" in ended.out
    assert "unused-import" in ended.out
    # Progress, not on a terminal: a line on each change, on standard error.
    assert "pylint: 1 file" in ended.err
    assert "closed" in ended.err


def test_a_second_scan_is_incremental_and_a_third_finds_nothing_to_do(
    served: CommandLine, repository: Path
) -> None:
    first = served("scan", repository, "--engine", "ruff", "--json", "--quiet").json()
    head = commit(repository, {"other.py": "import sys\n"})
    second = served("scan", repository, "--engine", "ruff", "--json", "--quiet").json()
    third = served("scan", repository, "--engine", "ruff", "--json", "--quiet")
    full = served("scan", repository, "--engine", "ruff", "--full", "--json", "--quiet").json()

    assert (first["is_incremental"], first["full_reason"]) == (False, "no_base")
    assert (second["is_incremental"], second["full_reason"]) == (True, None)
    assert (second["revision"], second["base_revision"]) == (head, first["revision"])
    assert {one["path"] for one in second["findings"]["first"]} == {"other.py"}
    assert (third.status, third.json()["result_code"], third.err) == (Exit.OK, 1, "")
    assert (full["is_incremental"], full["full_reason"]) == (False, "requested")
    assert full["project"] == first["project"]


def test_the_document_for_scripts_has_the_documented_fields(
    served: CommandLine, repository: Path
) -> None:
    document = served("scan", repository, "--json", "--findings", "1").json()

    assert set(document) == {
        "server", "project", "job_id", "scan_id", "state", "result_code", "result_code_msg",
        "result_msg", "is_incremental", "full_reason", "revision", "base_revision", "lines",
        "findings", "tasks", "waiting_time", "execute_time",
    }  # fmt: skip
    assert set(document["lines"]) == {"code", "comment", "blank", "total"}
    assert set(document["findings"]) == {"total", "by_engine", "first"}
    assert set(document["findings"]["by_engine"]) == {"lines", "pylint", "ruff"}
    (first,) = document["findings"]["first"]
    assert (first["engine"], first["path"], first["line"]) == ("ruff", "app.py", 1)
    assert {task["task_name"] for task in document["tasks"]} == {"lines", "pylint", "ruff"}


def test_changes_that_are_not_committed_are_not_scanned_and_it_says_so(
    served: CommandLine, repository: Path
) -> None:
    (repository / "app.py").write_text("import os, sys, re\n")

    ended = served("scan", repository, "--engine", "ruff", "--json")

    assert "not committed changes are not scanned" in ended.err
    assert [one["line"] for one in ended.json()["findings"]["first"]].count(1) == 1


def test_a_sub_folder_is_scanned_alone(served: CommandLine, repository: Path) -> None:
    commit(repository, {"inner/b.py": "import sys\n"})

    found = served("scan", repository / "inner", "--engine", "ruff", "--json").json()

    assert {one["path"] for one in found["findings"]["first"]} == {"inner/b.py"}


def test_a_branch_that_does_not_exist_fails_the_job(served: CommandLine, repository: Path) -> None:
    ended = served("scan", repository, "--branch", "nowhere", "--engine", "lines")

    assert ended.status == Exit.FAILED
    assert "112 repository, branch or commit does not exist: " in ended.out
    assert "nowhere" in ended.out


def test_an_engine_nobody_has_is_refused(served: CommandLine, repository: Path) -> None:
    ended = served("scan", repository, "--engine", "no-such-engine")

    assert ended.status == Exit.REFUSED
    assert "no-such-engine" in ended.err


def test_names_that_steer_terminals_come_out_harmless(served: CommandLine, tmp_path: Path) -> None:
    name = "evil\x1b[2J\x07\u202e.py"
    repository = make_repository(tmp_path / "hostile", {name: "import os\n"})

    scanned = served("scan", repository, "--engine", "ruff")
    listed = served("jobs", "list", "--json")
    findings = served("jobs", "findings", listed.json()[0]["id"])

    assert scanned.status == Exit.OK
    assert "evil\\x1b[2J\\x07\\u202e.py:1: error F401" in scanned.out + findings.out
    for ended in (scanned, listed, findings):
        assert not {"\x1b", "\x07", "\u202e"} & set(ended.out + ended.err)


@pytest.mark.parametrize(
    ("settings", "options", "status", "says"),
    [
        ({"KENNEL_SERVER": "https://scans.example.org"}, (), Exit.USAGE, "cannot read folders"),
        ({"KENNEL_TOKEN": "x" * 40}, (), Exit.REFUSED, "unknown"),
        ({}, ("--token", "short"), Exit.CONFIGURATION, "KENNEL_TOKEN"),
        ({}, ("--server", "http://127.0.0.1:9"), Exit.CONFIGURATION, "no token is given"),
        ({}, ("--server", "gopher://x"), Exit.CONFIGURATION, "KENNEL_SERVER"),
    ],
)
def test_a_server_that_cannot_be_used_is_explained(
    served: CommandLine,
    repository: Path,
    settings: dict[str, str],
    options: tuple[str, ...],
    status: Exit,
    says: str,
) -> None:
    if "KENNEL_SERVER" in settings:
        settings = {**settings, "KENNEL_TOKEN": "x" * 40}

    ended = served("scan", repository, *options, settings=settings)

    assert ended.status == status
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_a_named_server_on_this_machine_takes_folders(
    served: CommandLine, repository: Path, tmp_path: Path
) -> None:
    card = served.card()
    elsewhere = CommandLine(tmp_path)
    settings = {"KENNEL_SERVER": card["url"], "KENNEL_TOKEN_FILE": card["token_file"]}

    ended = elsewhere("scan", repository, "--engine", "lines", settings=settings)

    assert ended.status == Exit.OK
    assert not elsewhere.data_dir.exists()


def running_pylint(kennel: CommandLine, scan: Running) -> list[int]:
    """Wait until pylint runs; return its processes."""
    scan.says("pylint: running")
    return eventually(lambda: [pid for pid, said in kennel.processes().items() if "pylint" in said])


def test_ctrl_c_cancels_the_job_and_its_processes(served: CommandLine, tmp_path: Path) -> None:
    heavy = make_heavy_repository(tmp_path / "heavy")
    with served.started("scan", heavy, "--engine", "pylint") as scan:
        pids = running_pylint(served, scan)
        ended = scan.stop(signal.SIGINT, within_s=20)

    assert ended.status == Exit.CANCELLED
    assert "301 cancelled by a user" in ended.out
    eventually(lambda: not set(pids) & set(served.processes()), within_s=5)


def test_an_overdue_job_goes_on_and_can_be_cancelled_and_read(
    served: CommandLine, tmp_path: Path
) -> None:
    heavy = make_heavy_repository(tmp_path / "heavy")

    overdue = served("scan", heavy, "--engine", "pylint", "--timeout", 3)
    job_id = served("jobs", "list", "--state", "0,1", "--json").json()[0]["id"]
    behind = served("scan", heavy, "--engine", "pylint", "--timeout", 1)
    waiting = served("jobs", "show", job_id + 1)
    with served.started("jobs", "logs", str(job_id), "--follow") as logs:
        cancelled = served("jobs", "cancel", job_id, "--remarks", "not needed")
        logs.ended(within_s=20)
    served("jobs", "cancel", job_id + 1)
    again = served("jobs", "cancel", job_id)

    assert (overdue.status, behind.status) == (Exit.TIMEOUT, Exit.TIMEOUT)
    assert f"job {job_id} is not closed after 3 s; it goes on" in overdue.err
    assert f"waits for the project's earlier open jobs: {job_id}" in waiting.out
    assert cancelled.out.startswith(f"job {job_id} is closed with 301: ")
    assert again.out.startswith(f"job {job_id} was closed already with 301: ")
