"""Folders and processes of attempts: removing trees whatever their modes, sweeping leftovers.

Everything below is what an engine or a repository left behind: names, links and modes are theirs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.supervisor import descendants, is_alive, signal_all, tagged

_SWEEPS = 200


def remove_tree(path: Path) -> None:
    """Remove a folder with all below it, read-only folders too; a missing one is fine.

    Never follows a link. Blocks: call it in a thread.
    """

    def unlock(function: Callable[..., Any], name: str, _: Any) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(name).parent.chmod(0o700)
            if stat.S_ISDIR(os.lstat(name).st_mode):
                Path(name).chmod(0o700)
            if function in {os.open, os.scandir, os.listdir}:
                remove_tree(Path(name))
            else:
                function(name)

    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, onerror=unlock)


def make_read_only(path: Path) -> None:
    """Take the right to write from a folder and all below it. Blocks."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            file = Path(folder, name)
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode):
                file.chmod(stat.S_IMODE(mode) & ~0o222)
        Path(folder).chmod(0o555)


def read_output(path: Path, *, max_bytes: int) -> bytes | None:
    """Return what an engine wrote, None when there is no such regular file of that size.

    Neither follows a link nor waits at a pipe that an engine put in the file's place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            return None
        return file.read(max_bytes)


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
        signal_all(pids, signal.SIGKILL)
    return len(killed)


def kill_supervisor(pid: int, tag: str) -> None:
    """Kill a supervisor that does not answer, and its tree. Blocks for milliseconds."""
    tree = descendants(pid)
    signal_all([pid, *tree], signal.SIGKILL)
    sweep(tag)
