"""What engines left behind, read with bounds and made fit for the wire.

Reports are the work of a process that read hostile files: they may be missing, cut off, huge, of
any shape, and their texts may hold anything.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.domain.errors import KennelError
from core.domain.outcomes import Reason
from core.protocol.messages import FileFailure, Finding
from worker.engines.base import Ended, Verdict

#: A report beyond this is not read.
MAX_REPORT_BYTES = 128 * 1024 * 1024
#: Findings of one task; beyond, the gravest are kept.
MAX_FINDINGS = 100_000
#: Files that could not be analysed and are listed by name; all are counted.
MAX_FAILURES = 1_000

MAX_PATH = 4096
MAX_MESSAGE = 4000
MAX_FAILURE_MESSAGE = 1000
MAX_RULE = 200

Severity = Literal["error", "warning", "info"]
_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


class UnreadableReport(KennelError):
    """A report cannot be used; `reason` and the message go into the verdict."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def verdict(self) -> Verdict:
        return Verdict(reason=self.reason, message=str(self))


@dataclass(frozen=True, slots=True)
class Kept:
    """Findings within the bound, sorted by place, and what is to be said about the rest."""

    findings: list[Finding]
    note: str = ""


def read_json(path: Path, max_bytes: int = MAX_REPORT_BYTES) -> Any:
    """Return the JSON document at *path*.

    Raises:
        UnreadableReport: it is missing, empty, too large or no complete document.
    """
    content = read_bytes(path, max_bytes)
    if not content.strip():
        raise UnreadableReport(Reason.REPORT_UNREADABLE, f"report {path.name} is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {path.name} is no complete JSON document"
        ) from error


def read_bytes(path: Path, max_bytes: int = MAX_REPORT_BYTES) -> bytes:
    """Return the content of the regular file at *path*.

    Raises:
        UnreadableReport: it is missing, too large, a link, a pipe.
    """
    try:
        # The engine could put anything in a report's place: follow no link, wait at no pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as stream:
            is_file = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            content = stream.read(max_bytes + 1) if is_file else b""
    except OSError as error:
        raise UnreadableReport(
            Reason.REPORT_UNREADABLE, f"report {path.name} cannot be read: {error.strerror}"
        ) from error
    if len(content) > max_bytes:
        raise UnreadableReport(
            Reason.OUTPUT_LIMIT, f"report {path.name} is larger than {max_bytes} bytes"
        )
    return content


def first_failure(engine: str, ended: Sequence[Ended], *, planned: int) -> Verdict | None:
    """Judge how the commands ended, without their exit status: killed, limited, not run."""
    for command in ended:
        if command.limit is not None:
            return Verdict(reason=command.limit, message=f"{engine} was stopped: {command.limit}")
        if command.signal is not None or command.exit_code is None:
            return Verdict(
                reason=Reason.ENGINE_FAILED,
                message=f"{engine} was killed by signal {command.signal or 'unknown'}",
            )
    if len(ended) != planned:
        return Verdict(
            reason=Reason.ENGINE_FAILED,
            message=f"{engine}: {len(ended)} of {planned} commands ran",
        )
    return None


def clean(text: str, limit: int) -> str:
    r"""Return *text* as the wire takes it: no NUL, no lone surrogates, at most *limit* long.

    Bytes of a file name that are not UTF-8 become `\xff`.
    """
    if not text.isprintable():
        text = text.replace("\x00", "\\x00")
        try:
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def finding(
    path: str, line: object, column: object, rule: str, severity: Severity, message: str
) -> Finding:
    """Build a finding from what a report says; *column* counts from 1, 0 for the whole line."""
    return Finding(
        path=clean(path, MAX_PATH),
        line=_count(line),
        column=_count(column),
        rule=clean(rule, MAX_RULE),
        severity=severity,
        message=clean(message, MAX_MESSAGE),
    )


def failures(by_path: dict[str, str]) -> list[FileFailure]:
    """Return the files that could not be analysed, by name, bounded."""
    return [
        FileFailure(path=clean(path, MAX_PATH), message=clean(message, MAX_FAILURE_MESSAGE))
        for path, message in sorted(by_path.items())[:MAX_FAILURES]
    ]


def keep(findings: list[Finding]) -> Kept:
    """Sort findings by place; of too many keep the gravest and say so."""
    note = ""
    if len(findings) > MAX_FINDINGS:
        dropped = len(findings) - MAX_FINDINGS
        note = f"{dropped} findings beyond the first {MAX_FINDINGS} are not kept"
        findings = sorted(findings, key=lambda f: (_RANK[f.severity], *_place(f)))[:MAX_FINDINGS]
    return Kept(sorted(findings, key=_place), note)


def coverage_note(failed: int, planned: int) -> str:
    return f"{failed} of {planned} files could not be analysed" if failed else ""


def _place(found: Finding) -> tuple[str, int, int, str, str]:
    return (found.path, found.line, found.column, found.rule, found.message)


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= 2**53 else 0
