"""A PostgreSQL of our own below the data directory, for the one-command start and the tests.

Owns the server's process: start, readiness, restart when it dies, stop. As root it runs under a
uid of its own (`postgres_install`); its files are `cluster`'s. It listens on a private socket only
and asks for a password (random, 256 bits, in a 0600 file).

    <data directory>/postgres/  cluster/  lock  password  runtime  startup.log

Limits: a server whose parent is killed runs on until the next start, which stops it first. Only
one process a data directory; production with several hosts wants a PostgreSQL of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from core.runtime.logs import get_logger
from core.store import postgres_install
from core.store.cluster import HERE, KENNEL, STOP_PATIENCE, Cluster
from core.store.postgres_install import EmbeddedPostgresError

log = get_logger(__name__)

_LOG_FILE_KB = 8 * 1024
_LOG_FILES = 8
_HOUSEKEEPING_S = 60.0
_RESTART_DELAY_MAX_S = 30.0

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "password_encryption": "scram-sha-256",
    "log_checkpoints": "off",
    "logging_collector": "on",
    "log_filename": "postgresql-%Y%m%d-%H%M%S.log",
    "log_rotation_size": str(_LOG_FILE_KB),
    "timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """The server of one data directory. Start and stop are idempotent."""

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        bin_dir: Path | None = None,
        service_uid: int = postgres_install.SERVICE_UID,
        start_timeout_s: float = 900.0,
    ) -> None:
        self._cluster = Cluster(data_dir, durable=durable, bin_dir=bin_dir, service_uid=service_uid)
        self._durable = durable
        #: Long, since it covers crash recovery: giving up on a server that is busy replaying its
        #: log would only make it begin again.
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """The address of the database `kennel`, password included: never log it."""
        return self._dsn(KENNEL)

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> str:
        """Start the server, making the cluster at first; return the DSN once it answers."""
        if self._keeper is not None:
            return self.dsn
        try:
            await _to_the_end(self._cluster.prepare)
            await self._launch()
            await self._create_database()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="embedded-postgres")
        log.info("postgres.started", pid=self.pid, cluster=str(self._cluster.path))
        return self.dsn

    async def stop(self) -> None:
        """Stop the server: fast, then at once, then by force; leave nothing running."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._process is not None:
            await _stop_process(self._process)
            self._process = None
        await asyncio.to_thread(self._cluster.release)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- the process -------------------------------------------------------------------------

    def _dsn(self, database: str) -> str:
        folder = self._cluster.socket_dir
        if folder is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running")
        # The port is part of the socket's name; unsaid, the caller's PGPORT would choose it.
        who = f"{KENNEL}:{self._cluster.password}"
        return f"postgresql://{who}@/{database}?host={folder}&port=5432"

    async def _launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not await self._launch_once(deadline):  # noqa: ASYNC110 - nobody tells
            # Children of a killed server hold its memory until they notice: moments.
            await asyncio.sleep(0.2)

    async def _launch_once(self, deadline: float) -> bool:
        assert self._cluster.install is not None
        settings = {**_SETTINGS, **({} if self._durable else _NOT_DURABLE)}
        settings["unix_socket_directories"] = str(self._cluster.socket_dir)
        with self._cluster.startup_log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - uvloop's knows no user=
                [
                    self._cluster.install.bin_dir / "postgres",
                    *("-D", HERE),
                    *(
                        part
                        for name, value in settings.items()
                        for part in ("-c", f"{name}={value}")
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._cluster.path,
                env=postgres_install.ENVIRONMENT,
                # Ctrl-C in a terminal goes to the group: the server leaves last, when told.
                start_new_session=True,
                **postgres_install.identity(self._cluster.uid),
            )
        if await self._answers(self._process, deadline):
            return True
        said = self._cluster.startup_log.read_text(errors="replace")[-2000:].strip()
        if "pre-existing shared memory block" in said and time.monotonic() < deadline:
            return False
        await _stop_process(self._process)
        raise EmbeddedPostgresError(
            f"PostgreSQL did not start (more in {self._cluster.path / 'log'}): {said}"
        )

    async def _answers(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait until the server takes connections; False when it ended or time is up."""
        delay_s, patient_until = 0.02, time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                connection = await asyncpg.connect(self._dsn("postgres"), timeout=10)
            except asyncpg.InvalidAuthorizationSpecificationError as error:
                await _stop_process(process)
                raise EmbeddedPostgresError(
                    f"the stored password does not open {self._cluster.path}: {error}"
                ) from error
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
                pass  # not there yet, or replaying its log
            else:
                await connection.close(timeout=10)
                return True
            if await _exited(process, delay_s):
                return False
            delay_s = min(delay_s * 1.5, 0.5)
            if time.monotonic() > patient_until:
                log.info("postgres.start_awaited", pid=process.pid)
                patient_until = time.monotonic() + 10
        return False

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(self._dsn("postgres"), timeout=10)
        try:
            found = await connection.fetchval(
                "SELECT true FROM pg_database WHERE datname = $1", KENNEL
            )
            if not found:
                await connection.execute(f"CREATE DATABASE {KENNEL}")
        finally:
            await connection.close(timeout=10)

    async def _keep(self) -> None:
        """Start a server again that died (out of memory, say), and bound its log files."""
        self._prune_logs()
        delay_s = 1.0
        while self._process is not None:
            if not await _exited(self._process, _HOUSEKEEPING_S):
                self._prune_logs()
                delay_s = 1.0
                continue
            log.error("postgres.died", exit_code=self._process.returncode)
            try:
                await self._launch()
            except (EmbeddedPostgresError, OSError, asyncpg.PostgresError) as error:
                log.exception("postgres.restart_failed", error=str(error), delay_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _RESTART_DELAY_MAX_S)
            else:
                log.info("postgres.restarted", pid=self.pid)

    def _prune_logs(self) -> None:
        folder = self._cluster.path / "log"
        if folder.is_symlink():  # never of our making, and we may be root
            return
        for file in sorted(folder.glob("postgresql-*.log"))[:-_LOG_FILES]:
            file.unlink(missing_ok=True)


async def _to_the_end(work: Callable[[], None]) -> None:
    """Run *work* in a thread to its end, which is bounded, even when the caller is cancelled.

    Otherwise the lock would be dropped under a running `initdb`.
    """
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _stop_process(process: subprocess.Popen[bytes]) -> None:
    for number, patience_s in STOP_PATIENCE:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        if await _exited(process, patience_s):
            return
    log.error("postgres.stop_failed", pid=process.pid)


async def _exited(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end of *process*, woken by the kernel; works on any event loop."""
    if process.poll() is not None:
        return True
    loop = asyncio.get_running_loop()
    handle = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    process.wait()
    return True
