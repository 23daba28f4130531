"""The services in a real systemd: one scan, killed, back again, another scan, drained and ended."""

from __future__ import annotations

import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.systemd.installation import DATABASE_URL
from tests.systemd.lab import Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

API, SCHEDULER, WORKER = "kennel-api", "kennel-scheduler", "kennel-worker@1"
SERVICES = (API, SCHEDULER, WORKER)

CREDENTIALS = "/etc/kennel/credentials"
ORGS = "/server/main/api/orgs"
REPOS = f"{ORGS}/acme/teams/web/repos"

_READY_S = 60.0
_SCAN_S = 90.0

#: A repository with something for each engine, owned by root and read by both users.
_REPOSITORY = """
set -eu
export HOME=/root GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
umask 022
git init --quiet --initial-branch=main /srv/code
cd /srv/code
for number in 1 2 3; do
    printf 'import os\\n\\n\\ndef f_%s(x):\\n    # a comment\\n    return x\\n' $number >file_$number.py
done
git add --all
git commit --quiet --message=first

git init --quiet --initial-branch=main /srv/large
cd /srv/large
for number in $(seq 2500); do
    printf 'def f_%s(x):\n    return [y for y in x if y > %s]\n\n\n' $number $number
done >large.py
git add --all
git commit --quiet --message=first
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """The API as a client with one token sees it."""

    url: str
    token: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Token {self.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            raise AssertionError(f"{method} {path}: {error.code} {text}") from None


@dataclass(frozen=True, slots=True)
class Installation:
    """The services, started once for all tests here, and what a test needs of them."""

    lab: Lab
    server: Server
    secrets: tuple[str, ...]
    #: Paths of the projects that are scanned: one in no time, one in seconds.
    small: str
    large: str

    def start_scan(self, project: str) -> Callable[[], dict[str, Any]]:
        """Start a full scan; return what asks for its job in detail."""
        body = {"incr_scan": False, "force_create": True}
        created = self.server.call("POST", f"{project}/scans/create/", body)
        path = f"{project}/jobs/{created['job']['id']}/detail/"

        def detail() -> dict[str, Any]:
            job: dict[str, Any] = self.server.call("GET", path)["data"]
            return job

        return detail

    def scan(self) -> dict[str, Any]:
        """Run a full scan to its end and return the job in detail."""
        detail = self.start_scan(self.small)
        until(lambda: detail()["state"] == 2, _SCAN_S, "the job closed")
        return detail()


@pytest.fixture(scope="module")
def kennel(lab: Lab) -> Iterator[Installation]:
    port, bootstrap = free_port(), secrets.token_urlsafe(32)
    sealing = secrets.token_urlsafe(32)
    settings = f"KENNEL_API__PORT={port}\nKENNEL_ALLOW_LOCAL_REPOS=true\n"
    lab.write("/etc/kennel/kennel.env", settings, mode=0o644)
    worker = f"KENNEL_WORKER__SERVER_URL=http://127.0.0.1:{port}\nKENNEL_WORKER__SLOTS=4\n"
    worker += "KENNEL_ALLOW_LOCAL_REPOS=true\n"
    lab.write("/etc/kennel/worker.env", worker, mode=0o644)
    lab.write(f"{CREDENTIALS}/server/database_url", f"{DATABASE_URL}\n")
    lab.write(f"{CREDENTIALS}/server/secret_key", f"{sealing}\n")
    lab.write(f"{CREDENTIALS}/server/bootstrap_token", f"{bootstrap}\n")
    lab.run("sh", "-c", _REPOSITORY)

    lab.start("postgresql")
    lab.start("kennel-migrate")
    lab.start(API, SCHEDULER)
    server = Server(f"http://127.0.0.1:{port}", bootstrap)
    made = lab.run(
        *("env", f"KENNEL_SERVER={server.url}"),
        f"KENNEL_TOKEN_FILE={CREDENTIALS}/server/bootstrap_token",
        *("/opt/kennel/bin/kennel", "tokens", "create", "--enrolment", "lab"),
    )
    enrolment = made.stdout.strip()
    lab.write(f"{CREDENTIALS}/worker/enrolment_token", made.stdout)
    lab.start(WORKER)
    set_up_team(server)
    small, large = register(server, "/srv/code"), register(server, "/srv/large")
    yield Installation(lab, server, (bootstrap, sealing, enrolment), small, large)
    lab.run("systemctl", "stop", *SERVICES, "postgresql", check=False)


def set_up_team(server: Server) -> None:
    server.call("POST", f"{ORGS}/", {"org_sid": "acme"})
    server.call("POST", f"{ORGS}/acme/teams/", {"name": "web"})


def register(server: Server, folder: str) -> str:
    body = {"scm_url": f"file://{folder}", "scm_type": "git"}
    repo = server.call("POST", f"{REPOS}/", body)
    projects = f"{REPOS}/{repo['data']['id']}/projects"
    project = server.call("POST", f"{projects}/", {"branch": "main"})
    return f"{projects}/{project['data']['id']}"


def test_each_service_is_ready_and_says_what_it_does(kennel: Installation) -> None:
    for unit in SERVICES:
        found = kennel.lab.show(unit, "ActiveState", "SubState", "StatusText", "NRestarts", "User")

        assert (found["ActiveState"], found["SubState"]) == ("active", "running")
        assert found["NRestarts"] == "0"
        assert found["StatusText"]


def test_a_scan_runs_from_the_request_to_the_counted_lines(kennel: Installation) -> None:
    job = kennel.scan()

    assert (job["result_code"], job["result_msg"]) == (0, "success")
    assert job["task_num"] == job["task_done"] >= 1
    assert job["total_line_num"] == 18
    assert job["comment_line_num"] == 3


def test_the_worker_contains_engines_by_bubblewrap_under_its_unit(kennel: Installation) -> None:
    if kennel.lab.run("sh", "-c", "command -v bwrap", check=False).returncode != 0:
        pytest.skip("bubblewrap is not installed")

    workers = kennel.server.call("GET", "/api/v1/workers/")["data"]["results"]

    assert [worker["isolation"] for worker in workers] == ["bwrap"]


def test_no_credential_is_read_by_a_service_it_is_not_for(kennel: Installation) -> None:
    lab = kennel.lab
    pid = lab.show(WORKER, "MainPID")["MainPID"]
    handed = lab.run("sh", "-c", f"cd /proc/{pid}/root && ls run/credentials/*").stdout.split()
    environment = lab.run("cat", f"/proc/{pid}/environ").stdout

    assert "kennel_enrolment_token" in handed
    assert not [name for name in handed if "database" in name or "secret" in name]
    assert not any(secret in environment for secret in kennel.secrets)
    assert "KENNEL_DATABASE_URL" not in environment


def test_a_stopped_worker_finishes_what_it_has_and_comes_back_without_a_token(
    kennel: Installation,
) -> None:
    lab = kennel.lab
    detail = kennel.start_scan(kennel.large)

    def is_pylint_at_work() -> bool:
        states = {task["task_name"]: task["state"] for task in detail()["tasks"]}
        return bool(states) and min(states.values()) >= 1 and states["pylint"] == 1

    until(is_pylint_at_work, _SCAN_S, "pylint ran and no task waited")
    lab.stop(WORKER)

    assert lab.show(WORKER, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    # Nobody else is there who could have finished it.
    until(lambda: detail()["state"] == 2, _SCAN_S, "the job closed")
    assert detail()["result_code"] == 0

    lab.run("rm", f"{CREDENTIALS}/worker/enrolment_token")
    lab.start(WORKER)
    assert kennel.scan()["result_code"] == 0


@pytest.mark.parametrize("unit", SERVICES)
def test_a_killed_service_comes_back_and_works(kennel: Installation, unit: str) -> None:
    before = kennel.lab.show(unit, "MainPID", "NRestarts")

    kennel.lab.kill_main(unit)

    def is_back() -> bool:
        now = kennel.lab.show(unit, "MainPID", "NRestarts", "ActiveState")
        return now["ActiveState"] == "active" and now["NRestarts"] != before["NRestarts"]

    until(is_back, _READY_S, f"{unit} came back\n{kennel.lab.journal(unit)[-3000:]}")
    after = kennel.lab.show(unit, "MainPID", "NRestarts")
    assert after["MainPID"] != before["MainPID"]
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    assert kennel.scan()["result_code"] == 0


def test_a_setting_that_cannot_work_is_named_and_not_tried_again(kennel: Installation) -> None:
    lab = kennel.lab
    lab.write("/etc/kennel/worker-2.env", "KENNEL_WORKER__SLOTS=many\n", mode=0o644)

    lab.run("systemctl", "start", "kennel-worker@2", check=False)

    def has_failed() -> bool:
        return lab.show("kennel-worker@2", "ActiveState")["ActiveState"] == "failed"

    until(has_failed, _READY_S, "the worker failed for good")
    found = lab.show("kennel-worker@2", "ExecMainStatus", "NRestarts")
    assert found == {"ExecMainStatus": "78", "NRestarts": "0"}
    assert "KENNEL_WORKER__SLOTS" in lab.journal("kennel-worker@2")


def test_no_secret_is_in_the_journal_and_every_line_of_ours_is_json(kennel: Installation) -> None:
    told = kennel.lab.run(
        "journalctl", "--no-pager", "--output=json", *(f"--unit={unit}" for unit in SERVICES)
    ).stdout
    lines = [json.loads(line) for line in told.splitlines()]
    ours = [line for line in lines if line["SYSLOG_IDENTIFIER"] == "kennel"]
    # journald took each line's priority from its prefix: nothing of it is left in the text.
    events = [json.loads(line["MESSAGE"]) for line in ours]

    assert {event["service"] for event in events} == {"api", "scheduler", "worker"}
    assert {line["PRIORITY"] for line in ours} >= {"6"}
    assert not any(secret in told for secret in kennel.secrets)


@pytest.mark.parametrize("unit", [WORKER, SCHEDULER, API])
def test_a_stopped_service_ends_by_itself_and_leaves_nothing(
    kennel: Installation, unit: str
) -> None:
    kennel.lab.stop(unit)

    found = kennel.lab.show(unit, "ActiveState", "Result", "ExecMainStatus", "TasksCurrent")
    assert found["ActiveState"] == "inactive"
    assert (found["Result"], found["ExecMainStatus"]) == ("success", "0")
    assert "SIGKILL" not in kennel.lab.journal(unit).rpartition("Stopping")[2]
