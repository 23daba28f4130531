"""Kennel as it is run: `kennel api`, `kennel scheduler`, `kennel worker`, real processes.

An api chooses its port itself and is found by asking the kernel which port *that child* listens
on, so that nobody else's server is ever measured. A child that ends unasked fails the figure.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import psutil

from bench.harness.context import Context, eventually
from bench.harness.cpu import peak_rss_mb, tree_cpu_s

ADMIN_TOKEN = "bench-bootstrap-0123456789abcdef0123456789"
ROOT = Path(__file__).parents[2]
#: Longest a process may take to be ready, or to end, seconds.
_PATIENCE_S = 60.0


@dataclass
class Daemon:
    """One process and its log."""

    kind: str
    process: asyncio.subprocess.Process
    log_path: Path
    url: str = ""

    @property
    def pid(self) -> int:
        self.check()
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def check(self) -> None:
        """Fail when the process is gone: whatever is measured now is not it."""
        if self.process.returncode is not None:
            raise RuntimeError(
                f"{self.kind} ended with {self.process.returncode}: {self.log_tail()}"
            )

    def cpu_s(self) -> float:
        return tree_cpu_s(self.pid)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Crew:
    """Processes of Kennel on one database; ended, and their memory noted, at the end."""

    def __init__(
        self, context: Context, database: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.context = context
        self.url = context.server.url(database)
        self.folder = context.folder / database
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KENNEL_DATABASE_URL": self.url,
            "KENNEL_DATA_DIR": str(self.folder / "data"),
            "KENNEL_BOOTSTRAP_TOKEN": ADMIN_TOKEN,
            "KENNEL_SECRET_KEY": "k" * 40,
            "KENNEL_ALLOW_LOCAL_REPOS": "true",
            "KENNEL_LOG__FORMAT": "json",
            "KENNEL_API__PORT": "0",
            **(env or {}),
        }
        self.daemons: list[Daemon] = []
        self._stack = AsyncExitStack()
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for daemon in self.daemons:
            if daemon.process.returncode is None:
                self._note_memory(daemon)
                daemon.kill(signal.SIGTERM)
        for daemon in self.daemons:
            await self._end(daemon)
        await self._stack.aclose()

    async def spawn(self, kind: str, *argv: str, module: str = "cli", **env: str) -> Daemon:
        """Start a module of ours; its output goes to a file."""
        log_path = self.folder / f"{kind}-{len(self.daemons)}.log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *argv),
                cwd=ROOT,
                env=self._env | env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        daemon = Daemon(kind, process, log_path)
        self.daemons.append(daemon)
        return daemon

    async def api(self, **env: str) -> Daemon:
        """Start an api; return when it is ready."""
        daemon = await self.spawn("api", "api", **env)
        host = env.get("KENNEL_API__HOST", "127.0.0.1")

        async def port() -> int | None:
            daemon.check()
            return listening_port(daemon.pid)

        daemon.url = f"http://{host}:{await eventually(port, within_s=_PATIENCE_S, what='api')}"

        async def is_ready() -> bool:
            daemon.check()
            return (await self.call("GET", daemon, "/readyz"))[0] == 200

        await eventually(is_ready, within_s=_PATIENCE_S, what="the api is ready")
        return daemon

    async def scheduler(self) -> Daemon:
        """Start a scheduler; return once its loops run."""
        daemon = await self.spawn("scheduler", "scheduler")

        async def has_started() -> bool:
            daemon.check()
            return "scheduler.started" in daemon.log_path.read_text(errors="replace")

        await eventually(has_started, within_s=_PATIENCE_S, what="the scheduler has started")
        return daemon

    async def worker(
        self, api: Daemon, name: str, *, slots: int = 2, module: str = "cli"
    ) -> Daemon:
        """Start a real worker; return once the api has it."""
        argv = ("worker",) if module == "cli" else ()
        daemon = await self.spawn(
            "worker",
            *argv,
            module=module,
            KENNEL_WORKER__SERVER_URL=api.url,
            KENNEL_WORKER__ENROLMENT_TOKEN=await self.enrolment_token(api),
            KENNEL_WORKER__NAME=name,
            KENNEL_WORKER__SLOTS=str(slots),
            KENNEL_WORKER__STATE_DIR=str(self.folder / f"worker-{name}"),
        )

        async def is_live() -> bool:
            daemon.check()
            workers = (await self.get(api, "/api/v1/workers/"))["data"]["results"]
            return any(w["name"] == name and w["state"] == "live" for w in workers)

        await eventually(is_live, within_s=_PATIENCE_S, what=f"worker {name} is registered")
        return daemon

    async def enrolment_token(self, api: Daemon) -> str:
        body = {"kind": "enrolment", "name": "bench", "single_use": False, "expires_in_s": 86_400}
        return str((await self.post(api, "/api/v1/tokens/", body))["data"]["token"])

    async def call(self, method: str, api: Daemon, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask an api as the admin; return status and body."""
        async with self.session.request(
            method,
            api.url + path,
            json=body,
            headers={"Authorization": f"Token {ADMIN_TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=120),
        ) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if raw else None

    async def get(self, api: Daemon, path: str) -> Any:
        return _good(path, *await self.call("GET", api, path))

    async def post(self, api: Daemon, path: str, body: Any) -> Any:
        return _good(path, *await self.call("POST", api, path, body))

    def check(self) -> None:
        """Fail when any process ended unasked."""
        for daemon in self.daemons:
            daemon.check()

    async def end(self, daemon: Daemon) -> None:
        """Stop one process in good order."""
        if daemon.process.returncode is None:
            self._note_memory(daemon)
            daemon.kill(signal.SIGTERM)
        await self._end(daemon)
        self.daemons.remove(daemon)

    async def kill(self, daemon: Daemon) -> None:
        """End one process with SIGKILL."""
        daemon.kill()
        await daemon.process.wait()
        self.daemons.remove(daemon)

    async def _end(self, daemon: Daemon) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await daemon.process.wait()
        except TimeoutError:
            daemon.kill()
            await daemon.process.wait()

    def _note_memory(self, daemon: Daemon) -> None:
        if daemon.kind in ("api", "scheduler", "worker"):
            self.context.note_memory(daemon.kind, peak_rss_mb(daemon.pid))


def listening_port(pid: int) -> int | None:
    """Return the port a process listens on, by the kernel's own books."""
    for connection in psutil.Process(pid).net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            return int(connection.laddr.port)
    return None


def _good(path: str, status: int, body: Any) -> Any:
    if status not in (200, 201):
        raise RuntimeError(f"{path} answered {status}: {body}")
    return body


def run(argv: list[str], **options: Any) -> str:
    """Run a program to its end; return its output."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=600, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
