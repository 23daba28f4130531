"""The list of a project's jobs: filters, pages, newest first.

Statements are built with SQLAlchemy Core, because their shape depends on what was asked, and run
on the asyncpg pool. Values have been validated at the edge; none is ever part of a statement.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from core.domain.ids import JobId, ProjectId, ScanId
from core.domain.states import JobState
from core.store.pages import Page
from core.store.store import Store
from core.store.tables import jobs, scans

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy


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


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One line of the list."""

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


_COLUMNS = (
    jobs.c.id,
    scans.c.id.label("scan_id"),
    jobs.c.state,
    jobs.c.result_code,
    jobs.c.result_msg,
    scans.c.code_line_num,
    scans.c.comment_line_num,
    scans.c.blank_line_num,
    scans.c.total_line_num,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.ended_at,
    jobs.c.creator,
    jobs.c.created_from,
)


async def list_jobs(
    store: Store, project_id: ProjectId, wanted: JobFilter, *, limit: int, offset: int
) -> Page[ListedJob]:
    """Return one page of a project's jobs, newest first."""
    conditions = [jobs.c.project_id == project_id, *_conditions(wanted)]
    count = select(func.count()).select_from(jobs).where(*conditions)
    page = (
        select(*_COLUMNS)
        .join_from(jobs, scans, scans.c.job_id == jobs.c.id)
        .where(*conditions)
        .order_by(jobs.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    count_sql, count_values = _compiled(count)
    total = await store.db.fetchval(count_sql, *count_values)
    if offset >= total:
        return Page(total, [])
    page_sql, page_values = _compiled(page)
    rows = await store.db.fetch(page_sql, *page_values)
    return Page(total, [_listed(row) for row in rows])


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.create_time_gte is not None:
        found.append(jobs.c.created_at >= wanted.create_time_gte)
    if wanted.create_time_lte is not None:
        found.append(jobs.c.created_at <= wanted.create_time_lte)
    if wanted.result_code_gte is not None:
        found.append(jobs.c.result_code >= wanted.result_code_gte)
    if wanted.result_code_lte is not None:
        found.append(jobs.c.result_code <= wanted.result_code_lte)
    for column in (jobs.c.result_msg, jobs.c.created_from, jobs.c.creator):
        part = getattr(wanted, column.name)
        if part is not None:
            # The escape is "/": with a backslash the rendered literal would depend on the server.
            found.append(column.icontains(part, autoescape=True, escape="/"))
    if wanted.states is not None:
        found.append(jobs.c.state.in_(sorted(wanted.states)))
    return found


def _compiled(statement: Select[Any]) -> tuple[str, list[Any]]:
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), [compiled.params[name] for name in compiled.positiontup or ()]


def _listed(row: Any) -> ListedJob:
    values = dict(row)
    return ListedJob(**(values | {"state": JobState(values["state"])}))
