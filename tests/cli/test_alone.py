"""`kennel scan` where no server runs, and the commands that need only a database."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

from cli.exits import Exit
from tests.cli.commandline import CommandLine
from tests.cli.repositories import commit, make_heavy_repository


def test_a_scan_alone_leaves_nothing_running_and_goes_on_where_the_last_one_ended(
    kennel: CommandLine, repository: Path
) -> None:
    first = kennel("scan", repository, "--engine", "ruff", "--json")
    left = kennel.processes()
    commit(repository, {"b.py": "import sys\n"})
    second = kennel("scan", repository, "--engine", "ruff", "--json")

    assert (first.status, left) == (Exit.OK, {})
    assert "starting a server for this run" in first.err
    assert second.json()["base_revision"] == first.json()["revision"]
    assert not (kennel.data_dir / "server.json").exists()


def test_a_folder_with_packages_named_like_ours_runs_nothing_of_its_own(
    kennel: CommandLine, repository: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    trap = f"open({str(proof)!r}, 'w').close()\n"
    names = ("cli/__init__.py", "cli/__main__.py", "worker/__init__.py", "typer.py", "asyncio.py")
    commit(repository, dict.fromkeys((*names, "sitecustomize.py", "rich/__init__.py"), trap))

    ended = kennel("scan", ".", cwd=repository)

    assert ended.status == Exit.OK
    assert not proof.exists()


def test_two_scans_alone_on_one_data_folder_wait_for_each_other(
    kennel: CommandLine, repository: Path
) -> None:
    with kennel.started("scan", repository, "--engine", "lines") as first:
        first.says("starting a server")
        second = kennel("scan", repository, "--engine", "lines", "--full")
        ended = first.ended()

    assert (ended.status, second.status) == (Exit.OK, Exit.OK)
    assert f"waiting: process {first.process.pid} uses {kennel.data_dir}" in second.err


def test_ctrl_c_and_time_out_of_a_scan_alone_close_its_job(
    kennel: CommandLine, tmp_path: Path
) -> None:
    heavy = make_heavy_repository(tmp_path / "heavy")
    with kennel.started("scan", heavy, "--engine", "pylint") as scan:
        scan.says("pylint: running")
        interrupted = scan.stop(signal.SIGINT, within_s=20)
    left = kennel.processes()
    overdue = kennel("scan", heavy, "--engine", "pylint", "--timeout", "4")
    with kennel.started("scan", heavy, "--engine", "pylint") as scan:
        scan.says("starting a server")
        early = scan.stop(signal.SIGTERM, within_s=30)

    assert (interrupted.status, left) == (Exit.CANCELLED, {})
    assert overdue.status == Exit.TIMEOUT
    assert "it was cancelled, since the server was started for it alone" in overdue.err
    assert early.status == Exit.INTERRUPTED
    assert kennel.processes() == {}
    with kennel.up():
        jobs = kennel("jobs", "list", "--json").json()
    assert {job["result_code"] for job in jobs} == {301}


def test_a_folder_that_cannot_be_scanned_starts_no_server(
    kennel: CommandLine, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()

    ended = kennel("scan", plain)

    assert ended.status == Exit.USAGE
    assert "is not in a git repository" in ended.err
    assert not kennel.data_dir.exists()


def test_the_schema_goes_up_and_down(kennel: CommandLine) -> None:
    before = kennel("db", "current", "--json").json()
    upgraded = kennel("db", "upgrade")
    again = kennel("db", "upgrade")
    refused = kennel("db", "downgrade", "base")
    back = kennel("db", "downgrade", "base", "--yes")
    sql = kennel("db", "upgrade", "--sql")

    assert before["current"] is None
    assert upgraded.out == f"schema none → {before['newest']}\n"
    assert again.out == f"schema {before['newest']}: nothing to do\n"
    assert (refused.status, "--yes" in refused.err) == (Exit.USAGE, True)
    assert back.out == f"schema {before['newest']} → none\n"
    assert "CREATE TABLE" in sql.out
    assert kennel.processes() == {}


def test_a_schema_that_does_not_exist_is_refused_by_its_name(kennel: CommandLine) -> None:
    for command in (("upgrade", "0099"), ("upgrade", "0099", "--sql"), ("downgrade", "x", "--yes")):
        ended = kennel("db", *command)

        assert ended.status == Exit.USAGE
        assert f"there is no schema '{command[1]}': known are 0001" in ended.err


def test_a_named_database_that_does_not_answer_is_no_defect(kennel: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = {"KENNEL_DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{port}/kennel"}

    for command in (("up", "--listen", "127.0.0.1:0"), ("db", "upgrade"), ("db", "current")):
        ended = kennel(*command, settings=settings)

        assert ended.status == Exit.UNREACHABLE
        assert "cannot connect to the database: " in ended.err
        assert "hunter2" not in ended.err


def test_a_database_that_refuses_us_is_no_defect(kennel: CommandLine, database_url: str) -> None:
    missing = urlsplit(database_url)._replace(path="/no-such-database").geturl()

    ended = kennel("db", "current", settings={"KENNEL_DATABASE_URL": missing})

    assert ended.status == Exit.UNREACHABLE
    assert 'database "no-such-database" does not exist' in ended.err


def test_a_first_token_is_written_without_a_server(kennel: CommandLine) -> None:
    without = kennel("tokens", "create", "first", "--role", "admin", "--local")
    kennel("db", "upgrade")
    made = kennel("tokens", "create", "first", "--role", "admin", "--local", "--json").json()
    with kennel.up():
        listed = kennel("tokens", "list", "--json", settings={"KENNEL_TOKEN": made["token"]})

    assert (without.status, "kennel db upgrade" in without.err) == (Exit.CONFIGURATION, True)
    assert "first" in [token["name"] for token in listed.json()]
