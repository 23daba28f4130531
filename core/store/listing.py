"""The list of a project's jobs: filters, pages, newest first, and how many pass in all.

Nothing is counted that can be added up (`core.store.counting`), and a page is found through the
counts, so that neither depends on how many jobs the project has. What cannot be had that way (part
of a number in a message, a time range through a busy hour) is read row by row, and ends at a time
limit with `TooBroad`. All statements of one list see the same snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NamedTuple

import asyncpg

from core.domain.errors import KennelError
from core.domain.ids import JobId, ProjectId, ScanId
from core.domain.states import JobState
from core.store.pages import Page
from core.store.pool import Connection
from core.store.queries import query
from core.store.store import Store

_NEWEST = query("listing/newest")
_LABELS = query("listing/labels")
_COUNT = query("listing/count")
_PAGE = query("listing/page")
_LIMIT_TIME = query("listing/limit_time")

#: Longest one statement of a filtered list may take, seconds.
TIME_LIMIT_S = 2.0
#: Offsets up to which the rows passed over are walked; beyond it whole blocks are passed over.
SHALLOW = 2000
#: Labels that a page is read by at most; more of them are likely to be most of the jobs.
_MOST_LABELS = 200
#: Stands for the jobs whose label is not listed.
_UNLISTED = 0

_CODES = (-(2**31), 2**31 - 1)
_TIMES = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
#: Bits of a job's id within a block of each grain of `job_counts`; 62: one block.
_WIDTHS: Mapping[int, int] = {0: 62, 1: 14, 2: 62, 3: 17}
_STATES = {int(state): state for state in JobState}
_OPEN_STATES = tuple(int(state) for state in JobState if state is not JobState.CLOSED)
_DIGIT = re.compile("[0-9]")
_NUMBER = re.compile("[0-9]+|#")
#: What ILIKE takes for something else than itself.
_WILD = re.compile(r"[%_\\]")


class TooBroad(KennelError):
    """A list took longer than it may: it must be asked for more narrowly."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs are wanted: all conditions hold together, None is no condition."""

    create_time_gte: datetime | None = None
    create_time_lte: datetime | None = None
    result_code_gte: int | None = None
    result_code_lte: int | None = None
    #: Parts of the text, in any case.
    result_msg: str | None = None
    created_from: str | None = None
    creator: str | None = None
    #: Any of them.
    states: Collection[JobState] | None = None

    @property
    def has_time(self) -> bool:
        """Tell whether the time of creation matters."""
        return self.create_time_gte is not None or self.create_time_lte is not None

    @property
    def has_code(self) -> bool:
        """Tell whether the result code matters."""
        return self.result_code_gte is not None or self.result_code_lte is not None

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts asked for, by the kind of label."""
        found = {
            "creator": self.creator,
            "created_from": self.created_from,
            "result_msg": self.result_msg,
        }
        return {kind: part for kind, part in found.items() if part is not None}


class ListedJob(NamedTuple):
    """One line of the list; a tuple, since a page has many."""

    id: JobId
    scan_id: ScanId
    state: JobState
    result_code: int | None
    result_msg: str | None
    code_line_num: int | None
    comment_line_num: int | None
    blank_line_num: int | None
    total_line_num: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    creator: str
    created_from: str


class _Way(IntEnum):
    """How the page is read: `$15` of `listing/page`."""

    IDS = 0
    CODES = 1
    CREATOR = 2
    CREATED_FROM = 3
    RESULT_MSG = 4


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one kind that contain what was asked for."""

    ids: Sequence[int]
    values: Sequence[str]

    @property
    def are_all(self) -> bool:
        """Tell whether no job passes but by one of them."""
        return _UNLISTED not in self.ids


@dataclass(frozen=True, slots=True)
class Asked:
    """One list that is asked for."""

    project_id: ProjectId
    wanted: JobFilter
    limit: int
    offset: int
    labels: Mapping[str, Labels] = field(default_factory=dict)

    def conditions(self) -> list[Any]:
        """Return the parameters that count and page share."""
        wanted, texts = self.wanted, self.wanted.texts
        return [
            self.project_id,
            _wants_closed(wanted),
            # No open job has a code or a message.
            [] if wanted.has_code or "result_msg" in texts else _open_states(wanted),
            max(_CODES[0], _CODES[0] if wanted.result_code_gte is None else wanted.result_code_gte),
            min(_CODES[1], _CODES[1] if wanted.result_code_lte is None else wanted.result_code_lte),
            wanted.create_time_gte or _TIMES[0],
            wanted.create_time_lte or _TIMES[1],
            *(_pattern(texts.get(kind)) for kind in ("creator", "created_from", "result_msg")),
        ]

    @property
    def is_plain(self) -> bool:
        """Tell whether it is a page near the front, with no filter but that of states."""
        wanted = self.wanted
        return self.offset <= SHALLOW and not (wanted.has_time or wanted.has_code or wanted.texts)

    @property
    def number(self) -> str:
        """What labels do not decide: the longest number in the message, or a `#`; mostly ""."""
        return max(_NUMBER.findall(self.wanted.result_msg or ""), key=len, default="")

    @property
    def numbered(self) -> Sequence[str] | None:
        """The labels whose jobs have to be read for a number; None: read others, or none."""
        labels = self.labels.get("result_msg")
        if labels is None or not labels.are_all or not self.number:
            return None
        return labels.values

    @property
    def is_by_block(self) -> bool:
        """Tell whether it matters where in the project's history the jobs are."""
        return (
            self.wanted.has_time
            or self.offset > SHALLOW
            or not all(labels.are_all for labels in self.labels.values())
        )


