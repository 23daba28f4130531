"""Folders and processes of attempts: removing trees whatever their modes, sweeping leftovers.

Everything below is what an engine or a repository left behind: names, links and modes are theirs.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import IO

from worker.supervisor import carries, descendants, is_alive, parent_of, signal_all, tagged

_SWEEPS = 200
_COREUTIL_S = 600


def remove_tree(path: Path) -> None:
    """Remove a folder with all below it, read-only folders too; a missing one is fine.

    Never follows a link. Blocks: call it in a thread.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        # Read-only folders, or more levels than Python descends: these two manage both.
        _coreutil("chmod", "-R", "u+rwx", path)
        _coreutil("rm", "-rf", path)


def make_read_only(path: Path) -> None:
    """Take the right to write from a folder and all below it; links are left alone. Blocks."""
    pending = [str(path)]
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif not entry.is_symlink():
                    _take_write(entry.path)
        _take_write(folder)


def _take_write(path: str) -> None:
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    os.chmod(path, mode & ~0o222)  # noqa: PTH101 - no pathlib here: hot


def _coreutil(program: str, option: str, argument: str | Path, path: Path | None = None) -> None:
    words = [program, option, "--", *(str(each) for each in (argument, path) if each is not None)]
    done = subprocess.run(
        words,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_COREUTIL_S,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise OSError(f"{program} failed below {path or argument}: {said}")


def write_fresh(path: Path, content: bytes) -> None:
    """Write a file anew, whatever an earlier command left in its place."""
    remove_tree(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)


def open_regular(path: Path) -> IO[bytes] | None:
    """Open what an engine wrote, None when it is not a regular file.

    Neither follows a link nor waits at a pipe that an engine put in the file's place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def read_output(path: Path, *, max_bytes: int) -> bytes | None:
    """Return what an engine wrote, None when it is no regular file or a longer one."""
    file = open_regular(path)
    if file is None:
        return None
    with file:
        content = file.read(max_bytes + 1)
    return content if len(content) <= max_bytes else None


def sweep(tag: str) -> int:
    """Kill every process that carries the tag of an attempt, again until none is left.

    The last resort, where a supervisor was killed itself: a process that cleared its environment
    escapes it. Returns how many were killed. Blocks for milliseconds.
    """
    killed: set[int] = set()
    for _ in range(_SWEEPS):
        pids = [pid for pid in tagged(tag) if is_alive(pid)]
        if not pids:
            break
        killed.update(pids)
        signal_all(pids, signal.SIGKILL, is_ours=lambda pid: carries(pid, tag))
    return len(killed)


def kill_supervisor(handle: int, pid: int) -> None:
    """Kill a supervisor that does not answer, and its tree. Blocks for milliseconds.

    *handle* is its pidfd: as long as that takes a signal, *pid* is no other process's.
    """
    try:
        # Stopped, it neither starts more nor ends: the tree that is listed is its own.
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    except ProcessLookupError:
        return
    tree = descendants(pid)
    family = {pid, *tree}
    signal_all(tree, signal.SIGKILL, is_ours=lambda each: parent_of(each) in family)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
