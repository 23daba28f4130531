"""Files that are whole or absent whatever happens: written aside and renamed.

Forced to disk where they must outlast the host; without that they outlast the process.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put *content* at *path*, readable by us alone; a power cut may still take it."""
    _write(path, content, is_forced=False)


def write_durably(path: Path, content: bytes) -> None:
    """Put *content* at *path*, readable by us alone. Blocks until it is on disk."""
    _write(path, content, is_forced=True)
    sync_folder(path.parent)


def force(path: Path) -> None:
    """Force a file written whole to disk, and its name. Blocks.

    Raises:
        FileNotFoundError: it is gone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _write(path: Path, content: bytes, *, is_forced: bool) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(aside, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if is_forced:
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Force names made or removed in *folder* to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> Path:
    """Make *folder* and its parents; it is open to us alone, also when it existed before."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder
