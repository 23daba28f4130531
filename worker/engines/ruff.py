"""ruff as an engine: Python lint, one file at a time, fast.

It never reads the repository's configuration unless the task allows it. Each batch of files is
two commands: one asks ruff which of the named files it would read, so that none is dropped
unseen, the other checks them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.domain import engines
from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, Finding
from worker.engines import outputs
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict
from worker.engines.outputs import Severity, UnreadableReport
from worker.engines.selection import batches, files_in

_RULE = re.compile(r"[A-Z]+[0-9]*")
_TARGET_VERSION = re.compile(r"py3[0-9]{1,2}")
_MAX_RULES = 1000

_IO_ERROR = "E902"
#: Exit status of a check that ran: no findings, findings.
_RAN = (0, 1)
#: ruff calls everything `error`; the rule's linter decides, beside syntax errors (`E9…`).
_SEVERITY_OF_LINTER: dict[str, Severity] = {
    "F": "error",
    "PLE": "error",
    "W": "warning",
    "ASYNC": "warning",
    "B": "warning",
    "BLE": "warning",
    "LOG": "warning",
    "PLW": "warning",
    "RUF": "warning",
    "S": "warning",
}


@dataclass(slots=True)
class _Batch:
    """What the commands of a batch said."""

    listed: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class RuffEngine:
    """Lints Python with ruff."""

    name = engines.RUFF.name
    module = engines.RUFF.module
    languages: Sequence[str] = engines.RUFF.languages

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary or _find_binary()

    def probe(self) -> Probe:
        if self._binary is None:
            return Probe(is_usable=False, problem="ruff is not installed; install kennel[engines]")
        try:
            ran = subprocess.run(
                [self._binary, "--version"], capture_output=True, timeout=30, check=False, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Probe(is_usable=False, problem=f"ruff does not start: {error}")
        words = ran.stdout.decode("utf-8", "replace").split()
        if ran.returncode or len(words) < 2 or words[0] != "ruff":
            return Probe(is_usable=False, problem=f"{self._binary} --version did not name ruff")
        return Probe(is_usable=True, version=words[1])

    def readable_paths(self) -> Sequence[Path]:
        return [Path(self._binary).resolve().parent] if self._binary else []

    def plan(self, task: EngineTask) -> Sequence[Command]:
        options = [*_mode_options(task), *_config_options(task.config), *_rule_options(task)]
        common = [self._binary or "ruff", "check", "--no-cache", "--no-fix", *options]
        commands = []
        for number, names in enumerate(batches(files_in(task, self.languages))):
            report = str(task.out / _report_name(number))
            check = [*common, "--quiet", "--output-format=json", f"--output-file={report}"]
            commands.append(
                Command([*common, "--show-files", "--", *names], stdout=_listing_name(number))
            )
            commands.append(Command([*check, "--", *names]))
        return commands

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        planned = files_in(task, self.languages)
        names = list(batches(planned))
        if not names:
            return Verdict(reason=None)
        failure = outputs.first_failure(self.name, ended, planned=2 * len(names))
        if failure is not None:
            return failure
        for number, command in enumerate(ended):
            if command.exit_code not in (_RAN if number % 2 else (0,)):
                return _refused(task, command.exit_code)
        try:
            found = [_read_batch(task, number, batch) for number, batch in enumerate(names)]
        except UnreadableReport as error:
            return error.verdict()
        return _verdict(task, planned, found)


def _find_binary() -> str | None:
    beside_python = Path(sysconfig.get_path("scripts"), "ruff")
    return str(beside_python) if beside_python.is_file() else shutil.which("ruff")


def _listing_name(number: int) -> str:
    return f"ruff-{number}.files"


def _report_name(number: int) -> str:
    return f"ruff-{number}.json"


def _mode_options(task: EngineTask) -> list[str]:
    if task.allow_repo_config:
        # The repository's excludes are a part of its configuration: they hold.
        return ["--force-exclude"]
    return ["--isolated", "--no-force-exclude", "--no-respect-gitignore"]


def _config_options(config: dict[str, Any]) -> list[str]:
    options: list[str] = []
    for key, value in config.items():
        option = _CONFIG.get(key)
        if option is None:
            raise InvalidField("config", f"has the key {key!r}, which ruff does not take")
        options += option(f"config.{key}", value)
    return options


def _line_length(where: str, value: object) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 320:
        raise InvalidField(where, "must be an integer from 1 to 320")
    return ["--config", f"line-length={value}"]


def _target_version(where: str, value: object) -> list[str]:
    if not isinstance(value, str) or not _TARGET_VERSION.fullmatch(value):
        raise InvalidField(where, "must look like 'py311'")
    return [f"--target-version={value}"]


def _preview(where: str, value: object) -> list[str]:
    if not isinstance(value, bool):
        raise InvalidField(where, "must be true or false")
    return ["--preview" if value else "--no-preview"]


def _extend_select(where: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise InvalidField(where, "must be a list of rules")
    return [f"--extend-select={_rules(where, value)}"] if value else []


#: The keys of `config` and the options each becomes.
_CONFIG: dict[str, Callable[[str, object], list[str]]] = {
    "line_length": _line_length,
    "target_version": _target_version,
    "preview": _preview,
    "extend_select": _extend_select,
}


def _rule_options(task: EngineTask) -> list[str]:
    # A file that cannot be read is reported as the finding E902, and silently passed over when
    # that rule is off: it is always on, or the coverage would lie.
    options = [f"--extend-select={_IO_ERROR}"]
    if task.rules_include:
        options.append(f"--select={_rules('rules_include', task.rules_include)}")
    excluded = [rule for rule in task.rules_exclude if rule != _IO_ERROR]
    if excluded:
        options.append(f"--ignore={_rules('rules_exclude', excluded)}")
    return options


def _rules(where: str, rules: Sequence[object]) -> str:
    if len(rules) > _MAX_RULES:
        raise InvalidField(where, f"names more than {_MAX_RULES} rules")
    for rule in rules:
        if not isinstance(rule, str) or not _RULE.fullmatch(rule):
            raise InvalidField(where, f"has {rule!r}: a rule looks like 'F', 'E5' or 'F401'")
    return ",".join(map(str, rules))


def _refused(task: EngineTask, exit_code: int | None) -> Verdict:
    """Judge exit status 2 (or a panic's 101): nothing was checked."""
    if exit_code == 2 and (task.rules_include or task.rules_exclude or task.config):
        return Verdict(
            reason=Reason.PARAMETERS_REFUSED,
            message="ruff refused the rules or the configuration of the scheme; the log says which",
        )
    if exit_code == 2 and task.allow_repo_config:
        return Verdict(
            reason=Reason.CONFIG_REFUSED,
            message="ruff refused the repository's configuration; the log says why",
        )
    return Verdict(
        reason=Reason.ENGINE_FAILED,
        message=f"ruff failed with exit status {exit_code}; see the log",
    )


def _read_batch(task: EngineTask, number: int, names: Sequence[str]) -> _Batch:
    batch = _Batch(b"\n" + outputs.read_bytes(task.out / _listing_name(number)))
    # ruff prints names that are not UTF-8 with replacement characters: told apart by what it
    # would print for each of ours.
    by_printed = {_printed(task, name): name.removeprefix("./") for name in names}
    report = outputs.read_json(task.out / _report_name(number))
    try:
        for entry in report:
            path = by_printed.get(entry["filename"])
            if path is None:
                continue
            rule = entry["code"] or entry["name"]
            if rule == _IO_ERROR:
                batch.failed[path] = str(entry["message"])
            else:
                batch.findings.append(
                    outputs.finding(
                        path,
                        entry["location"]["row"],
                        entry["location"]["column"],
                        str(rule),
                        _severity(str(rule)),
                        str(entry["message"]),
                    )
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {_report_name(number)} is not of the expected form"
        ) from error
    return batch


def _printed(task: EngineTask, name: str) -> str:
    path = task.source.resolve() / name.removeprefix("./")
    return os.fsencode(path).decode("utf-8", "replace")


def _severity(rule: str) -> Severity:
    if rule == "invalid-syntax" or rule.startswith("E9"):
        return "error"
    return _SEVERITY_OF_LINTER.get(rule.rstrip("0123456789"), "info")


def _verdict(task: EngineTask, planned: Sequence[str], found: Sequence[_Batch]) -> Verdict:
    failed = {path: why for batch in found for path, why in batch.failed.items()}
    listed = b"".join(batch.listed for batch in found)
    lines = set(listed.split(b"\n"))
    skipped = 0
    for path in planned:
        printed = _printed(task, path).encode()
        if path in failed or printed in lines or (b"\n" in printed and printed in listed):
            continue
        if task.allow_repo_config:
            skipped += 1
        else:
            failed[path] = "ruff did not read this file"
    kept = outputs.keep([one for batch in found for one in batch.findings])
    coverage = Coverage(
        planned=len(planned),
        analysed=len(planned) - skipped - len(failed),
        skipped=skipped,
        failed=len(failed),
    )
    notes = (outputs.coverage_note(coverage.failed, coverage.planned), kept.note)
    return Verdict(
        reason=Reason.NO_COVERAGE if failed and not coverage.analysed else None,
        message="; ".join(note for note in notes if note),
        coverage=coverage,
        failures=outputs.failures(failed),
        findings=kept.findings,
    )
