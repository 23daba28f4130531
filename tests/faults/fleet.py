"""The processes of a campaign: two api, two schedulers, four workers, one PostgreSQL.

Starts them, restarts what dies, and writes down every start and end. How they are connected is
here too: nothing reaches anything but through a link whose weather can be changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg

from core.store import schema
from core.store.embedded import EmbeddedPostgres
from tests.e2e.processes import ADMIN_TOKEN, FAST_LEASES, ROOT, Client, eventually, free_port
from tests.faults.links import Link, to_one_of, to_socket
from tests.faults.meddler import Meddler
from tests.faults.waiting import within

#: Leases of seconds, and many tries: a task of a campaign may lose more workers than one of a year.
SETTINGS = FAST_LEASES | {
    "KENNEL_SCHEDULER__MAX_ATTEMPTS": "50",
    "KENNEL_SCHEDULER__MAX_RESETS": "50",
    "KENNEL_SCHEDULER__RETRY_BASE_S": "0.2",
    "KENNEL_SCHEDULER__RETRY_CAP_S": "2",
    "KENNEL_API__SYNC_WAIT_S": "30",
    "KENNEL_WORKER__ISOLATION": "group",
    "KENNEL_LOG__FORMAT": "json",
}
APIS = SCHEDULERS = 2
WORKERS = 4
SLOTS = 6
#: The worker whose disk can be filled, the one whose clock can be moved, those behind a meddler.
SMALL_DISK, MOVED_CLOCK, MEDDLED = "worker-1", "worker-2", ("worker-3", "worker-4")
DISK_BYTES = 24 << 20

#: Ends that are a daemon's own decision: what it needs is not there, a service manager tries again.
_MAY_END = frozenset({4, 77})
_AGAIN_S = 0.3
_STOP_S = 30.0


def faketime_library() -> Path | None:
    """Return the library that moves a process's wall clock, None where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


