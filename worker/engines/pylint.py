"""pylint as an engine: Python lint of the given files as one program.

pylint runs through `pylint_driver`, which runs nothing of the scanned tree, with an empty
configuration file and options made here from the scheme. Its exit status is bit-coded: findings
are no failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.domain import engines
from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, Finding
from worker.engines import outputs
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict
from worker.engines.outputs import Severity, UnreadableReport
from worker.engines.python_host import interpreter_paths
from worker.engines.selection import files_in

_JOB = "pylint-job.json"
_RCFILE = "pylintrc"
_REPORT = "pylint.json"
_COVERAGE = "pylint-coverage.json"
_PROGRESS = "pylint-progress"
_SCRIPT = Path(__file__).resolve().with_name("pylint_driver.py")

_RULE = re.compile(r"[A-Z]|[A-Z][0-9]{4}|[a-z][a-z0-9-]{2,59}")
_PY_VERSION = re.compile(r"3\.[0-9]{1,2}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*(?:\.\*)?")
_EXTENSION = re.compile(r"[a-z][a-z_]{1,59}")
_MAX_LIST = 1000

#: Bits of pylint's exit status.
_FATAL = 1
_USAGE = 32
#: What pylint calls a message about its own options.
_OPTION_MESSAGES = frozenset({"unknown-option-value", "unrecognized-option", "bad-plugin-value"})
#: Rules that compare files with one another: true of the whole tree only.
_CROSS_FILE_RULES = ("cyclic-import", "duplicate-code")
#: Never off: without them a file that was not analysed would look clean.
_ALWAYS_ON = ("fatal", "astroid-error", "parse-error", "syntax-error")

_SEVERITIES: dict[str, Severity] = {
    "fatal": "error",
    "error": "error",
    "warning": "warning",
    "refactor": "info",
    "convention": "info",
    "info": "info",
}


class PylintEngine:
    """Lints Python with pylint."""

    name = engines.PYLINT.name
    module = engines.PYLINT.module
    languages: Sequence[str] = engines.PYLINT.languages

    def __init__(self, python: str = sys.executable) -> None:
        self._argv = [python, "-I", "-B", "-X", "utf8", str(_SCRIPT)]

    def probe(self) -> Probe:
        try:
            ran = subprocess.run(
                [*self._argv, "--version"], capture_output=True, timeout=30, check=False, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Probe(is_usable=False, problem=f"pylint does not start: {error}")
        try:
            version = str(json.loads(ran.stdout)["pylint"])
            major = int(version.partition(".")[0])
        except (ValueError, KeyError, TypeError):
            return Probe(
                is_usable=False, problem="pylint is not installed; install kennel[engines]"
            )
        if major < 4:
            return Probe(is_usable=False, problem=f"pylint {version} is too old; 4 is wanted")
        return Probe(is_usable=True, version=version)

    def readable_paths(self) -> Sequence[Path]:
        return [*interpreter_paths(), _SCRIPT.parents[1]]

    def plan(self, task: EngineTask) -> Sequence[Command]:
        options = _options(task)
        files = _files(task)
        if not files:
            return []
        job = {
            "files": files,
            "options": options,
            "rcfile": str(task.out / _RCFILE),
            "report": str(task.out / _REPORT),
            "coverage": str(task.out / _COVERAGE),
            "progress": str(task.out / _PROGRESS),
            "allow_repo_config": task.allow_repo_config,
        }
        home = str(task.out)
        return [
            Command(
                argv=[*self._argv, str(task.out / _JOB)],
                env={"HOME": home, "PYLINTHOME": home, "TMPDIR": home},
                inputs={_JOB: json.dumps(job).encode(), _RCFILE: b""},
                progress=_PROGRESS,
            )
        ]

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        files = _files(task)
        if not files:
            return Verdict(reason=None)
        failure = outputs.first_failure(self.name, ended, planned=1)
        if failure is not None:
            return failure
        status = ended[0].exit_code or 0
        if status & _USAGE or status > 63:
            return _refused(task, status)
        if status & _FATAL and not (task.out / _REPORT).exists():
            return Verdict(
                reason=Reason.ENGINE_FAILED, message="pylint crashed without a report; see the log"
            )
        try:
            report = outputs.read_json(task.out / _REPORT)
            coverage = outputs.read_json(task.out / _COVERAGE)
            return _verdict(task, files, report, coverage)
        except UnreadableReport as error:
            return error.verdict()


def _files(task: EngineTask) -> list[str]:
    """Stubs (`.pyi`) are left out: pylint judges them as programs, which they are not."""
    found = files_in(task, engines.PYLINT.languages)
    return [path for path in found if not path.lower().endswith(".pyi")]


def _options(task: EngineTask) -> list[str]:
    """Return the command line made from the scheme; every value in it was validated."""
    options = [_config_option(key, value) for key, value in task.config.items()]
    included = list(_rules("rules_include", task.rules_include))
    excluded = list(_rules("rules_exclude", task.rules_exclude))
    if len(task.files) != len(task.all_files):
        excluded += _CROSS_FILE_RULES
    # The later one wins: what is excluded stays off, and nothing hides a file's failure.
    if included:
        options += ["--disable=all", f"--enable={','.join(included)}"]
    if excluded:
        options.append(f"--disable={','.join(excluded)}")
    return [*options, f"--enable={','.join(_ALWAYS_ON)}"]


def _config_option(key: str, value: object) -> str:
    option = _CONFIG.get(key)
    if option is None:
        raise InvalidField("config", f"has the key {key!r}, which pylint does not take here")
    return f"--{_OPTION_OF.get(key, key.replace('_', '-'))}={option(f'config.{key}', value)}"


def _integer(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        raise InvalidField(where, "must be an integer from 0 to 1000000")
    return str(value)


def _py_version(where: str, value: object) -> str:
    if not isinstance(value, str) or not _PY_VERSION.fullmatch(value):
        raise InvalidField(where, "must look like '3.11'")
    return value


def _names(pattern: re.Pattern[str], prefix: str = "") -> Callable[[str, object], str]:
    def option(where: str, value: object) -> str:
        if not isinstance(value, list) or not 1 <= len(value) <= _MAX_LIST:
            raise InvalidField(where, f"must be a list of 1 to {_MAX_LIST} names")
        for name in value:
            if not isinstance(name, str) or not pattern.fullmatch(name):
                raise InvalidField(where, f"has {name!r}, which is no name")
        return ",".join(prefix + name for name in value)

    return option


#: The keys of `config` and how the value of each is written.
_CONFIG: dict[str, Callable[[str, object], str]] = {
    "extensions": _names(_EXTENSION, "pylint.extensions."),
    "ignored_modules": _names(_MODULE),
    "max_args": _integer,
    "max_attributes": _integer,
    "max_branches": _integer,
    "max_line_length": _integer,
    "max_locals": _integer,
    "max_module_lines": _integer,
    "max_returns": _integer,
    "max_statements": _integer,
    "min_similarity_lines": _integer,
    "py_version": _py_version,
}
_OPTION_OF = {"extensions": "load-plugins"}


def _rules(where: str, rules: Sequence[object]) -> Iterator[str]:
    if len(rules) > _MAX_LIST:
        raise InvalidField(where, f"names more than {_MAX_LIST} rules")
    for rule in rules:
        if not isinstance(rule, str) or not _RULE.fullmatch(rule):
            raise InvalidField(where, f"has {rule!r}: a rule looks like 'W0611' or 'unused-import'")
        yield rule


def _refused(task: EngineTask, status: int) -> Verdict:
    if status == _USAGE and task.allow_repo_config:
        return Verdict(
            reason=Reason.CONFIG_REFUSED,
            message="pylint refused the configuration; the log says why",
        )
    return Verdict(
        reason=Reason.ENGINE_FAILED,
        message=f"pylint failed with exit status {status}; see the log",
    )


def _verdict(task: EngineTask, files: Sequence[str], report: Any, covered: Any) -> Verdict:
    by_path = {str(task.source.resolve() / path): path for path in files} | {
        path: path for path in files
    }
    findings: list[Finding] = []
    try:
        analysed = {int(number) for number in covered["analysed"]}
        skipped = {int(number) for number in covered["skipped"]}
        failed = {files[int(number)]: str(why) for number, why in covered["failed"].items()}
        for message in report["messages"]:
            path = by_path.get(message["absolutePath"]) or by_path.get(message["path"])
            if path is None:
                is_ours = not task.allow_repo_config or message["module"] == "Command line"
                if is_ours and message["symbol"] in _OPTION_MESSAGES:
                    return Verdict(
                        reason=Reason.PARAMETERS_REFUSED,
                        message=outputs.clean(f"pylint: {message['message']}", 1000),
                    )
            elif message["type"] == "fatal":
                failed.setdefault(path, str(message["message"]))
            else:
                findings.append(_finding(path, message))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {_REPORT} is not of the expected form"
        ) from error
    for number, path in enumerate(files):
        if number not in analysed and number not in skipped:
            failed.setdefault(path, "pylint did not reach this file")
    return _judged(files, findings, failed, len(skipped - analysed))


def _judged(
    files: Sequence[str], findings: list[Finding], failed: dict[str, str], skipped: int
) -> Verdict:
    kept = outputs.keep(findings)
    coverage = Coverage(
        planned=len(files),
        analysed=max(len(files) - len(failed) - skipped, 0),
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


def _finding(path: str, message: dict[str, Any]) -> Finding:
    column = message["column"]
    return outputs.finding(
        path,
        message["line"],
        column + 1 if isinstance(column, int) else 0,
        str(message["symbol"]),
        _SEVERITIES.get(message["type"], "info"),
        str(message["message"]),
    )
