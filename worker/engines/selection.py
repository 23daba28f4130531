"""Which of a task's files an engine analyses, and how their names are handed over and shown."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from core.domain.languages import HEAD_BYTES, language_of, needs_head
from worker.engines.base import EngineTask

#: Bytes of file names in one command line: far below the kernel's 128 KiB an argument and 2 MiB
#: a command line, whatever the environment adds.
MAX_ARGV_BYTES = 96 * 1024


def files_in(task: EngineTask, languages: Collection[str]) -> list[str]:
    """Return the files of *task* written in one of *languages*, in the task's order."""
    return [path for path in task.files if _language(task.source, path) in languages]


def batches(paths: Sequence[str]) -> Iterator[list[str]]:
    """Cut *paths* into lists that fit a command line, each name as `./name`.

    With `./` in front no name is taken for an option.
    """
    batch: list[str] = []
    size = 0
    for path in paths:
        name = f"./{path}"
        cost = len(os.fsencode(name)) + 1
        if batch and size + cost > MAX_ARGV_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += cost
    if batch:
        yield batch


def _language(source: Path, path: str) -> str | None:
    if not needs_head(path):
        return language_of(path)
    return language_of(path, _head(source / path))


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; b"" for one that cannot be read or is none."""
    try:
        # NONBLOCK and NOFOLLOW: the tree was written by others; a pipe must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, HEAD_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
