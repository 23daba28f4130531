"""The line counter as an engine: code, comment and blank lines of the whole tree, by language.

It counts `all_files`, also in an incremental scan: a line count of the changed files alone says
nothing about a project. The counting itself is `lines_counter`, a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.domain import engines
from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, LineCount
from worker.engines import lines_counter, outputs
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict
from worker.engines.python_host import interpreter_paths

_FILES = "lines-files.json"
_RESULT = "lines.json"
_PROGRESS = "lines-progress"
_SCRIPT = Path(lines_counter.__file__).resolve()
_ROOT = _SCRIPT.parents[2]


class LinesEngine:
    """Counts lines."""

    name = engines.LINES.name
    module = engines.LINES.module
    languages: Sequence[str] = engines.LINES.languages

    def __init__(self, python: str = sys.executable) -> None:
        self._argv = [python, "-I", "-S", "-B", "-X", "utf8", str(_SCRIPT)]

    def probe(self) -> Probe:
        try:
            ran = subprocess.run(
                [*self._argv, "--version"], capture_output=True, timeout=30, check=False, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Probe(is_usable=False, problem=f"the line counter does not start: {error}")
        counter = ran.stdout.decode("utf-8", "replace").strip()
        if ran.returncode or counter != lines_counter.COUNTER:
            said = ran.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            return Probe(
                is_usable=False, problem=f"the line counter does not run: {' '.join(said)}"
            )
        return Probe(is_usable=True, version=counter.rpartition("/")[2])

    def readable_paths(self) -> Sequence[Path]:
        return [*interpreter_paths(), _ROOT / "core", _ROOT / "worker"]

    def plan(self, task: EngineTask) -> Sequence[Command]:
        if task.config:
            raise InvalidField("config", f"lines takes no key {min(task.config)!r}")
        if task.rules_include or task.rules_exclude:
            raise InvalidField("rules", "lines has no rules")
        if not task.all_files:
            return []
        arguments = [str(task.out / name) for name in (_FILES, _RESULT, _PROGRESS)]
        return [
            Command(
                argv=[*self._argv, *arguments],
                inputs={_FILES: json.dumps(list(task.all_files)).encode()},
                progress=_PROGRESS,
            )
        ]

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        if not task.all_files:
            return Verdict(reason=None, lines=[], counter=lines_counter.COUNTER)
        failure = outputs.first_failure(self.name, ended, planned=1)
        if failure is not None:
            return failure
        if ended[0].exit_code:
            return Verdict(
                reason=Reason.ENGINE_FAILED,
                message=f"lines failed with exit status {ended[0].exit_code}; see the log",
            )
        try:
            return _verdict(outputs.read_json(task.out / _RESULT), planned=len(task.all_files))
        except outputs.UnreadableReport as error:
            return error.verdict()


def _verdict(report: Any, *, planned: int) -> Verdict:
    try:
        lines = [
            LineCount(language=language, **counts)
            for language, counts in report["languages"].items()
        ]
        skipped = {str(why): int(files) for why, files in report["skipped"].items()}
        failed = {str(path): str(message) for path, message in report["failed"]}
        counter = str(report["counter"])
        coverage = Coverage(
            planned=planned,
            analysed=report["counted"],
            skipped=sum(skipped.values()),
            failed=len(failed),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise outputs.UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {_RESULT} is not of the expected form"
        ) from error
    if coverage.analysed + coverage.skipped + coverage.failed != planned:
        raise outputs.UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {_RESULT} does not account for all {planned} files"
        )
    is_empty_handed = coverage.failed > 0 and coverage.analysed == 0
    return Verdict(
        reason=Reason.NO_COVERAGE if is_empty_handed else None,
        message=_message(coverage, skipped),
        coverage=coverage,
        failures=outputs.failures(failed),
        # Never zeros for what could not be counted.
        lines=None if is_empty_handed else lines,
        counter=counter,
    )


def _message(coverage: Coverage, skipped: dict[str, int]) -> str:
    parts = [outputs.coverage_note(coverage.failed, coverage.planned)]
    parts += [f"{files} files skipped: {why}" for why, files in sorted(skipped.items())]
    return "; ".join(part for part in parts if part)
