"""The commands that list, show and change, beside a running server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.exits import Exit
from tests.cli.commandline import KENNEL, CommandLine
from tests.cli.conftest import FILES
from tests.cli.repositories import make_repository


@pytest.fixture(scope="module")
def scanned(served: CommandLine) -> dict[str, Any]:
    """A repository that was scanned, as `kennel scan --json` says it."""
    repository = make_repository(served.folder / "repository", FILES)
    found: dict[str, Any] = served("scan", repository, "--json").json()
    return {**found, "url": str(repository)}


def test_jobs_are_listed_with_every_filter_of_the_api(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    keep = (
        ("--state", "2"),
        ("--since", "2020-01-01", "--until", "2999-01-01"),
        ("--code-from", "0", "--code-to", "99"),
        ("--message", "SUCC"),
        ("--created-from", "cl"),
        ("--creator", "r"),
        ("--project", scanned["project"]),
        ("--project", scanned["project"].rpartition("/")[2]),
    )
    drop = (("--state", "0"), ("--code-from", "100"), ("--message", "%"), ("--until", "2020-01-01"))

    for options in keep:
        listed = served("jobs", "list", *options, "--json").json()
        assert scanned["job_id"] in [job["id"] for job in listed], options
    for options in drop:
        assert served("jobs", "list", *options, "--json").json() == [], options


def test_off_a_terminal_a_list_is_tabs_and_lines(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    ended = served("jobs", "list", "--limit", "1")

    (line,) = ended.out.splitlines()
    assert line.split("\t")[:4] == [str(scanned["job_id"]), scanned["project"], "closed", "0"]


def test_junk_in_a_filter_is_refused_with_its_field(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    ended = served("jobs", "list", "--since", "yesterday")

    assert ended.status == Exit.REFUSED
    assert "create_time_gte" in ended.err


def test_a_job_is_shown_with_its_findings(served: CommandLine, scanned: dict[str, Any]) -> None:
    job_id = scanned["job_id"]
    shown = served("jobs", "show", job_id)
    detail = served("jobs", "show", job_id, "--json").json()
    followed = served("jobs", "show", job_id, "--follow")
    findings = served("jobs", "findings", job_id, "--severity", "error", "--json").json()
    gone = served("jobs", "show", job_id + 1000)

    assert "app.py:1: error F401" in shown.out
    assert (detail["id"], detail["result_code"]) == (job_id, 0)
    assert followed.out == shown.out
    assert findings
    assert {one["severity"] for one in findings} == {"error"}
    assert (gone.status, gone.err) == (Exit.REFUSED, f"kennel: there is no job {job_id + 1000}\n")


def test_the_logs_of_a_job_are_printed(served: CommandLine, scanned: dict[str, Any]) -> None:
    ended = served("jobs", "logs", scanned["job_id"])
    other = served("jobs", "logs", scanned["job_id"], "--task", "nope")

    assert ended.status == Exit.OK
    assert other.status == Exit.REFUSED


def test_a_worker_is_paused_resumed_and_told_by_name(served: CommandLine) -> None:
    (worker,) = served("workers", "list", "--json").json()
    paused = served("workers", "pause", worker["name"])
    (while_paused,) = served("workers", "list", "--json").json()
    served("workers", "resume", worker["id"])
    (after,) = served("workers", "list", "--json").json()
    nobody = served("workers", "drain", "nobody")

    assert paused.status == Exit.OK
    assert {engine["name"] for engine in worker["engines"]} == {"lines", "pylint", "ruff"}
    assert (while_paused["state"], after["state"]) == ("paused", "live")
    assert (nobody.status, nobody.err) == (Exit.REFUSED, "kennel: there is no worker nobody\n")


def test_a_token_opens_what_its_role_allows_until_it_is_revoked(served: CommandLine) -> None:
    made = served("tokens", "create", "reader", "--role", "viewer", "--json").json()
    token = {"KENNEL_TOKEN": made["token"]}

    reads = served("jobs", "list", settings=token)
    makes = served("tokens", "create", "more", settings=token)
    listed = served("tokens", "list", "--json").json()
    served("tokens", "revoke", made["id"])
    revoked = served("jobs", "list", settings=token)
    left = served("tokens", "list", "--json").json()

    assert (reads.status, makes.status, revoked.status) == (Exit.OK, Exit.REFUSED, Exit.REFUSED)
    assert "role" in makes.err
    assert made["id"] in [one["id"] for one in listed]
    assert made["id"] not in [one["id"] for one in left]
    assert made["token"] not in str(listed)


def test_an_enrolment_token_is_printed_alone_on_standard_output(served: CommandLine) -> None:
    ended = served("tokens", "create", "rack-7", "--enrolment", "--days", "1")

    assert ended.out.startswith("kne_")
    assert ended.out.count("\n") == 1


def test_a_project_is_made_by_hand_closed_and_reopened(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    make = ("projects", "create", scanned["url"], "--org", "acme", "--team", "web")
    made = served(*make, "--engine", "lines", "--json").json()
    again = served(*make, "--engine", "lines", "--json").json()
    place = made["project"]
    scan = ("scan", scanned["url"], "--org", "acme", "--team", "web", "--engine", "lines")

    served("projects", "close", place)
    closed = served(*scan)
    shown = served("projects", "show", place).out
    served("projects", "reopen", place)
    reopened = served(*scan)

    assert again["project"] == place
    assert place.startswith("acme/web/")
    assert (closed.status, reopened.status) == (Exit.REFUSED, Exit.OK)
    assert "status   closed" in shown
    listed = served("projects", "list", "--org", "acme", "--json").json()
    assert [one["project"] for one in listed] == [place]


def test_the_rest_of_the_registry_is_listed(served: CommandLine, scanned: dict[str, Any]) -> None:
    repo_id = int(scanned["project"].split("/")[2])
    orgs = served("orgs", "list", "--json").json()
    repos = served("repos", "list", "--org", "local", "--json").json()
    schemes = served("schemes", "list", repo_id, "--json").json()
    made = served("orgs", "create", "other", "--name", "Other", "--team", "one", "--team", "two")

    assert "local" in [one["org_sid"] for one in orgs]
    assert [one["scm_url"] for one in repos if one["id"] == repo_id] == [scanned["url"]]
    assert [one["default_flag"] for one in schemes] == [True]
    assert made.status == Exit.OK
    assert "one" in served("orgs", "list").out


def test_credentials_are_given_by_standard_input_and_never_shown(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    made = served("projects", "create", "https://git.example.org/a.git", "--json").json()
    repo_id = made["repo"]["id"]
    give = ("repos", "credentials", repo_id, "--username", "bot")

    nothing = served(*give)
    given = served(*give, "--password-stdin", stdin="s3cret-words\n")
    listed = served("repos", "list", "--json").out

    assert nothing.status == Exit.USAGE
    assert given.status == Exit.OK
    assert "s3cret-words" not in listed + given.out + given.err


def test_the_database_of_a_running_server_is_left_alone(served: CommandLine) -> None:
    ended = served("db", "upgrade")

    assert ended.status == Exit.USAGE
    assert f"process {served.card()['pid']}" in ended.err


def test_a_reader_that_stops_early_is_no_error(
    served: CommandLine, scanned: dict[str, Any]
) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{KENNEL} jobs show {scanned['job_id']} | head -n 1; exit ${{PIPESTATUS[0]}}",
        ],
        env=served.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"job {scanned['job_id']}")


def test_two_scans_of_one_folder_share_one_project(
    served: CommandLine, scanned: dict[str, Any], tmp_path: Path
) -> None:
    first = served("scan", scanned["url"], "--engine", "lines", "--engine", "ruff", "--json")
    second = served("scan", scanned["url"], "--engine", "ruff", "--engine", "lines", "--json")

    assert first.json()["project"] == second.json()["project"]
    assert first.json()["project"] != scanned["project"]
