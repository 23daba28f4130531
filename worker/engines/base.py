"""What an engine is to a worker: four questions, no process, no network, no state.

An engine never runs anything itself: it says which command to run (`plan`) and judges what the
command left behind (`judge`). Running, limiting and killing is `worker.sandbox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, FileFailure, Finding, LineCount


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an engine works on this host."""

    is_usable: bool
    #: Version as the engine prints it; "" when not usable.
    version: str = ""
    #: Why it is not usable, and what to do.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EngineTask:
    """What an engine is asked to do."""

    #: Read-only work tree: the engine's current directory.
    source: Path
    #: Writable scratch; outputs go here. The only writable place.
    out: Path
    #: Files to analyse, relative to `source`, sorted; symlinks and submodules are not among them.
    files: Sequence[str]
    #: Every file in the scan's scope; equal to `files` in a full scan.
    all_files: Sequence[str]
    config: dict[str, Any] = field(default_factory=dict)
    rules_include: Sequence[str] = ()
    rules_exclude: Sequence[str] = ()
    #: The repository's own configuration may be used, though it may run code.
    allow_repo_config: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One process to run, without a shell."""

    argv: Sequence[str]
    #: Exists beside our own: never the worker's environment.
    env: dict[str, str] = field(default_factory=dict)
    #: Written before the start, below `out`: name → content.
    inputs: dict[str, bytes] = field(default_factory=dict)
    #: File below `out` that gets standard output; None: it goes to the log with standard error.
    stdout: str | None = None
    #: File below `out` to which the process writes one line a finished file; None: no progress.
    progress: str | None = None
    #: Seconds between TERM and KILL.
    grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. A limit that killed it comes with its reason."""

    #: Exit status, None when killed by a signal.
    exit_code: int | None
    signal: int | None
    #: Set when a limit of ours ended it: ENGINE_TIMEOUT, ENGINE_SILENT, OUTPUT_LIMIT or
    #: OUT_OF_MEMORY.
    limit: Reason | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine's outputs say, whatever its exit status claims."""

    #: None: it worked. Findings are no failure.
    reason: Reason | None
    message: str = ""
    coverage: Coverage = field(default_factory=Coverage)
    failures: Sequence[FileFailure] = ()
    findings: Sequence[Finding] = ()
    lines: Sequence[LineCount] | None = None
    #: Name and version of a line counter.
    counter: str | None = None


class Engine(Protocol):
    """A wrapped tool."""

    @property
    def name(self) -> str:
        """Name on the wire: `pylint`."""
        ...

    @property
    def module(self) -> Literal["codelint", "codemetric"]:
        """Linters are `codelint`; `lines`, complexity and duplication are `codemetric`."""
        ...

    @property
    def languages(self) -> Sequence[str]:
        """Languages it analyses (`core.domain.languages`); empty: any."""
        ...

    def probe(self) -> Probe:
        """Tell whether the engine works here. Blocks up to 30 s; called in a thread, once."""
        ...

    def readable_paths(self) -> Sequence[Path]:
        """Return folders outside the source that its process must read (its installation)."""
        ...

    def plan(self, task: EngineTask) -> Sequence[Command]:
        """Return the commands to run, one after another; none when no file concerns it.

        Raises:
            core.domain.errors.InvalidField: config or rules cannot be used.
        """
        ...

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        """Judge what the commands left behind. Blocks; called in a thread.

        Never raises for what an engine or a repository produced: that is a verdict.
        """
        ...
