"""Run an engine's command contained: clean environment, limits, isolation level, lease.

Owns how a command is wrapped and the handle of a running one. The process tree itself is the
supervisor's (`worker.supervisor`), a process of its own, so that a daemon that is killed or
stopped leaves nothing running. Paths are the same inside and outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from core.domain.errors import SettingError
from core.domain.outcomes import Reason
from core.domain.states import Isolation
from core.protocol.messages import TaskLimits
from worker import tree
from worker.bubblewrap import bubblewrap_problem, wrap
from worker.engines.base import Command, Ended
from worker.supervisors import Forked, Supervisors

_PATH = "/usr/local/bin:/usr/bin:/bin"
#: Kept free for what an engine itself opens; its scratch lies here.
SCRATCH = ".scratch"
_MAX_GRACE_S = 30.0
_MAX_PROCESSES = 512
_MAX_OPEN_FILES = 4096
#: How long a supervisor may take beyond its command's own limits before it is killed itself.
_SUPERVISOR_SLACK_S = 15.0
_RESULT_BYTES = 64 << 10
_SPEC = "spec.json"


class Cause(StrEnum):
    """What ended a run."""

    EXIT = "exit"
    WALL = "wall"
    IDLE = "idle"
    CPU = "cpu"
    MEMORY = "memory"
    OUTPUT = "output"
    PROCESSES = "processes"
    CANCELLED = "cancelled"
    #: The lease ended, or the daemon was gone.
    LEASE = "lease"
    #: The supervisor itself died or hung: the worker's fault (`Reason.WORKER_ERROR`).
    SUPERVISOR_LOST = "supervisor_lost"


_LIMIT_OF_CAUSE = {
    Cause.WALL: Reason.ENGINE_TIMEOUT,
    Cause.CPU: Reason.ENGINE_TIMEOUT,
    Cause.IDLE: Reason.ENGINE_SILENT,
    Cause.MEMORY: Reason.OUT_OF_MEMORY,
    Cause.PROCESSES: Reason.OUT_OF_MEMORY,
    Cause.OUTPUT: Reason.OUTPUT_LIMIT,
}


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended and what it used."""

    ended: Ended
    cause: Cause
    #: One clause on what ended it; "" when it ended by itself.
    detail: str = ""
    max_rss_bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands of one attempt run. All paths are absolute."""

    #: Read-only tree, current directory of the command.
    source: Path
    #: The only writable folder; must exist.
    out: Path
    #: Log, appended to by each command; outside `out`.
    log: Path
    #: The worker's own folder for what passes between it and the supervisor; outside `out`.
    control: Path
    #: Tags every process of the attempt: `KENNEL_TASK=<tag>`.
    tag: str
    #: Folders outside the source that the engine must read (`Engine.readable_paths()`).
    readable: Sequence[Path] = ()


def detect(preference: Literal["auto", "group", "bwrap"] = "auto") -> Isolation:
    """Return the strongest level that works here, found by trying it. Blocks up to 10 s.

    Raises:
        SettingError: `bwrap` is demanded and does not work; the message says why.
    """
    if preference == "group":
        return Isolation.GROUP
    problem = bubblewrap_problem()
    if not problem:
        return Isolation.BWRAP
    if preference == "bwrap":
        raise SettingError(f"isolation level bwrap does not work here: {problem}")
    return Isolation.GROUP


def streamable_bytes(log: Path, limits: TaskLimits) -> int:
    """Return how many bytes of a log never change, while commands may still write to it.

    When a command ends, a log longer than `output_bytes` is cut to its head ¾ and tail ¼ around
    a marker. Stream up to this offset while the attempt runs, the rest once all has ended.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return 0
    return min(size, limits.output_bytes * 3 // 4)


class Sandbox:
    """Starts commands at one isolation level."""

    def __init__(self, level: Isolation, supervisors: Supervisors) -> None:
        self.level = level
        self._supervisors = supervisors

    async def start(
        self, command: Command, place: Place, limits: TaskLimits, *, lease_s: float
    ) -> SupervisedRun:
        """Start a command under a supervisor; it dies in `lease_s` unless the lease is extended.

        A command that cannot be started ends with exit code 127 and a line in the log.
        """
        lease_ends = time.clock_gettime(time.CLOCK_BOOTTIME) + lease_s
        spec = await asyncio.to_thread(self._lay_out, command, place, limits, lease_ends)
        supervisor = await self._supervisors.start()
        supervisor.hand_over(place.control / _SPEC)
        return SupervisedRun(supervisor, command, place, spec)

    async def run(
        self, command: Command, place: Place, limits: TaskLimits, *, lease_s: float
    ) -> RunResult:
        """Start a command and wait for its end, without extending the lease."""
        return await (await self.start(command, place, limits, lease_s=lease_s)).wait()

    def _lay_out(
        self, command: Command, place: Place, limits: TaskLimits, lease_ends: float
    ) -> dict[str, Any]:
        """Write the command's inputs and the supervisor's spec."""
        scratch = place.out / SCRATCH
        if scratch.is_symlink() or not scratch.is_dir():
            tree.remove_tree(scratch)
        scratch.mkdir(mode=0o700, exist_ok=True)
        for name, content in command.inputs.items():
            tree.write_fresh(_below(place.out, name), content)
        for output in (command.stdout, command.progress):
            if output is not None:
                tree.write_fresh(_below(place.out, output), b"")
        spec = _spec(self._wrapped(command, place), command, place, limits)
        spec |= {"lease_ends": lease_ends, "is_wrapped": self.level is Isolation.BWRAP}
        Path(spec["result"]).unlink(missing_ok=True)
        tree.write_fresh(place.control / _SPEC, json.dumps(spec).encode())
        return spec

    def _wrapped(self, command: Command, place: Place) -> list[str]:
        if self.level is Isolation.GROUP:
            return list(command.argv)
        return wrap(
            command.argv,
            env=_environment(command, place),
            source=place.source,
            out=place.out,
            readable=place.readable,
        )


class SupervisedRun:
    """One running command. Somebody must `wait()`: that also lets go of the pipe."""

    def __init__(
        self, supervisor: Forked, command: Command, place: Place, spec: dict[str, Any]
    ) -> None:
        self._supervisor = supervisor
        self._place = place
        self._spec = spec
        self._progress = None if command.progress is None else place.out / command.progress
        self._progress_offset = 0
        self._progress_lines = 0
        loop = asyncio.get_running_loop()
        budget = spec["wall_s"] + spec["grace_s"] + _SUPERVISOR_SLACK_S
        self._deadline = loop.time() + budget
        self._timeout: asyncio.Timeout | None = None

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self._supervisor.pid

    def extend_lease(self, seconds: float) -> None:
        """Let the tree live that long from now on; never shortens. Never blocks or raises."""
        ends = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        self._supervisor.order(f"lease {ends:.3f}")

    def cancel(self, mode: Literal["graceful", "abort"]) -> None:
        """End the tree: TERM, the command's grace, KILL; with `abort` KILL at once.

        Never blocks or raises; `wait()` tells when nothing is left. Abort after graceful is fine.
        """
        self._supervisor.order(f"cancel {mode}")
        grace_s = self._spec["grace_s"] if mode == "graceful" else 0.0
        self._must_end_within(grace_s + _SUPERVISOR_SLACK_S)

    def progress(self) -> int:
        """Return how many lines the progress file has. Reads what is new, 1 MiB at most."""
        if self._progress is None:
            return 0
        file = tree.open_regular(self._progress)
        if file is not None:
            with file:
                file.seek(self._progress_offset)
                chunk = file.read(1 << 20)
            self._progress_offset += len(chunk)
            self._progress_lines += chunk.count(b"\n")
        return self._progress_lines

    async def wait(self) -> RunResult:
        """Wait until nothing of the tree is left. When cancelled, the tree is killed first."""
        is_lost = False
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                await self._supervisor.wait()
        except TimeoutError:
            is_lost = True
        except asyncio.CancelledError:
            self._supervisor.let_go()
            await self._reap()
            raise
        self._supervisor.let_go()
        if is_lost:
            await self._reap(within_s=0.0)
        return await asyncio.to_thread(self._collect)

    async def _reap(self, *, within_s: float = _SUPERVISOR_SLACK_S) -> None:
        """Wait for the supervisor, whose pipe is closed; kill it with its tree if it hangs."""
        try:
            async with asyncio.timeout(within_s):
                await self._supervisor.wait()
        except TimeoutError:
            self._supervisor.kill(self._place.tag)
            async with asyncio.timeout(_SUPERVISOR_SLACK_S):
                await self._supervisor.wait()

    def _must_end_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)
        if self._timeout is not None and not self._timeout.expired():
            with contextlib.suppress(RuntimeError):  # `wait` has returned already
                self._timeout.reschedule(self._deadline)

    def _collect(self) -> RunResult:
        content = tree.read_output(Path(self._spec["result"]), max_bytes=_RESULT_BYTES)
        if content is None:
            tree.sweep(self._place.tag)
            lost = Ended(exit_code=None, signal=9)
            return RunResult(lost, Cause.SUPERVISOR_LOST, "the supervisor died or hung")
        result = json.loads(content)
        cause = Cause(result["cause"])
        return RunResult(
            ended=Ended(result["exit_code"], result["signal"], _LIMIT_OF_CAUSE.get(cause)),
            cause=cause,
            detail=result["detail"],
            max_rss_bytes=result["max_rss_bytes"],
            cpu_s=result["cpu_s"],
            wall_s=result["wall_s"],
        )


