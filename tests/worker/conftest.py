"""A scripted server, a real repository, and workers inside the test or as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.runtime.settings import Settings, WorkerSettings
from core.runtime.signals import StopSignals
from tests.worker.peer import WITHIN_S, Peer
from tests.worker.shell_engine import ShellEngine
from worker.engines.base import Engine
from worker.service import run_worker
from worker.supervisor import is_alive

ROOT = Path(__file__).parents[2]
GIT_ENV = {
    "PATH": os.defpath,
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_NAME": "A" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "a@example.org" for role in ("AUTHOR", "COMMITTER")},
}


async def eventually(holds: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
    """Wait until *holds* returns something true, looking every few milliseconds."""
    never = asyncio.Event()
    async with asyncio.timeout(within_s):
        while not (found := holds()):
            with suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), 0.01)
    return found


def living(scratch: Path) -> list[int]:
    """Return the engine processes that still run with their home below *scratch*.

    Not by the attempt's tag: other tests' attempts run on this host at the same time.
    """
    home = f"HOME={scratch}/".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if home in (folder / "environ").read_bytes() and is_alive(int(folder.name)):
                found.append(int(folder.name))
    return found


@dataclass
class Repository:
    """A real repository with one commit."""

    path: Path
    revision: str = ""

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=GIT_ENV, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, files: dict[str, str]) -> str:
        for name, content in files.items():
            (self.path / name).write_text(content)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "change")
        self.revision = self.git("rev-parse", "HEAD")
        return self.revision

    def spec(self, *scripts: str, **changes: Any) -> dict[str, Any]:
        """Return a task for the shell engine on this repository."""
        config = {"scripts": list(scripts), **changes.pop("config", {})}
        limits = {
            "wall_s": 60.0, "idle_s": 60.0, "output_bytes": 1 << 20, "file_bytes": 4 << 20,
            "memory_bytes": 1 << 30, **changes.pop("limits", {}),
        }  # fmt: skip
        source = {
            "scm_url": str(self.path), "branch": "main", "revision": self.revision,
            "is_local": True, "cache_key": "test", **changes.pop("source", {}),
        }  # fmt: skip
        return {"engine": "shell", "config": config, "limits": limits, "source": source, **changes}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "repository")
    found.path.mkdir()
    found.git("init", "-q", "-b", "main")
    found.commit({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    return found


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as running:
        yield running


@dataclass
class Workers:
    """Starts workers and sees to it that none is left."""

    peer: Peer
    folder: Path
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    def settings(self, *, allow_local_repos: bool = True, **changes: Any) -> Settings:
        worker = {
            "server_url": self.peer.url, "name": "w1", "slots": 2, "isolation": "group",
            "enrolment_token": self.peer.enrolment_token, "state_dir": self.folder / "state",
            "shutdown_s": 2.0, **changes,
        }  # fmt: skip
        return Settings(
            data_dir=self.folder,
            allow_local_repos=allow_local_repos,
            worker=WorkerSettings.model_validate(worker),
        )

    @asynccontextmanager
    async def inside(
        self,
        *,
        engines: Sequence[Engine] | None = None,
        hand_back_within_s: float | None = None,
        allow_local_repos: bool = True,
        **changes: Any,
    ) -> AsyncIterator[tuple[StopSignals, asyncio.Task[int]]]:
        """Run a worker in this process for the block; abort it at the end."""
        stop = StopSignals()
        settings = self.settings(allow_local_repos=allow_local_repos, **changes)
        worker = run_worker(
            settings,
            stop=stop,
            engines=[ShellEngine()] if engines is None else engines,
            hand_back_within_s=hand_back_within_s,
        )
        task = asyncio.create_task(worker, name="worker")
        try:
            yield stop, task
        finally:
            stop.drain.set()
            stop.abort.set()
            if not task.done():
                await asyncio.wait({task}, timeout=WITHIN_S)
            assert task.done(), "the worker did not stop"
            if not task.cancelled() and task.exception() is None:
                assert task.result() == 0

    async def process(
        self, *, env: dict[str, str] | None = None, **changes: Any
    ) -> asyncio.subprocess.Process:
        """Start a worker as a process; its log goes to `worker.log`."""
        settings = self.settings(**changes)
        values = json.loads(settings.model_dump_json())
        token = settings.worker.enrolment_token
        values["worker"]["enrolment_token"] = token and token.get_secret_value()
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    str(Path(__file__).with_name("worker_process.py")),
                    json.dumps(values),
                ),
                cwd=ROOT,
                env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **(env or {})},
                stderr=log,
            )
        self._processes.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def living(self, attempt_id: int) -> list[int]:
        """Return the processes of an attempt that still run."""
        return living(self.folder / "state/scratch" / str(attempt_id))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines = [
            json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")
        ]
        return [line for line in lines if line["event"] == name]

    async def close(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for pid in living(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def workers(peer: Peer, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(peer, tmp_path)
    try:
        yield made
    finally:
        await made.close()
