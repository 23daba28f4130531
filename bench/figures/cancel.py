"""From a cancel to the death of the last process of the engine's tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence

import psutil

from bench.harness.context import Context, eventually
from bench.harness.results import Figure, at_most, percentile
from bench.harness.scans import Scanning, scanning

_GOAL = at_most(250)
#: A sleep nobody else sleeps, seconds: how the tree's processes are known from outside.
_MARK = "86413"
#: A tree: a child, a grandchild, and one in a session of its own; all deaf to TERM.
_SCRIPT = f"trap '' TERM; sleep {_MARK} & (setsid sleep {_MARK} &) ; (sleep {_MARK} & wait) & wait"
_SLEEPERS = 3


async def measure(context: Context) -> Sequence[Figure]:
    """Cancel one running scan after another."""
    async with scanning(context, "cancel", _SCRIPT) as scans:
        samples = [await _cancel_ms(scans) for _ in range(context.sizes.engine_runs)]
    return [
        Figure(
            "cancel_to_dead_p99",
            percentile(samples, 0.99),
            "ms",
            _GOAL,
            how="one api, scheduler and worker; a contained tree of shells and sleepers that ignore"
            " TERM, one in a session of its own; death as the kernel reports it",
            detail={f"p{p}": percentile(samples, p / 100) for p in (50, 90, 100)}
            | {"samples": len(samples)},
        )
    ]


async def _cancel_ms(scans: Scanning) -> float:
    job_id = await scans.create()

    async def whole_tree() -> list[int] | None:
        scans.crew.check()
        found = _tree()
        return list(found) if sum(found.values()) == _SLEEPERS else None

    pids = await eventually(whole_tree, within_s=30, what="the engine's tree is there")
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            handle = os.pidfd_open(pid)
            stack.callback(os.close, handle)
            handles.append(handle)
        deaths = asyncio.create_task(_all_dead(handles))
        await asyncio.sleep(0)
        begun = time.perf_counter()
        await scans.crew.post(scans.api, f"{scans.project}/jobs/{job_id}/cancel/", {"remarks": "b"})
        async with asyncio.timeout(30):
            died = await deaths
    if _tree():
        raise RuntimeError("the tree was dead and is not")
    await scans.closed(job_id)
    return (died - begun) * 1000


def _tree() -> dict[int, bool]:
    """Return the processes of the engine's tree: pid → whether it is one of the sleepers."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            argv = process.cmdline()
            if any(_MARK in part for part in argv):
                found[process.pid] = argv == ["sleep", _MARK]
    return found


async def _all_dead(handles: list[int]) -> float:
    """Wait for every process; return when the last one died."""
    loop = asyncio.get_running_loop()
    left, done = set(handles), asyncio.Event()

    def note(handle: int) -> None:
        loop.remove_reader(handle)
        left.discard(handle)
        if not left:
            done.set()

    for handle in handles:
        loop.add_reader(handle, note, handle)
    await done.wait()
    return time.perf_counter()