def _spec(argv: list[str], command: Command, place: Place, limits: TaskLimits) -> dict[str, Any]:
    cpu_s = limits.wall_s * max(1, os.cpu_count() or 1)
    # The log is cut after each command, so that it must have room to grow beyond its bound.
    file_bytes = max(limits.file_bytes, 2 * limits.output_bytes)
    stdout = None if command.stdout is None else str(_below(place.out, command.stdout))
    progress = None if command.progress is None else str(_below(place.out, command.progress))
    return {
        "argv": argv,
        "env": _environment(command, place),
        "cwd": str(place.source),
        "log": str(place.log),
        "stdout": stdout,
        "out": str(place.out),
        "watched": [path for path in (str(place.log), stdout, progress) if path],
        "result": str(place.control / "result.json"),
        "errors": str(place.control / "supervisor.log"),
        "wall_s": limits.wall_s,
        "idle_s": limits.idle_s,
        "grace_s": min(command.grace_s, _MAX_GRACE_S),
        "cpu_s": cpu_s,
        "log_bytes": limits.output_bytes,
        "file_bytes": file_bytes,
        "disk_bytes": 4 * file_bytes,
        "memory_bytes": limits.memory_bytes,
        "processes": _MAX_PROCESSES,
        "rlimits": _rlimits(limits, cpu_s=cpu_s, file_bytes=file_bytes),
    }


