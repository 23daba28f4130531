"""Work trees and tasks for engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.engine_run import files_below
from worker.engines.base import EngineTask

Tree = Callable[[dict[str, str | bytes]], Path]
MakeTask = Callable[..., EngineTask]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write files into a work tree: name → content."""

    def write(files: dict[str, str | bytes]) -> Path:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        for name, content in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return source

    return write


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """Make a task over a work tree; `files` are all of its files unless said otherwise."""

    def make(source: Path, files: list[str] | None = None, **options: object) -> EngineTask:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        chosen = files_below(source) if files is None else files
        options.setdefault("all_files", chosen)
        return EngineTask(source=source, out=out, files=chosen, **options)  # type: ignore[arg-type]

    return make
