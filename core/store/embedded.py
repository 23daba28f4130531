"""A PostgreSQL of our own below the data directory, for the one-command start and the tests.

Owns the server's whole life: cluster, password, socket, process, clean-up. Three facts shape it:

* As root the server runs under a uid of its own (`postgres_install`). Data directories often lie
  below folders that uid may not pass. Nobody's folder is opened for it: each program is started
  *inside* the cluster and told `-D /proc/self/cwd`, which the kernel follows without a walk from
  the root.
* A socket path holds 107 bytes and a data directory may be deeper. The socket lies in a private
  folder made for the run below /tmp; the file `runtime` names it for whoever cleans up.
* It listens on that socket only, and asks for a password (random, 256 bits, in a 0600 file).

    <data directory>/postgres/  cluster/  lock  password  runtime  startup.log

Limits: a server whose parent is killed runs on until the next start, which stops it first. Only
one process a data directory; production with several hosts wants a PostgreSQL of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import asyncpg

from core.runtime.logs import get_logger
from core.store import postgres_install
from core.store.postgres_install import EmbeddedPostgresError, Install

log = get_logger(__name__)

USER = DATABASE = "kennel"

#: The kernel's limit for the path of a Unix socket, without the closing NUL.
_SOCKET_PATH_BYTES = 107
_SOCKET_BASES = ("/tmp", "/var/tmp", "/run")  # noqa: S108 - mkdtemp makes the folder inside
_INITDB_TIMEOUT_S = 300
_STOP_PATIENCE = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
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


class DataDirInUse(EmbeddedPostgresError):
    """Another process runs on the data directory; `pid` is it, when it can be told."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"the data directory {data_dir} is in use by {who}: stop it, "
            "or choose another with --data-dir"
        )
        self.pid = pid


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
        self._data_dir = data_dir.absolute()
        self._home = self._data_dir / "postgres"
        self._cluster = self._home / "cluster"
        self._durable = durable
        self._bin_dir = bin_dir
        self._service_uid = service_uid
        #: Long, since it covers crash recovery: giving up on a server that is busy replaying its
        #: log would only make it begin again.
        self._start_timeout_s = start_timeout_s
        self._uid: int | None = None
        self._install: Install | None = None
        self._password = ""
        self._socket_dir: Path | None = None
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """The address of the database `kennel`, password included: never log it."""
        return self._dsn(DATABASE)

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> str:
        """Start the server, making the cluster at first; return the DSN once it answers."""
        if self._keeper is not None:
            return self.dsn
        try:
            await _to_the_end(self._prepare)
            await self._launch()
            await self._create_database()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="embedded-postgres")
        log.info("postgres.started", pid=self.pid, data_dir=str(self._data_dir))
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
        if self._lock is not None:
            self._remove_runtime()
            self._lock.close()
            self._lock = None

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

    # -- before the start: files, in a thread ------------------------------------------------

    def _prepare(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._take_lock()
        self._remove_runtime()
        self._uid = self._server_uid()
        self._install = postgres_install.find_install(
            self._bin_dir or postgres_install.wheel_bin_dir(), self._uid
        )
        self._record_runtime()
        self._password = self._read_password()
        if self._cluster.exists():
            self._check_major(self._install.major)
            self._stop_orphan()
        else:
            self._make_cluster(self._install)
        self._socket_dir = _make_socket_dir(self._uid)
        self._record_runtime()

    def _take_lock(self) -> IO[str]:
        lock = (self._home / "lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise DataDirInUse(self._data_dir, int(holder) if holder.isdigit() else None) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _server_uid(self) -> int | None:
        """As whom the server runs: the cluster's owner, where that is not us."""
        me = os.geteuid()
        owner = self._cluster.stat().st_uid if self._cluster.exists() else None
        if me == 0:
            return owner or self._service_uid
        if owner not in (None, me):
            raise EmbeddedPostgresError(
                f"{self._cluster} belongs to uid {owner}, this is uid {me}: start as root, "
                f"or give it away with `chown -R {me} {self._cluster}` while it is stopped"
            )
        return None

    def _read_password(self) -> str:
        file = self._home / "password"
        if file.exists():
            return file.read_text(encoding="ascii").strip()
        if self._cluster.exists():
            raise EmbeddedPostgresError(
                f"{file} is missing: without it nobody can log in to {self._cluster}; restore it"
            )
        password = secrets.token_urlsafe(32)
        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600, exist_ok=False)
        with draft.open("w", encoding="ascii") as out:
            out.write(password)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
        return password

    def _check_major(self, major: int) -> None:
        found = (self._cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != str(major):
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {found}, this is PostgreSQL {major}: "
                f"dump it with {found}'s pg_dump, move the folder away and restore the dump, "
                "or set KENNEL_DATABASE_URL to a server of that version"
            )

    def _make_cluster(self, install: Install) -> None:
        """Make the cluster beside its place and move it there whole."""
        draft = self._home / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        identity = postgres_install.initdb_identity(self._uid)
        _give(draft, identity.get("user"))
        with tempfile.NamedTemporaryFile("w", dir=_base_dir(self._uid)) as pwfile:
            pwfile.write(self._password)
            pwfile.flush()
            _give(Path(pwfile.name), identity.get("user"))
            done = subprocess.run(
                [
                    install.bin_dir / "initdb",
                    *("-D", "/proc/self/cwd", "-U", USER, f"--pwfile={pwfile.name}"),
                    *("--encoding=UTF8", "--data-checksums", *_locale(install.major)),
                    *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256"),
                    *([] if self._durable else ["--no-sync"]),
                ],
                capture_output=True,
                text=True,
                timeout=_INITDB_TIMEOUT_S,
                check=False,
                cwd=draft,
                env=postgres_install.ENVIRONMENT,
                start_new_session=True,
                **identity,
            )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {done.stderr.strip()[-2000:]}")
        if self._uid is not None:
            for folder, _, files in os.walk(draft):
                _give(Path(folder), self._uid)
                for name in files:
                    _give(Path(folder) / name, self._uid)
        draft.rename(self._cluster)

    def _stop_orphan(self) -> None:
        """Stop the server a killed parent left; drop a pid file that names a stranger."""
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="ascii").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # PostgreSQL sees for itself that nobody is there
        try:
            if not self._is_our_server(pid):
                pid_file.unlink()
                return
            log.warning("postgres.orphan_found", pid=pid)
            for number, patience_s in _STOP_PATIENCE:
                signal.pidfd_send_signal(handle, number)
                if _wait_pidfd(handle, patience_s):
                    return
        finally:
            os.close(handle)
        raise EmbeddedPostgresError(f"the server {pid} of an earlier run cannot be stopped")

    def _is_our_server(self, pid: int) -> bool:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            where = Path(f"/proc/{pid}/cwd").stat()
        except FileNotFoundError:
            return False
        except PermissionError:
            # Root in a container without CAP_SYS_PTRACE: the name and the pid file must do.
            return name == "postgres"
        ours = self._cluster.stat()
        return name == "postgres" and (where.st_dev, where.st_ino) == (ours.st_dev, ours.st_ino)

    # -- what a run leaves outside the data directory ----------------------------------------

    def _record_runtime(self) -> None:
        """Name the folders of this run, so that whoever starts after a crash removes them."""
        copy = self._install.copy if self._install else None
        made = [str(folder) for folder in (self._socket_dir, copy) if folder]
        (self._home / "runtime").write_text("\n".join(made))

    def _remove_runtime(self) -> None:
        record = self._home / "runtime"
        if record.exists():
            for folder in record.read_text().splitlines():
                shutil.rmtree(folder, ignore_errors=True)
            record.unlink()
        self._socket_dir = self._install = None

    # -- the process -------------------------------------------------------------------------

    def _dsn(self, database: str) -> str:
        if self._socket_dir is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running")
        # The port is part of the socket's name; unsaid, the caller's PGPORT would choose it.
        return f"postgresql://{USER}:{self._password}@/{database}?host={self._socket_dir}&port=5432"

    async def _launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not await self._launch_once(deadline):  # noqa: ASYNC110 - nobody tells
            # Children of a killed server hold its memory until they notice: moments.
            await asyncio.sleep(0.2)

    async def _launch_once(self, deadline: float) -> bool:
        assert self._install is not None
        settings = {**_SETTINGS, **({} if self._durable else _NOT_DURABLE)}
        settings["unix_socket_directories"] = str(self._socket_dir)
        with (self._home / "startup.log").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - uvloop's knows no user=
                [
                    self._install.bin_dir / "postgres",
                    *("-D", "/proc/self/cwd"),
                    *(
                        part
                        for name, value in settings.items()
                        for part in ("-c", f"{name}={value}")
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._cluster,
                env=postgres_install.ENVIRONMENT,
                # Ctrl-C in a terminal goes to the group: the server leaves last, when told.
                start_new_session=True,
                **postgres_install.identity(self._uid),
            )
        if await self._answers(self._process, deadline):
            return True
        said = (self._home / "startup.log").read_text(errors="replace")[-2000:].strip()
        if "pre-existing shared memory block" in said and time.monotonic() < deadline:
            return False
        await _stop_process(self._process)
        raise EmbeddedPostgresError(
            f"PostgreSQL did not start (more in {self._cluster / 'log'}): {said}"
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
                    f"{self._home / 'password'} does not open {self._cluster}: {error}"
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
                "SELECT true FROM pg_database WHERE datname = $1", DATABASE
            )
            if not found:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close(timeout=10)

    async def _keep(self) -> None:
        """Start a server again that died (out of memory, say), and bound its log files."""
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
        folder = self._cluster / "log"
        if folder.is_symlink():  # never of our making, and we may be root
            return
        for file in sorted(folder.glob("postgresql-*.log"))[:-_LOG_FILES]:
            file.unlink(missing_ok=True)


def _locale(major: int) -> list[str]:
    """C.UTF-8: code point order whatever the machine's libraries say, today and tomorrow."""
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]


def _base_dir(uid: int | None) -> Path:
    """Return a folder for small private things, short of path and open to *uid*."""
    longest = "/kennel-postgres-12345678/.s.PGSQL.65535"
    for base in (*_SOCKET_BASES, tempfile.gettempdir()):
        fits = len(os.fsencode(base + longest)) <= _SOCKET_PATH_BYTES
        if fits and os.access(base, os.W_OK | os.X_OK) and (uid is None or _is_open(Path(base))):
            return Path(base)
    raise EmbeddedPostgresError(
        f"no folder for PostgreSQL's socket: none of {', '.join(_SOCKET_BASES)} is writable"
    )


def _is_open(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def _make_socket_dir(uid: int | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kennel-postgres-", dir=_base_dir(uid)))
    _give(folder, uid)
    return folder


def _give(path: Path, uid: int | None) -> None:
    if uid is not None:
        os.chown(path, uid, uid, follow_symlinks=False)


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
    for number, patience_s in _STOP_PATIENCE:
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


def _wait_pidfd(handle: int, timeout_s: float) -> bool:
    return bool(select.select([handle], [], [], timeout_s)[0])
