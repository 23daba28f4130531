"""What a campaign leaves to be judged: the logs of all that took part, and the database's books.

Plain values, read from the files of one folder, so that a folder that was kept can be judged
again. Judging is `tests.faults.rules`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

#: What is read of each table.
TABLES: Mapping[str, str] = {
    "jobs": "SELECT id, project_id, phase, is_forced, created_from, result_code, task_num, open_tasks"
    " FROM jobs ORDER BY id",
    "tasks": "SELECT id, job_id, kind FROM tasks ORDER BY id",
    "outcomes": "SELECT task_id, job_id, outcome, reason, result_code, attempt_id"
    " FROM task_outcomes ORDER BY task_id",
    "attempts": "SELECT task_id, attempt_id, worker_id, number, outcome, reason"
    " FROM task_attempts ORDER BY attempt_id",
    "leftovers": "SELECT task_id, 'ready' AS place FROM task_ready"
    " UNION ALL SELECT task_id, 'pending' FROM task_pending"
    " UNION ALL SELECT task_id, 'leases' FROM task_leases ORDER BY 1",
    "events": "SELECT id, kind, project_id, job_id, task_id, attempt_id FROM events ORDER BY id",
    "findings": "SELECT scan_id, task_id, message FROM findings ORDER BY task_id, position",
}


@dataclass(frozen=True, slots=True)
class Job:
    id: int
    project_id: int
    phase: str
    is_forced: bool
    #: The key of the create it came from.
    created_from: str
    result_code: int | None
    task_num: int
    open_tasks: int


@dataclass(frozen=True, slots=True)
class Task:
    id: int
    job_id: int
    kind: str


@dataclass(frozen=True, slots=True)
class Outcome:
    task_id: int
    job_id: int
    outcome: str
    reason: str | None
    result_code: int
    attempt_id: int | None


@dataclass(frozen=True, slots=True)
class Attempt:
    task_id: int
    attempt_id: int
    worker_id: int
    number: int
    outcome: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Leftover:
    task_id: int
    place: str


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    kind: str
    project_id: int | None
    job_id: int | None
    task_id: int | None
    attempt_id: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    scan_id: int
    task_id: int
    #: The attempt whose process made it.
    message: str


@dataclass(frozen=True, slots=True)
class EngineLine:
    """What the process of an engine wrote, in the order in which it happened."""

    kind: str
    task: int
    attempt: int
    at: float = 0.0
    pid: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a client that was answered."""

    call: str
    key: str
    status: int
    is_forced: bool = False
    job_id: int | None = None
    #: Given where the answer said that the job is closed.
    result_code: int | None = None
    at: float = 0.0
    body: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log of one life of a process."""

    process: str
    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Life:
    """Something that happened to a process as a whole."""

    process: str
    life: int
    event: str
    status: int | None = None
    at: float = 0.0
    log: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """All of it."""

    jobs: Sequence[Job] = ()
    tasks: Sequence[Task] = ()
    outcomes: Sequence[Outcome] = ()
    attempts: Sequence[Attempt] = ()
    leftovers: Sequence[Leftover] = ()
    events: Sequence[Event] = ()
    findings: Sequence[Finding] = ()
    engine: Sequence[EngineLine] = ()
    calls: Sequence[Call] = ()
    lines: Sequence[Line] = ()
    lives: Sequence[Life] = ()


Row = TypeVar("Row")


def read_history(folder: Path) -> History:
    """Read what a campaign left in *folder*."""
    tables = json.loads((folder / "tables.json").read_text())
    return History(
        jobs=_rows(Job, tables["jobs"]),
        tasks=_rows(Task, tables["tasks"]),
        outcomes=_rows(Outcome, tables["outcomes"]),
        attempts=_rows(Attempt, tables["attempts"]),
        leftovers=_rows(Leftover, tables["leftovers"]),
        events=_rows(Event, tables["events"]),
        findings=_rows(Finding, tables["findings"]),
        engine=_rows(EngineLine, _json_lines(folder / "engine.jsonl")),
        calls=_rows(Call, _json_lines(folder / "clients.jsonl")),
        lines=[line for path in _logs(folder) for line in _lines(path)],
        lives=_rows(Life, _json_lines(folder / "processes.jsonl")),
    )


def _rows(kind: type[Row], found: Sequence[Mapping[str, Any]]) -> list[Row]:
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # all are dataclasses
    return [kind(**{name: row[name] for name in names if name in row}) for row in found]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _logs(folder: Path) -> list[Path]:
    return sorted((folder / "logs").glob("*.jsonl"))


def _lines(path: Path) -> Iterator[Line]:
    """Read a log: the last line of a killed process may be cut, others may be no JSON at all."""
    for text in path.read_text(errors="replace").splitlines():
        try:
            said = json.loads(text)
        except ValueError:
            yield Line(path.stem, "", {"text": text})
            continue
        yield Line(path.stem, str(said.pop("event", "")), said)
