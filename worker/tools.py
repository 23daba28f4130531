"""What every attempt of a worker works with: built once by the service, lent to each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.domain.clock import Clock
from core.protocol.messages import TaskLimits
from worker.checkout import MirrorCache
from worker.client import WorkerClient
from worker.engines.base import Engine
from worker.enrolment import Enrolment
from worker.reporting import Reporter
from worker.sandbox import Sandbox
from worker.spool import Spool


@dataclass(frozen=True, slots=True)
class OfferedEngine:
    """An engine that works on this host."""

    engine: Engine
    version: str


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts an attempt uses, and the bounds its host sets."""

    client: WorkerClient
    enrolment: Enrolment
    spool: Spool
    reporter: Reporter
    mirrors: MirrorCache
    sandbox: Sandbox
    engines: Mapping[str, OfferedEngine]
    #: Folder of the attempts' own folders.
    scratch: Path
    clock: Clock
    #: The worker's own bound; a task's lower one wins.
    memory_bytes: int
    allow_local_repos: bool

    def bound(self, limits: TaskLimits) -> TaskLimits:
        """Return a task's limits, lowered to what this host and the server have room for."""
        memory_bytes = limits.memory_bytes or self.memory_bytes
        return limits.model_copy(
            update={
                "memory_bytes": min(memory_bytes, self.memory_bytes),
                "output_bytes": min(limits.output_bytes, self.enrolment.limits.log_bytes),
            }
        )
