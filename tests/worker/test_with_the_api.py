"""The worker against the real api, scheduler and PostgreSQL: nothing is scripted here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from core.runtime.settings import LeaseSettings, SchedulerSettings, Settings, WorkerSettings
from core.runtime.signals import StopSignals
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from scheduler.service import run_scheduler
from tests.api.caller import Api, a_token
from tests.api.work import create_job, enrolment_token
from tests.worker.conftest import Repository, eventually, living
from tests.worker.peer import WITHIN_S
from tests.worker.shell_engine import ShellEngine
from worker.engines.base import Engine
from worker.engines.lines import LinesEngine
from worker.service import run_worker


@dataclass
class Kennel:
    """A server with its scheduler, and a project on a real repository."""

    api: Api
    store: Store
    settings: Settings
    server_url: str
    repository: Repository
    folder: Path

    async def project(self, engines: list[Any]) -> str:
        team = await self.api.team(await self.api.org())
        repo = await self.api.repo(team, str(self.repository.path))
        scheme = await self.api.scheme(repo, engines=engines)
        return await self.api.project(repo, scan_scheme_id=scheme)

    @asynccontextmanager
    async def worker(self, name: str, engine: Engine) -> AsyncIterator[StopSignals]:
        stop = StopSignals()
        values = {
            "server_url": self.server_url, "name": name, "slots": 2, "isolation": "group",
            "enrolment_token": await enrolment_token(self.store), "shutdown_s": 1.0,
            "state_dir": self.folder / name,
        }  # fmt: skip
        settings = self.settings.model_copy(
            update={"worker": WorkerSettings.model_validate(values)}
        )
        task = asyncio.create_task(run_worker(settings, stop=stop, engines=[engine]))
        try:
            yield stop
        finally:
            stop.drain.set()
            stop.abort.set()
            assert await asyncio.wait_for(task, WITHIN_S) == 0

    async def closed(self, project: str, job_id: int) -> Any:
        with self.store.signals.subscribe(f"job:{job_id}") as news:
            async with asyncio.timeout(WITHIN_S):
                while (job := await self.detail(project, job_id))["state"] != 2:
                    await news.wait(0.5)
                return job

    async def detail(self, project: str, job_id: int) -> Any:
        return (await self.api.get(f"{project}/jobs/{job_id}/detail/")).data

    def living(self, attempt_id: int) -> list[int]:
        """Return the processes of an attempt that still run, whoever runs it."""
        return [
            pid for one in self.folder.glob("*/scratch") for pid in living(one / str(attempt_id))
        ]

    async def running(self) -> int:
        """Wait for an engine's processes; return the attempt."""
        async with asyncio.timeout(WITHIN_S):
            with self.store.signals.subscribe("tasks") as news:
                while True:
                    rows = await self.store.db.fetch("SELECT attempt_id FROM task_leases")
                    for row in rows:
                        if self.living(row["attempt_id"]):
                            return int(row["attempt_id"])
                    await news.wait(0.02)


@pytest.fixture
async def kennel(
    db: Database, signals: Signals, repository: Repository, tmp_path: Path
) -> AsyncIterator[Kennel]:
    settings = Settings(
        data_dir=tmp_path / "data",
        allow_local_repos=True,
        lease=LeaseSettings(heartbeat_s=0.5, fence_s=3.0, lease_s=4.0, start_s=4.0, log_s=0.05),
        scheduler=SchedulerSettings(tick_s=1.0, retry_base_s=0.01, retry_cap_s=0.02),
    )
    store, stop = Store(db, signals), asyncio.Event()
    deciding = asyncio.create_task(run_scheduler(settings, store, stop=stop))
    async with TestClient(TestServer(build_app(settings, store))) as client:
        api = Api(client, await a_token(store, "admin", name="root"), store)
        yield Kennel(api, store, settings, str(client.make_url("")), repository, tmp_path)
    stop.set()
    await asyncio.wait_for(deciding, WITHIN_S)


def shell(*scripts: str, **config: Any) -> list[Any]:
    return [{"name": "shell", "config": {"scripts": list(scripts), **config}}]


async def test_a_job_is_prepared_scanned_and_saved(kennel: Kennel) -> None:
    project = await kennel.project(["lines"])

    async with kennel.worker("w1", LinesEngine()):
        job_id = await create_job(kennel.api, project)
        job = await kennel.closed(project, job_id)

    assert (job["result_code"], job["task_num"], job["task_done"]) == (0, 1, 1)
    (task,) = await kennel.store.db.fetch(
        "SELECT id FROM tasks WHERE job_id = $1 AND kind = 'engine'", job_id
    )
    report = (await kennel.api.get(f"/api/v1/tasks/{task['id']}/result")).body
    assert report["engine"] == "lines"
    assert report["revision"] == kennel.repository.revision
    assert [(one["language"], one["code"]) for one in report["lines"]] == [("python", 2)]


async def test_a_log_arrives_as_it_was_written(kennel: Kennel) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 0.2; echo end"
    async with kennel.worker("w1", ShellEngine()):
        await eventually((kennel.folder / "w1/registration.json").exists)
        project = await kennel.project(shell(script))
        job_id = await create_job(kennel.api, project)
        job = await kennel.closed(project, job_id)

    assert job["result_code"] == 0
    (task,) = await kennel.store.db.fetch(
        "SELECT id FROM tasks WHERE job_id = $1 AND kind = 'engine'", job_id
    )
    log = (await kennel.api.get(f"/api/v1/tasks/{task['id']}/log")).text
    assert log == "".join(f"line {number}\n" for number in range(3000)) + "end\n"


async def test_a_cancel_over_http_kills_the_engine_within_a_second(kennel: Kennel) -> None:
    script = "trap '' TERM; setsid sleep 600 & while :; do sleep 1; done"
    async with kennel.worker("w1", ShellEngine()):
        await eventually((kennel.folder / "w1/registration.json").exists)
        project = await kennel.project(shell(script, grace_s=10.0))
        job_id = await create_job(kennel.api, project)
        attempt_id = await kennel.running()

        asked_at = time.monotonic()
        answer = await kennel.api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "enough"})
        assert answer.status == 200
        await eventually(lambda: not kennel.living(attempt_id), within_s=5)
        took_s = time.monotonic() - asked_at
        job = await kennel.closed(project, job_id)
        await eventually(lambda: not [*(kennel.folder / "w1/spool").iterdir()])

    assert took_s < 1.0
    assert job["state"] == 2


async def test_what_a_stopped_worker_hands_back_another_one_finishes(kennel: Kennel) -> None:
    flag = kennel.folder / "flag"
    script = f"until [ -e {flag} ]; do sleep 0.05; done"
    async with kennel.worker("first", ShellEngine()) as stop:
        await eventually((kennel.folder / "first/registration.json").exists)
        project = await kennel.project(shell(script))
        job_id = await create_job(kennel.api, project)
        attempt_id = await kennel.running()
        stop.drain.set()
        stop.abort.set()
        await eventually(lambda: not kennel.living(attempt_id))

    async with kennel.worker("second", ShellEngine()):
        second = await kennel.running()
        flag.touch()
        job = await kennel.closed(project, job_id)

    assert second != attempt_id
    assert job["result_code"] == 0
    rows = await kennel.store.db.fetch(
        "SELECT outcome, reason FROM task_attempts WHERE attempt_id IN ($1, $2) ORDER BY attempt_id",
        attempt_id,
        second,
    )
    assert [(row["outcome"], row["reason"]) for row in rows] == [
        ("failed", "handed_back"),
        ("succeeded", None),
    ]
