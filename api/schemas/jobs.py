"""Jobs on the wire: what the list can be asked, what list and detail answer."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from api.errors import invalid
from api.pagination import PageQuery
from api.schemas.common import Line, RequestBody, Text
from core.domain.states import JobState
from core.store.listing import JobFilter

#: Items of a comma list.
MOST_STATES = 100
#: 4 and 5 are states of the reference server's that no job of ours is ever in.
_FOREIGN_STATES = (4, 5)

# An unquoted "+" of an offset arrives as a space.
_MOMENT = re.compile(
    r"(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d{1,6})?)?(?:(Z)|([+\- ])(\d{2}):?(\d{2})?)?)?",
    re.ASCII | re.IGNORECASE,
)


def _moment(value: object) -> object:
    """Read a date, a date and time, or one with an offset; without one it is left naive."""
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("Enter a valid date/time.")
    day, time, seconds, zulu, sign, hours, minutes = match.groups()
    text = f"{day}T{time or '00:00'}{seconds or ':00'}"
    if zulu:
        text += "+00:00"
    elif sign:
        text += f"{'+' if sign == ' ' else sign}{hours}:{minutes or '00'}"
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("Enter a valid date/time.") from None


def _states(value: object) -> object:
    """Read `1,2, 3`."""
    items = [item.strip() for item in str(value).split(",", MOST_STATES)]
    if len(items) > MOST_STATES:
        raise ValueError(f"has more than {MOST_STATES} items")
    known = {str(int(state)): int(state) for state in (*JobState, *_FOREIGN_STATES)}
    if not all(item in known for item in items):
        raise ValueError("must be states from 0 to 3 with commas between them")
    return [known[item] for item in items]


Moment = Annotated[datetime, BeforeValidator(_moment)]
Code = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Part = Annotated[Text, Field(max_length=1000)]


class JobQuery(PageQuery):
    """Which jobs: all conditions hold together, an empty value is none."""

    create_time_gte: Annotated[
        Moment | None,
        Field(description="Created then or later: a date, a date and time, ISO 8601 with offset."),
    ] = None
    create_time_lte: Annotated[
        Moment | None, Field(description="Created then or earlier; a date means its first moment.")
    ] = None
    result_code_gte: Code | None = None
    result_code_lte: Code | None = None
    result_msg: Annotated[Part | None, Field(description="Part of it, in any case.")] = None
    state: Annotated[
        Annotated[list[int], BeforeValidator(_states)] | None,
        Field(
            description="0 waiting, 1 running, 2 closed, 3 saving; several with commas between.",
            json_schema_extra={"type": "string"},
        ),
    ] = None
    created_from: Annotated[Part | None, Field(description="Part of it, in any case.")] = None
    creator: Annotated[Part | None, Field(description="Part of it, in any case.")] = None

    def filter(self, zone: ZoneInfo) -> JobFilter:
        """Return the conditions; times without an offset are of *zone*."""
        return JobFilter(
            create_time_gte=_aware("create_time_gte", self.create_time_gte, zone),
            create_time_lte=_aware("create_time_lte", self.create_time_lte, zone),
            result_code_gte=self.result_code_gte,
            result_code_lte=self.result_code_lte,
            result_msg=self.result_msg,
            created_from=self.created_from,
            creator=self.creator,
            states=None
            if self.state is None
            else [JobState(state) for state in self.state if state not in _FOREIGN_STATES],
        )


def _aware(name: str, moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    try:
        local = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return local.astimezone(UTC)
    except OverflowError:  # year 1 or 9999, and an offset that leads out of the calendar
        raise invalid(name, "Enter a valid date/time.") from None


class CancelJob(RequestBody):
    """Why a job is cancelled."""

    remarks: Annotated[Line, Field(min_length=1, max_length=512)]


class Cancelled(TypedDict):
    msg: str


class JobItem(TypedDict):
    """A job in a list."""

    id: int
    state: int
    result_code: int | None
    result_msg: str | None
    code_line_num: int | None
    comment_line_num: int | None
    blank_line_num: int | None
    total_line_num: int | None
    create_time: str
    start_time: str | None
    end_time: str | None
    creator: str
    created_from: str
    scan_id: int


class JobProject(TypedDict):
    """The project, as the detail of a job shows it."""

    id: int
    branch: str
    repo_id: int
    scan_scheme: int
    repo_scm_url: str


class TaskItem(TypedDict):
    """A task, as the detail of its job shows it."""

    id: int
    module: str
    task_name: str
    #: 0..100
    progress_rate: int
    state: int
    result_code: int | None
    result_msg: str | None
    result_path: str | None
    # beyond the documented ones
    result_code_msg: str | None
    #: Why it did not succeed, as a word for machines.
    reason: str | None
    start_time: str | None
    end_time: str | None
    attempts: int
    worker: str | None
    engine_version: str | None
    coverage: dict[str, int] | None
    #: Findings by severity.
    findings: dict[str, int]
    log_path: str | None


class CoJobItem(TypedDict):
    """Another open job of the project."""

    id: int
    scan_id: int
    state: int


class JobDetailItem(TypedDict):
    """Everything about a job."""

    id: int
    scan_id: int
    create_time: str
    #: Seconds.
    waiting_time: str
    start_time: str | None
    execute_time: str | None
    project: JobProject
    end_time: str | None
    expire_time: str
    task_num: int
    task_done: int
    tasks: list[TaskItem]
    co_jobs: list[CoJobItem]
    state: int
    result_code: int | None
    result_code_msg: str | None
    result_msg: str | None
    result_path: str | None
    remarks: str | None
    remarked_by: str | None
    code_line_num: int | None
    comment_line_num: int | None
    blank_line_num: int | None
    total_line_num: int | None
    created_from: str
    creator: str
    # beyond the documented ones
    incr_scan: bool
    force_create: bool
    #: 1 incremental, 2 full
    scan_type: int
    #: Why it is a full scan; null: it is not.
    full_reason: str | None
    revision: str | None
    base_revision: str | None
    base_scan_id: int | None
    #: Findings by severity.
    findings: dict[str, int]
    #: Its tasks are older than what is kept.
    is_history_pruned: bool


class JobResult(TypedDict):
    """What came of a closed job, in one document."""

    job: dict[str, Any]
    scan: dict[str, Any]
    tasks: list[TaskItem]
    #: Engine → severity → how many.
    findings: dict[str, dict[str, int]]