async def list_jobs(
    store: Store,
    project_id: ProjectId,
    wanted: JobFilter,
    *,
    limit: int,
    offset: int,
    time_limit_s: float = TIME_LIMIT_S,
) -> Page[ListedJob]:
    """Return one page of a project's jobs, newest first.

    Raises:
        TooBroad: it would take longer than *time_limit_s*.
    """
    asked = Asked(project_id, wanted, limit, offset)
    if asked.is_plain:
        (page,) = await list_newest(store, [asked])
        return page
    return await list_filtered(store, asked, time_limit_s=time_limit_s)


async def list_filtered(
    store: Store, asked: Asked, *, time_limit_s: float = TIME_LIMIT_S
) -> Page[ListedJob]:
    """Return one page of a project's jobs, whatever the filter.

    Raises:
        TooBroad: one of its statements would take longer than *time_limit_s*.
    """
    async with (
        store.db.connection() as connection,
        connection.raw.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(_LIMIT_TIME, f"{round(time_limit_s * 1000)}ms")
        try:
            return await _filtered(connection, asked)
        except asyncpg.QueryCanceledError:
            raise TooBroad(f"the list took longer than {time_limit_s:g} s") from None


async def list_newest(store: Store, asked: Sequence[Asked]) -> list[Page[ListedJob]]:
    """Return pages that are plain (`Asked.is_plain`), in order, by one statement."""
    rows = await store.db.fetch(
        _NEWEST,
        [one.project_id for one in asked],
        [_wants_closed(one.wanted) for one in asked],
        [sum(1 << state for state in _open_states(one.wanted)) for one in asked],
        [one.limit for one in asked],
        [one.offset for one in asked],
    )
    items: list[list[ListedJob]] = [[] for _ in asked]
    totals = [0] * len(asked)
    for n, total, *job in rows:
        totals[n - 1] = total
        if job[0] is not None:
            items[n - 1].append(_listed(job))
    return [Page(total, jobs) for total, jobs in zip(totals, items, strict=True)]


async def _filtered(connection: Connection, asked: Asked) -> Page[ListedJob]:
    texts = asked.wanted.texts
    labels = {
        kind: await _labels(connection, asked.project_id, kind, part)
        for kind, part in texts.items()
    }
    asked = Asked(asked.project_id, asked.wanted, asked.limit, asked.offset, labels)
    grain = (2 if texts else 0) + asked.is_by_block
    counted = await connection.fetchrow(
        _COUNT,
        *asked.conditions(),
        *(labels[kind].ids if kind in labels else None for kind in _KINDS),
        grain,
        _WIDTHS[grain],
        asked.offset,
        2 if texts else 0,
        asked.numbered,
        bool(asked.number),
        asked.number,
    )
    assert counted is not None  # an aggregate
    if asked.offset >= counted["total"]:
        return Page(counted["total"], [])
    way = _way(asked, counted)
    rows = await connection.fetch(
        _PAGE,
        *asked.conditions(),
        counted["lowest_id"],
        counted["below_id"],
        asked.limit,
        counted["passed_over"],
        way,
        counted["result_codes"],
        labels[_KIND_OF_WAY[way]].values if way in _KIND_OF_WAY else [],
        asked.number,
    )
    return Page(counted["total"], [_listed(row) for row in rows])


async def _labels(connection: Connection, project_id: ProjectId, kind: str, part: str) -> Labels:
    if kind == "result_msg":
        part = _DIGIT.sub("#", part)
    rows = await connection.fetch(_LABELS, project_id, kind, _pattern(part))
    return Labels(
        [row["id"] for row in rows if row["id"] is not None],
        list({row["value"] for row in rows if row["value"] is not None}),
    )


_KINDS = ("creator", "created_from", "result_msg")
_KIND_OF_WAY = {
    _Way.CREATOR: "creator",
    _Way.CREATED_FROM: "created_from",
    _Way.RESULT_MSG: "result_msg",
}


def _way(asked: Asked, counted: asyncpg.Record) -> _Way:
    """Return the way to the page that reads the fewest jobs that do not pass."""
    # Of n jobs that are read in a row so many pass as of all.
    share = min(1.0, (counted["passed_over"] + asked.limit) / counted["total"])
    reads = {_Way.IDS: counted["closed"] * share}
    if asked.wanted.has_code:
        reads[_Way.CODES] = counted["by_code"] * share
    for way, kind in _KIND_OF_WAY.items():
        labels = asked.labels.get(kind)
        if labels is not None and labels.are_all and len(labels.values) <= _MOST_LABELS:
            reads[way] = counted[f"by_{kind}"] * share
    return min(reads, key=lambda way: reads[way])


def _wants_closed(wanted: JobFilter) -> bool:
    return wanted.states is None or JobState.CLOSED in wanted.states


def _open_states(wanted: JobFilter) -> Sequence[int]:
    if wanted.states is None:
        return _OPEN_STATES
    return [state for state in _OPEN_STATES if state in wanted.states]


def _pattern(part: str | None) -> str | None:
    if part is None:
        return None
    escaped = _WILD.sub(r"\\\g<0>", part)
    return f"%{escaped}%"


def _listed(row: Any) -> ListedJob:
    job_id, scan_id, state, *others = row
    return ListedJob._make((job_id, scan_id, _STATES[state], *others))
