"""An engine for tests: runs the shell script that the scheme's `config` holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, Finding
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict


class ShellEngine:
    name = "shell"
    module: Literal["codelint"] = "codelint"
    languages: Sequence[str] = ()

    def __init__(self, *, problem: str = "") -> None:
        self._problem = problem

    def probe(self) -> Probe:
        return Probe(not self._problem, "1.0" if not self._problem else "", self._problem)

    def readable_paths(self) -> Sequence[Path]:
        return ()

    def plan(self, task: EngineTask) -> Sequence[Command]:
        scripts = task.config.get("scripts")
        if not isinstance(scripts, list):
            raise InvalidField("config", "must hold scripts")
        return [
            Command(
                argv=["/bin/sh", "-c", script],
                progress="progress",
                grace_s=task.config.get("grace_s", 1.0),
            )
            for script in scripts
        ]

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        if task.config.get("is_broken"):
            raise RuntimeError("a bug in the engine")
        planned = len(task.files)
        if any(one.exit_code != 0 for one in ended):
            return Verdict(Reason.ENGINE_FAILED, "a script failed", Coverage(planned=planned))
        finding = Finding(path=task.files[0], line=1, rule="R1", severity="warning", message="m")
        coverage = Coverage(planned=planned, analysed=planned)
        return Verdict(None, "", coverage, findings=[finding])
