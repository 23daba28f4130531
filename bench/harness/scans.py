"""Real scans of a small local repository, for the figures with real engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.context import Context, eventually
from bench.harness.engine_worker import NAME
from bench.harness.processes import Crew, Daemon, run

_BASE = "/server/main/api/orgs"


@dataclass(frozen=True, slots=True)
class Scanning:
    """One api, scheduler and worker, and a project to scan."""

    crew: Crew
    api: Daemon
    worker: Daemon
    project: str
    revision: str

    async def create(self) -> int:
        """Ask for a full scan of the revision, beside whatever runs; return the job."""
        body = {"revision": self.revision, "force_create": True, "incr_scan": False}
        return int(
            (await self.crew.post(self.api, f"{self.project}/scans/create/", body))["job"]["id"]
        )

    async def detail(self, job_id: int) -> Any:
        return (await self.crew.get(self.api, f"{self.project}/jobs/{job_id}/detail/"))["data"]

    async def closed(self, job_id: int, *, within_s: float = 60) -> Any:
        async def look() -> Any:
            self.crew.check()
            found = await self.detail(job_id)
            return found if found["state"] == 2 else None

        return await eventually(look, within_s=within_s, what=f"job {job_id} is closed")


@asynccontextmanager
async def scanning(context: Context, what: str, script: str) -> AsyncIterator[Scanning]:
    """Lend real processes and a project whose engine runs *script*; its mirror is warm."""
    async with context.server.database(what) as database, Crew(context, database) as crew:
        repository = crew.folder / "repository"
        revision = make_repository(repository)
        api = await crew.api()
        await crew.scheduler()
        worker = await crew.worker(api, what, module="bench.harness.engine_worker")
        project = await register(crew, api, repository, script)
        yield Scanning(crew, api, worker, project, revision)


async def register(crew: Crew, api: Daemon, repository: Path, script: str) -> str:
    await crew.post(api, f"{_BASE}/", {"org_sid": "bench"})
    await crew.post(api, f"{_BASE}/bench/teams/", {"name": "t"})
    repos = f"{_BASE}/bench/teams/t/repos"
    repo = (await crew.post(api, f"{repos}/", {"scm_url": str(repository), "scm_type": "git"}))[
        "data"
    ]["id"]
    engines = [{"name": NAME, "config": {"script": script}}]
    scheme = await crew.post(api, f"{repos}/{repo}/schemes/", {"name": "s", "engines": engines})
    asked = {"branch": "main", "scan_scheme_id": scheme["data"]["id"]}
    project = await crew.post(api, f"{repos}/{repo}/projects/", asked)
    return f"{repos}/{repo}/projects/{project['data']['id']}"


def make_repository(path: Path) -> str:
    """Make a repository of thirty small files; return its head."""
    path.mkdir(parents=True)
    for number in range(30):
        (path / f"module_{number}.py").write_text(f'"""Module {number}."""\n\nVALUE = {number}\n')
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    run([*git, "init", "--quiet", "--initial-branch=main"])
    run([*git, "add", "--all"])
    run([*git, "commit", "--quiet", "--message", "all"])
    return run([*git, "rev-parse", "HEAD"]).strip()
