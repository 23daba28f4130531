"""A cheap engine that bears witness: its process itself writes down when it runs.

Each process appends its start and its end to one file that all workers share; a line is one
write in append mode, so the order of lines is the order of what happened, without any clock. It
also holds a lock of its task as long as anything of it lives: a second attempt that begins
meanwhile finds the lock taken and says so, even when the first one is killed and writes no end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from structlog.contextvars import get_contextvars

from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, Finding
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict

#: Engines a worker offers: that many tasks a job.
NAMES = tuple(f"witness-{letter}" for letter in "abcdefgh")
#: What a process that fails on purpose exits with.
FAILS = 3

_REPORT = "report"
# The time is CLOCK_BOOTTIME, in hundredths; nothing is started for it. The lock is inherited by
# whatever is started below, so that it lasts until the last process of the attempt has ended.
_SCRIPT = r"""
say() {
  read -r at _ </proc/uptime
  printf '{"at":%s,"kind":"%s","task":%s,"attempt":%s,"pid":%s,"host":"%s"}\n' \
    "$at" "$1" "$TASK" "$ATTEMPT" "$$" "$HOST" >>"$LOG"
}
exec 9>>"$LOCK"
if flock --nonblock 9; then say start; else say overlap; fi
sleep "$SPAN"
printf '%s' "$ATTEMPT" >"$REPORT"
say end
exit "$STATUS"
"""


@dataclass(frozen=True, slots=True)
class WitnessEngine:
    """One engine of the campaign; they differ by name only."""

    name: str
    #: Where all processes of all workers write.
    log: Path
    #: Folder of one lock a task.
    locks: Path
    #: The worker it runs at.
    host: str
    module: Literal["codelint"] = "codelint"
    languages: Sequence[str] = ()

    def probe(self) -> Probe:
        return Probe(is_usable=True, version="1.0")

    def readable_paths(self) -> Sequence[Path]:
        return ()

    def plan(self, task: EngineTask) -> Sequence[Command]:
        # The ids are not an engine's business; the log's context has them.
        context = get_contextvars()
        task_id, attempt_id = context["task_id"], context["attempt_id"]
        env = {
            "TASK": str(task_id),
            "ATTEMPT": str(attempt_id),
            "HOST": self.host,
            "LOG": str(self.log),
            "LOCK": str(self.locks / str(task_id)),
            "REPORT": str(task.out / _REPORT),
            "SPAN": span(attempt_id),
            "STATUS": str(FAILS if fails(task_id) else 0),
        }
        return [Command(argv=["/bin/sh", "-c", _SCRIPT], env=env, grace_s=0.5)]

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        planned = len(task.files)
        said = task.out / _REPORT
        attempt = said.read_text() if said.exists() else ""
        if ended[0].exit_code != 0 or not re.fullmatch(r"\d+", attempt):
            return Verdict(Reason.ENGINE_FAILED, "failed", Coverage(planned=planned))
        coverage = Coverage(planned=planned, analysed=planned)
        finding = Finding(
            path=task.files[0], line=1, rule="attempt", severity="info", message=attempt
        )
        return Verdict(None, "", coverage, findings=[finding])


def span(attempt_id: int) -> str:
    """Return how long an attempt's process works: moments; now and then longer than its lease."""
    match attempt_id % 32:
        case 0:
            return "6"
        case 16:
            return "1.5"
        case _:
            return f"0.0{attempt_id * 7 % 10}"


def fails(task_id: int) -> bool:
    """Tell whether the process of a task fails: a task that is not tried again."""
    return task_id % 211 == 0