@dataclass
class Member:
    """One process of the fleet, over all its lives."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    lives: int = 0
    #: It is meant to be down.
    is_held: bool = False
    #: The adversary (or the end of the campaign) ended this life.
    is_doomed: bool = False
    keeper: asyncio.Task[None] | None = None
    may_live: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process is not None and process.returncode is None else None


class Fleet:
    """All processes. `async with` starts them and leaves none."""

    def __init__(
        self, folder: Path, seed: int, *, spoilt: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """*spoilt*: settings by role that make Kennel wrong, for those who judge the judge."""
        self.folder = folder
        self.members: dict[str, Member] = {}
        self.links: dict[str, Link] = {}
        self.meddlers: dict[str, Meddler] = {}
        self.postgres = EmbeddedPostgres(folder / "database", durable=True)
        self.database_url = ""
        self.engine_log = folder / "engine.jsonl"
        self.clock_file = folder / "clock"
        self.faketime = faketime_library()
        self.has_small_disk = os.geteuid() == 0
        self._seed = seed
        self._spoilt = spoilt or {}
        self._over = asyncio.Event()
        self._stack = AsyncExitStack()
        self._journal: IO[str]

    # --- as a whole --------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _begin(self) -> None:
        for name in ("logs", "locks", "data"):
            (self.folder / name).mkdir(parents=True)
        self.engine_log.touch()
        self.clock_file.write_text("+0\n")
        self._journal = self._stack.enter_context((self.folder / "processes.jsonl").open("a"))
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        self.database_url = await self.postgres.start()
        self._stack.push_async_callback(self.postgres.stop)
        await self._spare_the_disk()
        await schema.upgrade(self.database_url)
        if self.has_small_disk:
            self._mount(self.state_dir(SMALL_DISK))
        self._stack.push_async_callback(self._close_links)
        self._stack.push_async_callback(self.stop)
        await self._start_servers()
        await self._start_workers()

    async def _spare_the_disk(self) -> None:
        """Let PostgreSQL write its log at each commit, but not wait for the disk.

        What a process wrote outlives it, however it ends; only a power cut, which no campaign
        makes, would show the difference. Recovery is spared a sync of every file, too.
        """
        connection = await self.connect()
        for name, value in {"fsync": "off", **self._spoilt.get("postgres", {})}.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    async def _start_servers(self) -> None:
        ports = [free_port() for _ in range(APIS)]
        for number, port in enumerate(ports, 1):
            name = f"api-{number}"
            await self._start(
                name, ("cli", "api"), KENNEL_API__PORT=str(port), **await self._dsns(name)
            )
            await self._link(f"clients>{name}", to_one_of([port], self._chance(name)))
        for number in range(1, SCHEDULERS + 1):
            name = f"scheduler-{number}"
            await self._start(name, ("cli", "scheduler"), **await self._dsns(name))
        self._api_ports = ports
        for number in range(1, APIS + 1):
            await self._until_ready(self.client(number))

    async def _start_workers(self) -> None:
        for number in range(1, WORKERS + 1):
            name = f"worker-{number}"
            port = await self._link(f"{name}>api", to_one_of(self._api_ports, self._chance(name)))
            if name in MEDDLED:
                meddler = Meddler(f"http://127.0.0.1:{port}", chance=self._chance(name))
                port = await meddler.open()
                self.meddlers[name] = meddler
            token = await self.client(1).post(
                "/api/v1/tokens/", {"kind": "enrolment", "name": name}
            )
            env = {
                "KENNEL_WORKER__SERVER_URL": f"http://127.0.0.1:{port}",
                "KENNEL_WORKER__ENROLMENT_TOKEN": token.data["token"],
                "KENNEL_WORKER__NAME": name,
                "KENNEL_WORKER__SLOTS": str(SLOTS),
                "KENNEL_WORKER__STATE_DIR": str(self.state_dir(name)),
            }
            if name == MOVED_CLOCK and self.faketime is not None:
                env |= {
                    "LD_PRELOAD": str(self.faketime),
                    "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
                    "FAKETIME_NO_CACHE": "1",
                    # A wall clock can jump; CLOCK_MONOTONIC and CLOCK_BOOTTIME cannot.
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                    # Waits of threads are by CLOCK_MONOTONIC; "mended", they would return at once
                    # and spin for the interpreter's lock.
                    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
                }
            command = (
                "tests.faults.worker_process",
                str(self.engine_log),
                str(self.folder / "locks"),
            )
            await self._start(name, command, **env)
        await eventually(self._all_live, within_s=60, what="all workers are registered")

    async def _all_live(self) -> bool:
        workers = (await self.client(1).get("/api/v1/workers/")).data["results"]
        return sum(worker["state"] == "live" for worker in workers) == WORKERS

    async def _until_ready(self, client: Client) -> None:
        async def look() -> bool:
            try:
                return (await client.get("/readyz")).status == 200
            except aiohttp.ClientError:
                return False

        await eventually(look, within_s=60, what="the api is ready")

    def client(self, number: int) -> Client:
        """Return a user of the api process of that number, through a link."""
        port = self.links[f"clients>api-{number}"].port
        return Client(self.session, f"http://127.0.0.1:{port}", ADMIN_TOKEN)

    def state_dir(self, name: str) -> Path:
        return self.folder / "state" / name

    async def stop(self) -> None:
        """End all processes in good order: workers first, so that they deliver what they have."""
        for role in ("worker", "scheduler", "api"):
            members = [member for member in self.members.values() if member.role == role]
            await asyncio.gather(*(self._stop(member) for member in members))
        self._over.set()

    async def _stop(self, member: Member) -> None:
        member.is_held = member.is_doomed = True
        pid, process = member.pid, member.process
        if pid is not None and process is not None:
            self._signal(member, signal.SIGCONT)
            self._signal(member, signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                self.note(member, "stop_refused")
                process.kill()
                await process.wait()
        if member.keeper is not None:
            member.keeper.cancel()
            await asyncio.gather(member.keeper, return_exceptions=True)

    # --- one process -------------------------------------------------------------------------

    def kill(self, name: str) -> int | None:
        """End a process by force; it stays down until `revive`. Returns its id."""
        member = self.members[name]
        member.is_held = member.is_doomed = True
        member.may_live.clear()
        pid = member.pid
        self.note(member, "killed")
        self._signal(member, signal.SIGKILL)
        return pid

    def terminate(self, name: str) -> int | None:
        """Ask a process to end; it is started again once it has."""
        member = self.members[name]
        member.is_doomed = True
        self.note(member, "asked_to_end")
        self._signal(member, signal.SIGTERM)
        return member.pid

    def revive(self, name: str) -> None:
        """Let a killed process live again."""
        self.members[name].is_held = False
        self.members[name].may_live.set()

    def freeze(self, name: str) -> int | None:
        """Stop a process without its knowing."""
        self.note(self.members[name], "frozen")
        self._signal(self.members[name], signal.SIGSTOP)
        return self.members[name].pid

    def thaw(self, name: str) -> None:
        """Let a stopped process go on."""
        self.note(self.members[name], "thawed")
        self._signal(self.members[name], signal.SIGCONT)

    def note(self, member: Member, what: str, **more: Any) -> None:
        """Write into the journal of processes."""
        line = {"at": time.time(), "process": member.name, "life": member.lives, "pid": member.pid}
        self._journal.write(json.dumps(line | {"event": what} | more) + "\n")
        self._journal.flush()

    def _signal(self, member: Member, number: signal.Signals) -> None:
        if member.process is not None and member.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                member.process.send_signal(number)

    async def _start(self, name: str, command: tuple[str, ...], **env: str) -> None:
        base = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KENNEL_DATA_DIR": str(self.folder / "data"),
            "KENNEL_BOOTSTRAP_TOKEN": ADMIN_TOKEN,
            "KENNEL_SECRET_KEY": "k" * 40,
            "KENNEL_ALLOW_LOCAL_REPOS": "true",
        }
        spoilt = self._spoilt.get(name.partition("-")[0], {})
        member = Member(name, command, {**base, **SETTINGS, **env, **spoilt})
        self.members[name] = member
        await self._spawn(member)
        member.keeper = asyncio.create_task(self._keep(member), name=f"keep-{name}")

    async def _spawn(self, member: Member) -> None:
        member.lives += 1
        path = self.folder / "logs" / f"{member.name}.{member.lives:04}.jsonl"
        with path.open("wb") as log:
            member.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *member.command),
                cwd=ROOT,
                env=member.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.note(member, "started", log=path.name)

    async def _keep(self, member: Member) -> None:
        """Start a process again whenever it has ended, as a service manager does."""
        while True:
            assert member.process is not None
            status = await member.process.wait()
            own = not member.is_doomed and status not in _MAY_END
            self.note(member, "fell" if own else "ended", status=status)
            if member.is_held:
                await member.may_live.wait()
            else:
                await within(self._over, _AGAIN_S)
            member.is_doomed = False
            await self._spawn(member)

    # --- how they are connected --------------------------------------------------------------

    async def _dsns(self, name: str) -> Mapping[str, str]:
        parts = urlsplit(self.database_url)
        socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        login = parts.netloc.rpartition("@")[0]

        async def url(link: str) -> str:
            port = await self._link(link, to_socket(socket))
            return f"postgresql://{login}@127.0.0.1:{port}{parts.path}?sslmode=disable"

        return {
            "KENNEL_DATABASE_URL": await url(f"{name}>database"),
            "KENNEL_LISTEN_DATABASE_URL": await url(f"{name}>notifications"),
        }

    async def _link(self, name: str, dial: Any) -> int:
        link = Link(dial, chance=self._chance(name))
        self.links[name] = link
        return await link.open()

    async def _close_links(self) -> None:
        for meddler in self.meddlers.values():
            await meddler.close()
        for link in self.links.values():
            await link.close()

    def _chance(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    def _mount(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
        if subprocess.run(words, check=False, capture_output=True, timeout=30).returncode:
            self.has_small_disk = False  # a container without the right to mount
            return
        self._stack.callback(
            subprocess.run, ["umount", "--lazy", str(folder)], check=False, timeout=30
        )

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """Return a connection to the database that no weather reaches."""
        return await asyncpg.connect(self.database_url, timeout=30)

    def clear(self) -> None:
        """Remove what is large and tells nothing: checkouts and the database's files."""
        for name in ("state", "database", "locks", "data"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
