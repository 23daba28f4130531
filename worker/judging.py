"""From what commands left behind to a verdict and the document `result.json`.

The engine reads its own outputs; a limit of ours that ended a command outweighs what they say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.protocol.messages import EngineReport, TaskSpec
from worker.engines.base import Ended, EngineTask, Verdict
from worker.tools import OfferedEngine


def judge(
    offered: OfferedEngine, task: EngineTask, ended: Sequence[Ended], *, limit_text: str
) -> Verdict:
    """Return the verdict on an attempt; *limit_text* says which limit ended its last command."""
    verdict = offered.engine.judge(task, ended)
    limit = ended[-1].limit if ended else None
    if limit is None:
        return verdict
    # What was cut off explains whatever else is wrong with the outputs.
    message = f"{offered.engine.name} was stopped: {limit_text}"
    return dataclasses.replace(verdict, reason=limit, message=message)


def write_report(path: Path, verdict: Verdict, spec: TaskSpec, *, version: str) -> None:
    """Write `result.json`. Blocks."""
    report = EngineReport(
        engine=spec.engine,
        engine_version=version,
        revision=spec.source.revision,
        base_revision=spec.source.base_revision,
        coverage=verdict.coverage,
        failures=list(verdict.failures),
        findings=list(verdict.findings),
        lines=None if verdict.lines is None else list(verdict.lines),
        counter=verdict.counter,
    )
    path.write_bytes(report.model_dump_json().encode())


def counts(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict's numbers under the names they have in an `AttemptResult`."""
    return {
        "coverage": verdict.coverage,
        "findings": dict(Counter(finding.severity for finding in verdict.findings)),
        "lines": None if verdict.lines is None else list(verdict.lines),
    }
