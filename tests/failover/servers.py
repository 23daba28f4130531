"""PostgreSQL servers as Debian ships them: a primary, its standbys, and what may happen to them."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from core.store import postgres_install
from tests.e2e.processes import eventually, free_port

BIN = Path("/usr/lib/postgresql/15/bin")
DATABASE = "kennel"


def service_uid() -> int | None:
    """As whom the servers run: PostgreSQL refuses root, and `initdb` who has no name."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def run(program: str, *arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [BIN / program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=postgres_install.ENVIRONMENT,
        **_identity(),
    )
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout


def _identity() -> postgres_install.Identity:
    return postgres_install.identity(service_uid())


@dataclass
class Server:
    """One PostgreSQL server; its host is this one, its port its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.folder.with_suffix(".log")

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://kennel@{self.address}/{database}"

    async def start(self) -> None:
        """Start, and return when it answers; a standby answers too."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            # What a killed process wrote stays written; only a machine would lose it.
            "fsync": "off",
            "log_line_prefix": "%m [%p] %a: ",
            **self.settings,
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    BIN / "postgres",
                    *("-D", str(self.folder)),
                    *(
                        part
                        for name, value in settings.items()
                        for part in ("-c", f"{name}={value}")
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=postgres_install.ENVIRONMENT,
                start_new_session=True,
                **_identity(),
            )

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log_path.read_text()[-3000:]
            try:
                await self.query("SELECT 1", database="postgres")
            except (OSError, asyncpg.PostgresError):
                return False
            return True

        await eventually(answers, within_s=60, what=f"PostgreSQL answers at {self.address}")

    async def query(
        self, sql: str, *values: object, database: str = DATABASE
    ) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url(database), timeout=30)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close(timeout=10)

    def processes(self) -> list[psutil.Process]:
        """The server and all its children, each in a session of its own."""
        if self.process is None or self.process.poll() is not None:
            return []
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def signal_all(self, number: signal.Signals) -> None:
        for process in self.processes():
            with_number(process, number)

    def kill(self) -> None:
        """End every process of it at once, as when the machine goes; nothing is said to anybody."""
        self.signal_all(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(30)

    def stop(self) -> None:
        """End in order, or by force."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal_all(signal.SIGCONT)
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


def with_number(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


@asynccontextmanager
async def new_server(**settings: str) -> AsyncIterator[Server]:
    """Lend a fresh server with an empty database `kennel`."""
    folder = Path(tempfile.mkdtemp(prefix="kennel-failover-"))
    server = Server(folder / "primary", settings=settings)
    servers = [server]
    try:
        _prepare(folder, server.folder)
        run(
            "initdb",
            "-U",
            "kennel",
            "--auth=trust",
            "--no-sync",
            "--locale=C.UTF-8",
            "-D",
            server.folder,
            cwd=folder,
        )
        await server.start()
        await server.query(f"CREATE DATABASE {DATABASE}", database="postgres")
        yield server
    finally:
        _remove(servers, folder)


@dataclass
class Pair:
    """A primary and a synchronous standby."""

    primary: Server
    standby: Server

    @property
    def url(self) -> str:
        """The address of both, as an operator gives it; the first is not always the primary."""
        hosts = f"{self.primary.address},{self.standby.address}"
        return f"postgresql://kennel@{hosts}/{DATABASE}?target_session_attrs=read-write"

    async def promote(self) -> None:
        """Make the standby the primary, as a person or an agent does who saw the other one go."""
        await self.standby.query("SELECT pg_promote(true, 60)", database="postgres")


@asynccontextmanager
async def new_pair() -> AsyncIterator[Pair]:
    """Lend a primary whose commits wait for its standby."""
    async with new_server() as primary:
        folder = primary.folder.parent
        standby = Server(folder / "standby")
        try:
            _prepare(folder, standby.folder)
            await asyncio.to_thread(
                run,
                "pg_basebackup",
                *("-D", standby.folder),
                *("-d", f"host=127.0.0.1 port={primary.port} user=kennel application_name=standby"),
                *("--no-sync", "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"),
                cwd=folder,
            )
            await standby.start()
            # Said to the primary alone: what takes its place would wait for a standby it has not.
            for statement in (
                "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
                "SELECT pg_reload_conf()",
            ):
                await primary.query(statement, database="postgres")

            async def is_synchronous() -> bool:
                rows = await primary.query("SELECT sync_state FROM pg_stat_replication")
                return [row["sync_state"] for row in rows] == ["sync"]

            await eventually(is_synchronous, within_s=60, what="the standby is synchronous")
            yield Pair(primary, standby)
        finally:
            standby.stop()


def _prepare(folder: Path, data: Path) -> None:
    # Up to PostgreSQL 15 a server walks to its folder, and pytest's are private.
    folder.chmod(0o711)
    data.mkdir(mode=0o700)
    uid = service_uid()
    if uid is not None:
        os.chown(data, uid, uid)


def _remove(servers: Iterable[Server], folder: Path) -> None:
    for server in servers:
        server.stop()
    shutil.rmtree(folder)
