"""Reading a secret from a file, and refusing one that others can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from core.domain.errors import SettingError

_LARGEST = 64 * 1024


def read_secret(path: Path, *, named_by: str, is_guarded: bool = False) -> str:
    """Return the text of *path* without the line end; *named_by* says who named it, for errors.

    Raises:
        SettingError: no file, too large, empty, no text, or (unless *is_guarded* by its folder)
            open to group or others.
    """
    try:
        # Non-blocking, so that a named pipe in its place is refused and not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SettingError(f"{named_by}: {path} must be a regular file")
            if not is_guarded and found.st_mode & 0o077:
                raise SettingError(
                    f"{named_by}: {path} is open to group or others; run chmod 600 {path}"
                )
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise SettingError(f"{named_by}: cannot read {path}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise SettingError(f"{named_by}: {path} is larger than {_LARGEST} bytes")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingError(f"{named_by}: {path} must hold UTF-8 text") from None
    if not text:
        raise SettingError(f"{named_by}: {path} is empty")
    return text
