"""Places, limits and levels for tests that run real processes and count the living."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from core.domain.states import Isolation
from core.protocol.messages import TaskLimits
from worker.bubblewrap import bubblewrap_problem
from worker.engines.base import Command
from worker.sandbox import Place, Sandbox
from worker.supervisor import is_alive, tagged
from worker.supervisors import Supervisors
from worker.tree import sweep

_PROBLEM = bubblewrap_problem()


@pytest.fixture(
    params=[
        Isolation.GROUP,
        pytest.param(
            Isolation.BWRAP,
            marks=pytest.mark.skipif(bool(_PROBLEM), reason=f"bwrap does not work: {_PROBLEM}"),
        ),
    ],
    ids=str,
)
def level(request: pytest.FixtureRequest) -> Isolation:
    chosen: Isolation = request.param
    return chosen


@pytest.fixture
async def supervisors() -> AsyncIterator[Supervisors]:
    async with Supervisors() as opened:
        yield opened


@pytest.fixture
def sandbox(level: Isolation, supervisors: Supervisors) -> Sandbox:
    return Sandbox(level, supervisors)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("source", "out", "control"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "code.py").write_text("print('hello')\n")
    tag = f"test-{uuid4().hex}"
    yield Place(
        source=tmp_path / "source",
        out=tmp_path / "out",
        log=tmp_path / "log",
        control=tmp_path / "control",
        tag=tag,
    )
    leftovers = sweep(tag)
    assert leftovers == 0, "the test left processes behind"


def limits(**changes: Any) -> TaskLimits:
    values: dict[str, Any] = {
        "wall_s": 60.0,
        "idle_s": 60.0,
        "output_bytes": 1 << 20,
        "file_bytes": 8 << 20,
        "memory_bytes": 1 << 30,
    }
    return TaskLimits(**(values | changes))


def python(code: str, **changes: Any) -> Command:
    values: dict[str, Any] = {"argv": [sys.executable, "-c", code], "grace_s": 0.5}
    return Command(**(values | changes))


def shell(script: str, **changes: Any) -> Command:
    values: dict[str, Any] = {"argv": ["/bin/sh", "-c", script], "grace_s": 0.5}
    return Command(**(values | changes))


def living(tag: str) -> list[int]:
    """Processes of an attempt that run: zombies and those of others do not count."""
    return [pid for pid in tagged(tag) if is_alive(pid)]


async def until(condition: Callable[[], bool], *, within_s: float, what: str = "") -> float:
    """Wait for a condition; return how long it took."""
    started = time.monotonic()
    never = asyncio.Event()
    while not condition():
        elapsed = time.monotonic() - started
        assert elapsed < within_s, what or "the condition did not come true in time"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), 0.01)
    return time.monotonic() - started
