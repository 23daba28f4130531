"""The example worker as its readers run it: a process, without our code, against the real server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from core.runtime.settings import LeaseSettings, SchedulerSettings, Settings
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from scheduler.service import run_scheduler
from tests.api.caller import Api, a_token
from tests.api.work import create_job, enrolment_token

EXAMPLE = Path(__file__).parents[2] / "examples" / "engine_worker.py"
WITHIN_S = 60.0
MARK = "TO" + "DO"


@dataclass
class Repository:
    """A real repository."""

    path: Path

    def git(self, *arguments: str) -> str:
        roles = {
            f"GIT_{r}_{k}": "a@example.org"
            for r in ("AUTHOR", "COMMITTER")
            for k in ("NAME", "EMAIL")
        }
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
        } | roles
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, **files: str) -> str:
        for name, content in files.items():
            (self.path / f"{name}.py").write_text(content)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path)
    made.git("init", "-q", "-b", "main")
    return made


@dataclass
class Kennel:
    """A server with its scheduler."""

    api: Api
    store: Store
    url: str
    folder: Path

    @asynccontextmanager
    async def example(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The example as a process; told to stop at the end, which it must do well."""
        token = self.folder / "enrolment.token"
        token.write_text(await enrolment_token(self.store, is_single_use=True) + "\n")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(EXAMPLE), "--server", self.url),
            *("--state", str(self.folder / "state"), "--enrolment-token", str(token)),
            env={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(WITHIN_S):
                said = await process.stdout.readline()
            assert said.startswith(b"registered as worker"), said
            yield process
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WITHIN_S):
                rest, _ = await process.communicate()
            assert process.returncode == 0, rest.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def project(self, repository: Repository) -> str:
        repo = await self.api.repo(await self.api.team(await self.api.org()), str(repository.path))
        scheme = await self.api.scheme(repo, engines=["todo-counter"])
        return await self.api.project(repo, scan_scheme_id=scheme)

    async def closed(self, project: str, job_id: int) -> dict[str, Any]:
        path = f"{project}/jobs/{job_id}/detail/"
        with self.store.signals.subscribe(f"job:{job_id}") as news:
            async with asyncio.timeout(WITHIN_S):
                while (job := (await self.api.get(path)).data)["state"] != 2:
                    await news.wait(0.5)
        return dict(job)

    async def report(self, job: dict[str, Any]) -> Any:
        (task,) = job["tasks"]
        return (await self.api.get(task["result_path"])).body


@pytest.fixture
async def kennel(db: Database, signals: Signals, tmp_path: Path) -> AsyncIterator[Kennel]:
    settings = Settings(
        data_dir=tmp_path / "data",
        allow_local_repos=True,
        lease=LeaseSettings(claim_s=1.0, heartbeat_s=0.5, fence_s=6.0, lease_s=8.0),
        scheduler=SchedulerSettings(tick_s=1.0),
    )
    store, stop = Store(db, signals), asyncio.Event()
    deciding = asyncio.create_task(run_scheduler(settings, store, stop=stop))
    async with TestClient(TestServer(build_app(settings, store))) as client:
        api = Api(client, await a_token(store, "admin", name="root"), store)
        yield Kennel(api, store, str(client.make_url("")), tmp_path)
    stop.set()
    await asyncio.wait_for(deciding, WITHIN_S)


async def test_somebody_elses_engine_scans_in_full_then_what_changed_then_nothing(
    kennel: Kennel, repository: Repository
) -> None:
    first = repository.commit(one=f"a = 1  # {MARK}: more\n", two=f"# {MARK} and {MARK}\n")
    async with kennel.example():
        project = await kennel.project(repository)
        full = await kennel.closed(project, await create_job(kennel.api, project))
        full_report = await kennel.report(full)
        second = repository.commit(two="b = 2\n", three=f"\n  # {MARK}\n")
        changed = await kennel.closed(project, await create_job(kennel.api, project))
        changed_report = await kennel.report(changed)
        nothing = await kennel.closed(project, await create_job(kennel.api, project))

    assert [job["result_code"] for job in (full, changed, nothing)] == [0, 0, 1]
    assert (full["scan_type"], full["full_reason"], full["revision"]) == (2, "no_base", first)
    assert full["findings"] == {"info": 3}
    places = [(f["path"], f["line"], f["column"]) for f in full_report["findings"]]
    assert places == [("one.py", 1, 10), ("two.py", 1, 3), ("two.py", 1, 12)]
    assert (changed["scan_type"], changed["base_revision"], changed["revision"]) == (
        1,
        first,
        second,
    )
    assert [(f["path"], f["line"]) for f in changed_report["findings"]] == [("three.py", 2)]
    assert changed_report["coverage"]["planned"] == 2
    kept = await kennel.store.db.fetchval("SELECT count(*) FROM findings")
    assert kept == 4


async def test_its_log_and_its_worker_are_seen(kennel: Kennel, repository: Repository) -> None:
    revision = repository.commit(one="a = 1\n")
    async with kennel.example():
        project = await kennel.project(repository)
        job = await kennel.closed(project, await create_job(kennel.api, project))
        (worker,) = (await kennel.api.get("/api/v1/workers/")).data["results"]
        log = await kennel.api.get(job["tasks"][0]["log_path"])

    assert log.text == f"checked out {revision}\n0 findings in 1 files\n"
    assert (worker["name"], worker["state"]) == ("todo-example", "live")
    assert [engine["name"] for engine in worker["engines"]] == ["todo-counter"]
    assert not list((kennel.folder / "state").glob("attempt-*"))


async def test_a_revision_that_is_not_there_fails_the_job_with_its_reason(
    kennel: Kennel, repository: Repository
) -> None:
    repository.commit(one="a = 1\n")
    async with kennel.example():
        project = await kennel.project(repository)
        job_id = await create_job(kennel.api, project, revision="e" * 40)
        with kennel.store.signals.subscribe(f"job:{job_id}") as news:
            async with asyncio.timeout(WITHIN_S):
                attempt = "SELECT reason FROM task_attempts WHERE job_id = $1"
                while (reason := await kennel.store.db.fetchval(attempt, job_id)) is None:
                    await news.wait(0.2)

    assert reason == "checkout_failed"


async def test_it_says_why_it_cannot_register(kennel: Kennel) -> None:
    token = kennel.folder / "token"
    token.write_text("kne_wrong")

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(EXAMPLE), "--server", kennel.url),
        *("--state", str(kennel.folder / "state"), "--enrolment-token", str(token)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        _, said = await process.communicate()

    assert process.returncode == 1
    assert said.startswith(b"cannot register: 401")
