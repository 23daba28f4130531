"""The embedded server's files: cluster, password, lock, and what a run leaves elsewhere.

Owns the folder `<data directory>/postgres` and makes it ready for a start; the process is
`core.store.embedded`'s. Everything here blocks and is called in a thread.

* Data directories often lie below folders the server's uid may not pass. Nobody's folder is
  opened for it: each program is started *inside* the cluster and told `-D /proc/self/cwd`, which
  the kernel follows without a walk from the root. (PostgreSQL 15 walks to its own program and
  needs the way open; the wheel's 18 does not.)
* A socket path holds 107 bytes and a data directory may be deeper. The socket lies in a private
  folder made for the run below /tmp; the file `runtime` names it for whoever cleans up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from core.runtime.logs import get_logger
from core.store import postgres_install
from core.store.postgres_install import EmbeddedPostgresError, Install

log = get_logger(__name__)

#: Name of the role, and of the database.
KENNEL = "kennel"

#: What the programs are told instead of the cluster's path.
HERE = "/proc/self/cwd"

#: How a server is told to stop, and how long each way is given: fast, at once, by force.
STOP_PATIENCE = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))

#: The kernel's limit for the path of a Unix socket, without the closing NUL.
_SOCKET_PATH_BYTES = 107
_SOCKET_BASES = ("/tmp", "/var/tmp", "/run")  # noqa: S108 - mkdtemp makes the folder inside
_INITDB_TIMEOUT_S = 300


class DataDirInUse(EmbeddedPostgresError):
    """Another process runs on the data directory; `pid` is it, when it can be told."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"the data directory {data_dir} is in use by {who}: stop it, "
            "or choose another with --data-dir"
        )
        self.pid = pid


class Cluster:
    """The files of one data directory, held by one process from `prepare` to `release`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool,
        bin_dir: Path | None,
        service_uid: int,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._home = self._data_dir / "postgres"
        #: PostgreSQL's own folder.
        self.path = self._home / "cluster"
        #: What the server says before its own log takes over.
        self.startup_log = self._home / "startup.log"
        self._durable = durable
        self._bin_dir = bin_dir
        self._service_uid = service_uid
        #: As whom the server runs; None as whoever we are.
        self.uid: int | None = None
        self.install: Install | None = None
        self.password = ""
        self.socket_dir: Path | None = None
        self._lock: IO[str] | None = None

    def prepare(self) -> None:
        """Make everything a server needs, once; stop what a killed process left."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._take_lock()
        self._stop_orphan()
        self._remove_runtime()
        self.uid = self._server_uid()
        self.install = postgres_install.find_install(
            self._bin_dir or postgres_install.wheel_bin_dir(), self.uid
        )
        self._record_runtime()
        self.password = self._read_password()
        if self.path.exists():
            self._check_major(self.install.major)
        else:
            self._make_cluster(self.install)
        self.socket_dir = _make_socket_dir(self.uid)
        self._record_runtime()

    def release(self) -> None:
        """Remove what the run left elsewhere, and let others in."""
        if self._lock is not None:
            self._remove_runtime()
            self._lock.close()
            self._lock = None

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
        owner = self.path.stat().st_uid if self.path.exists() else None
        if me == 0:
            return owner or self._service_uid
        if owner not in (None, me):
            raise EmbeddedPostgresError(
                f"{self.path} belongs to uid {owner}, this is uid {me}: start as root, "
                f"or give it away with `chown -R {me} {self.path}` while it is stopped"
            )
        return None

    def _read_password(self) -> str:
        file = self._home / "password"
        if file.exists():
            return file.read_text(encoding="ascii").strip()
        if self.path.exists():
            raise EmbeddedPostgresError(
                f"{file} is missing: without it nobody can log in to {self.path}; restore it"
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
        found = (self.path / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != str(major):
            raise EmbeddedPostgresError(
                f"{self.path} was made by PostgreSQL {found}, this is PostgreSQL {major}: "
                f"dump it with {found}'s pg_dump, move the folder away and restore the dump, "
                "or set KENNEL_DATABASE_URL to a server of that version"
            )

    def _make_cluster(self, install: Install) -> None:
        """Make the cluster beside its place and move it there whole."""
        draft = self._home / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        identity = postgres_install.initdb_identity(self.uid)
        _give(draft, identity.get("user"))
        with tempfile.NamedTemporaryFile("w", dir=_base_dir(self.uid)) as pwfile:
            pwfile.write(self.password)
            pwfile.flush()
            _give(Path(pwfile.name), identity.get("user"))
            done = subprocess.run(
                [
                    install.bin_dir / "initdb",
                    *("-D", HERE, "-U", KENNEL, f"--pwfile={pwfile.name}"),
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
        if self.uid is not None:
            for folder, _, files in os.walk(draft):
                _give(Path(folder), self.uid)
                for name in files:
                    _give(Path(folder) / name, self.uid)
        draft.rename(self.path)

    def _stop_orphan(self) -> None:
        """Stop the server a killed parent left; take over a pid file that names a stranger."""
        pid_file = self.path / "postmaster.pid"
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
                _take_over(pid_file)
                return
            log.warning("postgres.orphan_found", pid=pid)
            for number, patience_s in STOP_PATIENCE:
                signal.pidfd_send_signal(handle, number)
                if _wait_pidfd(handle, patience_s):
                    # Dead, but perhaps not reaped yet: for PostgreSQL it would still be there.
                    _take_over(pid_file)
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
        ours = self.path.stat()
        return name == "postgres" and (where.st_dev, where.st_ino) == (ours.st_dev, ours.st_ino)

    # -- what a run leaves outside the data directory ----------------------------------------

    def _record_runtime(self) -> None:
        """Name the folders of this run, so that whoever starts after a crash removes them."""
        copy = self.install.copy if self.install else None
        made = [str(folder) for folder in (self.socket_dir, copy) if folder]
        (self._home / "runtime").write_text("\n".join(made))

    def _remove_runtime(self) -> None:
        record = self._home / "runtime"
        if record.exists():
            for folder in record.read_text().splitlines():
                shutil.rmtree(folder, ignore_errors=True)
            record.unlink()
        self.socket_dir = self.install = None


def _take_over(pid_file: Path) -> None:
    """Put our own number into a pid file: PostgreSQL takes its parent's for a left-over.

    Not removed: by its other lines PostgreSQL makes sure that no process of the old server is
    still at the files.
    """
    with contextlib.suppress(FileNotFoundError), pid_file.open("r+", encoding="utf-8") as file:
        _, _, rest = file.read().partition("\n")
        file.seek(0)
        file.write(f"{os.getpid()}\n{rest}")
        file.truncate()


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


def _wait_pidfd(handle: int, timeout_s: float) -> bool:
    return bool(select.select([handle], [], [], timeout_s)[0])
