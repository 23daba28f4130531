"""Kennel as real processes, talked to over HTTP: what the tests of the whole product stand on."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

ADMIN_TOKEN = "bootstrap-" + "0123456789abcdef" * 2
BASE = "/server/main/api/orgs"
ROOT = Path(__file__).parents[2]

Found = TypeVar("Found")
_NUMBERS = itertools.count()

#: Short intervals, so that a lost worker is noticed within seconds.
FAST_LEASES = {
    "KENNEL_LEASE__LEASE_S": "4",
    "KENNEL_LEASE__FENCE_S": "3",
    "KENNEL_LEASE__HEARTBEAT_S": "0.5",
    "KENNEL_LEASE__START_S": "4",
    "KENNEL_LEASE__LOG_S": "0.2",
    "KENNEL_SCHEDULER__TICK_S": "1",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(
    look: Callable[[], Awaitable[Found | None]], *, within_s: float, what: str
) -> Found:
    """Return what *look* finds, as soon as it finds something."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                found = await look()
                if found:
                    return found
                await _pause(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


async def _pause(seconds: float) -> None:
    # The pace of a look at another process: nothing here would wake us.
    try:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return


@dataclass
class Daemon:
    """One process of Kennel and its log."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    async def wait(self, within_s: float = 30) -> int:
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Answer:
    """What a request got."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Any:
        assert self.status in (200, 201), self.body
        return self.body["data"]


class Client:
    """A user of one api process."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self._session = session
        self.url = url
        self._token = token

    async def __call__(
        self, method: str, path: str, *, within_s: float = 60, **arguments: Any
    ) -> Answer:
        headers = dict(arguments.pop("headers", {}))
        if self._token:
            headers.setdefault("Authorization", f"Token {self._token}")
        async with self._session.request(
            method,
            self.url + path,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=within_s),
            **arguments,
        ) as response:
            raw = await response.read()
            is_json = "json" in response.content_type
            return Answer(
                response.status, json.loads(raw) if is_json else raw, dict(response.headers)
            )

    async def get(self, path: str, **arguments: Any) -> Answer:
        return await self("GET", path, **arguments)

    async def post(self, path: str, body: Any = None, **arguments: Any) -> Answer:
        return await self("POST", path, json=body or {}, **arguments)


@dataclass(frozen=True, slots=True)
class Project:
    """A registered project, by its path in the API."""

    id: int
    repo_id: int
    path: str

    @property
    def v3(self) -> str:
        return self.path.replace("/api/orgs/", "/api/v3/orgs/")


class Kennel:
    """A set of real processes on one database."""

    def __init__(self, database_url: str, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KENNEL_DATABASE_URL": database_url,
            "KENNEL_DATA_DIR": str(folder / "data"),
            "KENNEL_BOOTSTRAP_TOKEN": ADMIN_TOKEN,
            "KENNEL_SECRET_KEY": "k" * 40,
            "KENNEL_ALLOW_LOCAL_REPOS": "true",
            "KENNEL_LOG__FORMAT": "json",
            **env,
        }
        self.daemons: list[Daemon] = []
        self.clients: list[Client] = []
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self._session = await self._stack.enter_async_context(
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
            if daemon.is_running:
                daemon.kill(signal.SIGTERM)
        for daemon in self.daemons:
            try:
                await daemon.wait(15)
            except TimeoutError:
                daemon.kill()
                await daemon.wait(10)
        await self._stack.aclose()

    async def spawn(self, name: str, *command: str, **env: str) -> Daemon:
        log_path = self.folder / f"{name}-{len(self.daemons)}.log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cli",
                *command,
                cwd=ROOT,
                env=self._env | env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        daemon = Daemon(name, process, log_path)
        self.daemons.append(daemon)
        return daemon

    async def start_api(self) -> Client:
        port = free_port()
        daemon = await self.spawn("api", "api", KENNEL_API__PORT=str(port))
        client = Client(self._session, f"http://127.0.0.1:{port}", ADMIN_TOKEN)
        self.clients.append(client)

        async def is_ready() -> bool:
            assert daemon.is_running, daemon.log_tail()
            try:
                return (await client.get("/readyz")).status == 200
            except aiohttp.ClientError:
                return False

        await eventually(is_ready, within_s=60, what="the api is ready")
        return client

    async def start_scheduler(self) -> Daemon:
        return await self.spawn("scheduler", "scheduler")

    async def start_worker(self, name: str, *, api: Client, slots: int = 2, **env: str) -> Daemon:
        token = await api.post("/api/v1/tokens/", {"kind": "enrolment", "name": name})
        daemon = await self.spawn(
            f"worker-{name}",
            "worker",
            KENNEL_WORKER__SERVER_URL=api.url,
            KENNEL_WORKER__ENROLMENT_TOKEN=token.data["token"],
            KENNEL_WORKER__NAME=name,
            KENNEL_WORKER__SLOTS=str(slots),
            KENNEL_WORKER__STATE_DIR=str(self.folder / f"worker-{name}"),
            **env,
        )

        async def is_live() -> bool:
            assert daemon.is_running, daemon.log_tail()
            workers = (await api.get("/api/v1/workers/")).data["results"]
            return any(w["name"] == name and w["state"] == "live" for w in workers)

        await eventually(is_live, within_s=60, what=f"worker {name} is registered")
        return daemon


async def register(api: Client, scm_url: str, *, branch: str = "main", **scheme: Any) -> Project:
    """Register all that a scan of *branch* needs."""
    org = f"org{next(_NUMBERS)}"
    (await api.post(f"{BASE}/", {"org_sid": org})).data  # noqa: B018 - asserts the status
    (await api.post(f"{BASE}/{org}/teams/", {"name": "t"})).data  # noqa: B018
    repos = f"{BASE}/{org}/teams/t/repos"
    repo = (await api.post(f"{repos}/", {"scm_url": scm_url, "scm_type": "git"})).data
    found = (await api.post(f"{repos}/{repo['id']}/schemes/", {"name": "s", **scheme})).data
    project = (
        await api.post(
            f"{repos}/{repo['id']}/projects/", {"branch": branch, "scan_scheme_id": found["id"]}
        )
    ).data
    return Project(project["id"], repo["id"], f"{repos}/{repo['id']}/projects/{project['id']}")


async def create(api: Client, project: Project, **arguments: Any) -> int:
    answer = await api.post(f"{project.path}/scans/create/", arguments)
    assert answer.status == 200, answer.body
    job_id: int = answer.body["job"]["id"]
    return job_id


async def detail(api: Client, project: Project, job_id: int) -> Any:
    return (await api.get(f"{project.path}/jobs/{job_id}/detail/")).data


async def closed(api: Client, project: Project, job_id: int, *, within_s: float = 120) -> Any:
    """Return the detail of a job once it is closed."""

    async def look() -> Any:
        found = await detail(api, project, job_id)
        return found if found["state"] == 2 else None

    return await eventually(look, within_s=within_s, what=f"job {job_id} is closed")