def _rlimits(
    limits: TaskLimits, *, cpu_s: float, file_bytes: int
) -> list[tuple[int, tuple[int, int]]]:
    """Return what the kernel enforces on each process, with margins where the supervisor counts."""
    # Address space is not memory: engines reserve more than they use. The supervisor measures
    # what is used; this bounds what one process can ask for between two measurements.
    address_space = 2 * limits.memory_bytes + (1 << 30)
    cpu = max(1, math.ceil(cpu_s))
    pairs = [
        (resource.RLIMIT_FSIZE, (file_bytes, file_bytes)),
        (resource.RLIMIT_CPU, (cpu, cpu + 2)),
        (resource.RLIMIT_AS, (address_space, address_space)),
        (resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES)),
        (resource.RLIMIT_CORE, (0, 0)),
    ]
    if os.getuid() != 0:  # counts all processes of the user, and does not bind root
        pairs.append((resource.RLIMIT_NPROC, (8 * _MAX_PROCESSES, 8 * _MAX_PROCESSES)))
    return pairs


def _environment(command: Command, place: Place) -> dict[str, str]:
    """Return an environment built from nothing: none of the worker's own gets in."""
    scratch = str(place.out / SCRATCH)
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        **command.env,
        "HOME": scratch,
        "TMPDIR": scratch,
        "KENNEL_TASK": place.tag,
    }


def _below(folder: Path, name: str) -> Path:
    if name != Path(name).name or name in {"", ".", "..", SCRATCH} or "\0" in name:
        raise ValueError(f"an output's name must be a plain file name, got {name!r}")
    return folder / name
