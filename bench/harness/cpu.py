"""CPU and memory of processes, as /proc tells them."""

from __future__ import annotations

from pathlib import Path

import psutil


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, its descendants, and those of them that ended and were reaped.

    A child that ends moves its time to its parent's, so the difference of two readings misses
    nothing of a tree whose parents wait for their children.
    """
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_rss_mb(pid: int) -> float:
    """Highest resident memory of a process so far, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)
