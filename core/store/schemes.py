"""Scan schemes of a repository: created, found, listed, changed; one of them may be the default."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from core.domain.errors import AlreadyExists, InvalidField, NotFound
from core.domain.ids import RepoId, SchemeId
from core.store import tables
from core.store.pages import Page, page_of
from core.store.queries import query
from core.store.store import Store

_CREATE = query("schemes/create")
_GET = query("schemes/get")
_BY_NAME = query("schemes/by_name")
_LIST = query("schemes/list")
_DEFAULT = query("schemes/default")
_MAKE_DEFAULT = query("schemes/make_default")
_CLEAR_DEFAULT = query("schemes/clear_default")
_LOCK_REPO = query("schemes/lock_repo")
_OFFERED_ENGINES = query("schemes/offered_engines")

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
#: Tried for the default scheme, should someone have taken the first.
_DEFAULT_NAMES = ("default", *(f"default-{number}" for number in range(2, 100)))
_DEFAULT_DESCRIPTION = "Made by Kennel at the first use of the repository."


@dataclass(frozen=True, slots=True)
class SchemeFields:
    """What a caller decides about a scheme; the names are the table's."""

    name: str
    description: str
    languages: Sequence[str]
    tag: str | None
    is_default: bool
    status: int
    engines: Sequence[Mapping[str, Any]] | None
    inclusion: Sequence[str]
    exclusion: Sequence[str]
    job_runtime_limit_minutes: int
    active_job_policy: str | None
    fail_on: str
    partial_fails: bool
    cancel_siblings: bool
    allow_repo_config: bool
    priority: int


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme: which engines with which rules, paths and limits."""

    id: SchemeId
    repo_id: RepoId
    fields: SchemeFields
    created_at: datetime
    modified_at: datetime


async def create(store: Store, repo_id: RepoId, fields: SchemeFields) -> Scheme:
    """Add a scheme; a new default takes the former one's place.

    Raises:
        AlreadyExists: the repository has one of that name.
    """
    values = [getattr(fields, name) for name in SchemeFields.__dataclass_fields__]
    async with store.db.transaction() as connection:
        await connection.execute(_LOCK_REPO, repo_id)
        existing = await connection.fetchval(_BY_NAME, repo_id, fields.name)
        if existing is not None:
            raise _exists(fields.name, existing)
        if fields.is_default:
            await connection.execute(_CLEAR_DEFAULT, repo_id, None)
        scheme_id = await connection.fetchval(_CREATE, repo_id, *values)
    return await get(store, repo_id, scheme_id)


async def get(store: Store, repo_id: RepoId, scheme_id: SchemeId) -> Scheme:
    """Return a scheme of a repository.

    Raises:
        NotFound: the repository has no such scheme.
    """
    row = await store.db.fetchrow(_GET, repo_id, scheme_id)
    if row is None:
        raise NotFound(f"scheme {scheme_id}")
    return _scheme(row)


async def list_schemes(
    store: Store,
    repo_id: RepoId,
    *,
    name: str | None,
    status: int | None,
    limit: int,
    offset: int,
) -> Page[Scheme]:
    """Return one page of a repository's schemes, newest first."""
    return page_of(await store.db.fetch(_LIST, repo_id, name, status, limit, offset), _scheme)


async def change(
    store: Store, repo_id: RepoId, scheme_id: SchemeId, given: Mapping[str, Any]
) -> Scheme:
    """Change the columns *given*, and only those.

    Raises:
        AlreadyExists: another scheme of the repository has the new name.
        NotFound: the repository has no such scheme.
    """
    statement = (
        update(tables.schemes)
        .where(tables.schemes.c.repo_id == repo_id, tables.schemes.c.id == scheme_id)
        .values(**given, modified_at=func.now())
        .returning(tables.schemes.c.id)
    )
    compiled = statement.compile(dialect=_DIALECT)
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    try:
        async with store.db.transaction() as connection:
            await connection.execute(_LOCK_REPO, repo_id)
            if given.get("is_default"):
                await connection.execute(_CLEAR_DEFAULT, repo_id, scheme_id)
            if await connection.fetchval(str(compiled), *values) is None:
                raise NotFound(f"scheme {scheme_id}")
    except asyncpg.UniqueViolationError:
        existing = await store.db.fetchval(_BY_NAME, repo_id, given.get("name"))
        raise _exists(given.get("name"), existing) from None
    return await get(store, repo_id, scheme_id)


async def default(store: Store, repo_id: RepoId) -> SchemeId:
    """Return the repository's default scheme, made on first use."""
    for name in _DEFAULT_NAMES:
        # Looked for each time: of two first users at once, the second finds the first's.
        found = await store.db.fetchval(_DEFAULT, repo_id)
        if found is None:
            found = await store.db.fetchval(_MAKE_DEFAULT, repo_id, name, _DEFAULT_DESCRIPTION)
        if found is not None:
            return SchemeId(found)
    raise InvalidField("scan_scheme_id", "must be given: no name is free for a default scheme")


async def offered_engines(store: Store, names: Collection[str]) -> frozenset[str]:
    """Return which of the engines *names* some worker has ever offered."""
    rows = await store.db.fetch(_OFFERED_ENGINES, list(names))
    return frozenset(row["name"] for row in rows)


def _exists(name: object, existing: int) -> AlreadyExists:
    return AlreadyExists("name", f"{name} exists already, as scheme {existing}", existing)


def _scheme(row: Any) -> Scheme:
    fields = SchemeFields(**{name: row[name] for name in SchemeFields.__dataclass_fields__})
    return Scheme(row["id"], row["repo_id"], fields, row["created_at"], row["modified_at"])
