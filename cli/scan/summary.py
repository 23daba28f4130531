"""What came of a scan, as one document: printed for people, or as JSON for scripts.

Findings are read from the tasks' result documents; everything else is the job's detail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cli.client import Client
from cli.exits import Exit, exit_of_result
from cli.output import say
from cli.scan.display import files_words
from cli.scan.following import CLOSED, STATE_WORDS, JobRef
from cli.scan.waiting import why_waiting
from cli.text import number, plural, printable, span
from core.domain.codes import ResultCode, english

SEVERITIES = ("error", "warning", "info")
#: Findings listed after a scan; the rest are in the results.
FIRST_FINDINGS = 10
_RANK = {severity: rank for rank, severity in enumerate(SEVERITIES)}
_FULL_BECAUSE = {
    "requested": "as asked for",
    "no_base": "nothing to compare with yet",
    "history_rewritten": "the last scanned commit is no longer part of the branch",
    "base_unreachable": "the last scanned commit is no longer in the repository",
    "engine_changed": "the engines differ from those of the last scan",
    "config_changed": "the configuration differs from that of the last scan",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """A job, with the first of its findings."""

    job: JobRef
    server: str
    detail: dict[str, Any]
    #: The worst first.
    findings: list[dict[str, Any]] = field(default_factory=list)
    #: How to see all findings.
    more_with: str = ""
    #: What a job that has not started waits for.
    waiting: str | None = None

    @property
    def exit(self) -> Exit:
        """What the command ends with."""
        return exit_of_result(self.detail["result_code"])

    def document(self) -> dict[str, Any]:
        """Return the document for scripts; what it holds is documented in docs/cli.md."""
        detail = self.detail
        return {
            "server": self.server,
            "project": str(self.job.project),
            "job_id": self.job.job_id,
            "scan_id": self.job.scan_id,
            "state": detail["state"],
            "result_code": detail["result_code"],
            "result_code_msg": detail["result_code_msg"],
            "result_msg": detail["result_msg"],
            "is_incremental": detail["scan_type"] == 1,
            "full_reason": detail["full_reason"],
            "revision": detail["revision"],
            "base_revision": detail["base_revision"],
            "lines": {
                name: detail[f"{name}_line_num"] for name in ("code", "comment", "blank", "total")
            },
            "findings": {
                "total": sum(detail["findings"].values()),
                "by_engine": {task["task_name"]: task["findings"] for task in detail["tasks"]},
                "first": self.findings,
            },
            "tasks": detail["tasks"],
            "waiting_time": detail["waiting_time"],
            "execute_time": detail["execute_time"],
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines for people."""
        detail = self.detail
        yield f"job {self.job.job_id}, scan {self.job.scan_id} of project {self.job.project}"
        yield f"  result     {_result(detail)}"
        if self.waiting:
            yield f"  waiting    {self.waiting}"
        if detail["revision"]:
            yield f"  revision   {detail['revision'][:12]}, {_scope(detail)}"
        if detail["execute_time"] is not None:
            waited, took = float(detail["waiting_time"]), float(detail["execute_time"])
            yield f"  time       {span(took)}, after {span(waited)} of waiting"
        yield f"  lines      {_lines(detail)}"
        for task in detail["tasks"]:
            yield f"  {printable(task['task_name'], longest=32):<9}  {_task(task)}"
        if self.findings:
            yield ""
            yield from (finding_line(one) for one in self.findings)
            more = sum(detail["findings"].values()) - len(self.findings)
            if more > 0:
                yield f"… and {number(more)} more ({self.more_with})"

    def print(self) -> None:
        """Print it for people."""
        for line in self.lines():
            say(line)


async def summarise(
    client: Client,
    job: JobRef,
    detail: dict[str, Any],
    *,
    most_findings: int = FIRST_FINDINGS,
    server_stays: bool = True,
) -> Summary:
    """Return how a job stands, and the first of its findings."""
    found = await findings_of(client, detail) if sum(detail["findings"].values()) else []
    more_with = f"kennel jobs findings {job.job_id}" if server_stays else "--findings N shows them"
    waiting = await why_waiting(client, detail)
    return Summary(job, client.server, detail, found[:most_findings], more_with, waiting)


async def findings_of(client: Client, detail: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the findings of all tasks, the worst first, then by place."""
    found: list[dict[str, Any]] = []
    for task in detail["tasks"]:
        if not task["result_path"] or not sum(task["findings"].values()):
            continue
        content = await client.content(task["result_path"])
        report = json.loads(content) if content else {}
        found += [{"engine": task["task_name"], **one} for one in report.get("findings", [])]
    return sorted(found, key=_order)


def _order(finding: dict[str, Any]) -> tuple[int, str, int, int]:
    rank = _RANK.get(finding["severity"], len(_RANK))
    return rank, finding["path"], finding["line"], finding["column"]


def _result(detail: dict[str, Any]) -> str:
    code = detail["result_code"]
    if code is None:
        return f"none yet: {STATE_WORDS[detail['state']]}"
    meaning = english(code)
    message = printable(detail["result_msg"], longest=500)
    text = f"{code} {meaning}"
    # Of these two the message says no more than the code does.
    is_told = code in (ResultCode.SUCCESS, ResultCode.NOTHING_CHANGED) or message == meaning
    return text if is_told else f"{text}: {message}"


def _scope(detail: dict[str, Any]) -> str:
    if detail["scan_type"] == 1:
        base = (detail["base_revision"] or "")[:12]
        return f"incremental since {base}" if base else "incremental"
    reason = detail["full_reason"]
    return f"full: {_FULL_BECAUSE.get(reason, printable(reason))}" if reason else "full"


def _lines(detail: dict[str, Any]) -> str:
    if detail["total_line_num"] is None:
        return "not counted"
    return (
        f"{number(detail['total_line_num'])} in all: {number(detail['code_line_num'])} code, "
        f"{number(detail['comment_line_num'])} comment, {number(detail['blank_line_num'])} blank"
    )


def _task(task: dict[str, Any]) -> str:
    coverage = task.get("coverage")
    parts = [] if task["state"] == CLOSED else [STATE_WORDS.get(task["state"], "?")]
    if task["result_code"]:
        meaning = english(task["result_code"])
        parts.append(
            f"{task['result_code']} {meaning}: {printable(task['result_msg'], longest=300)}"
        )
    if coverage:
        parts.append(files_words(coverage))
    if task["module"] == "codelint" and task["result_code"] == 0:
        parts.append(_counts(task["findings"]))
    return "; ".join(parts) or "done"


def _counts(findings: dict[str, int]) -> str:
    total = sum(findings.values())
    if not total:
        return "no findings"
    named = [f"{number(findings[name])} {name}" for name in SEVERITIES if findings.get(name)]
    return f"{plural(total, 'finding')}: {', '.join(named)}"


def finding_line(one: dict[str, Any]) -> str:
    """Return a finding on one line, as compilers print theirs."""
    place = printable(f"{one['path']}:{one['line']}", longest=200)
    rule, message = printable(one["rule"], longest=64), printable(one["message"], longest=300)
    return f"{place}: {one['severity']} {rule} {message} [{printable(one['engine'])}]"
