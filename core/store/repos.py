"""Repositories of a team: registered, found, listed, changed. Credentials only ever go in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from core.domain.errors import AlreadyExists, InvalidField, NotFound
from core.domain.ids import OrgId, RepoId, TeamId
from core.store.pages import Page, page_of
from core.store.queries import query
from core.store.store import Store
from core.store.teams import Team

_CREATE = query("repos/create")
_BY_URL = query("repos/by_url")
_GET = query("repos/get")
_SHOW = query("repos/show")
_LIST = query("repos/list")
_CHANGE = query("repos/change")


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository as other things refer to it."""

    id: RepoId
    team_id: TeamId
    org_id: OrgId
    name: str
    scm_url: str
    scm_type: str


@dataclass(frozen=True, slots=True)
class ShownRepo:
    """A repository with what its page counts."""

    id: RepoId
    name: str
    scm_url: str
    scm_type: str
    created_from: str
    creator: str
    created_at: datetime
    branch_count: int
    scheme_count: int
    job_count: int
    #: Its last job's creation.
    recent_active: datetime | None


@dataclass(frozen=True, slots=True)
class NewRepo:
    """A repository to be registered."""

    name: str
    scm_url: str
    #: Sealed.
    scm_auth: bytes | None
    created_from: str
    creator: str


@dataclass(frozen=True, slots=True)
class RepoChange:
    """What is to change; None: stays as it is."""

    name: str | None = None
    scm_url: str | None = None
    #: Credentials are replaced by `scm_auth`, which may be None: taken away.
    replaces_auth: bool = False
    scm_auth: bytes | None = None


async def create(store: Store, team: Team, new: NewRepo) -> RepoId:
    """Register a repository.

    Raises:
        AlreadyExists: the team has one with this address.
    """
    repo_id: RepoId | None = await store.db.fetchval(
        _CREATE, team.id, new.name, new.scm_url, new.scm_auth, new.created_from, new.creator
    )
    if repo_id is None:
        raise await _exists(store, team.id, new.scm_url)
    return repo_id


async def get(
    store: Store, org_sid: str, team_name: str, repo_id: RepoId, *, scope: OrgId | None
) -> Repo:
    """Return a repository.

    Raises:
        NotFound: it does not exist there, or not for the caller.
    """
    row = await store.db.fetchrow(_GET, org_sid, team_name, repo_id, scope)
    if row is None:
        raise NotFound(f"repository {repo_id}")
    return Repo(**row)


async def show(store: Store, repo_id: RepoId) -> ShownRepo:
    """Return a repository with what its page counts."""
    row = await store.db.fetchrow(_SHOW, repo_id)
    if row is None:
        raise NotFound(f"repository {repo_id}")
    return _shown(row)


async def list_repos(
    store: Store,
    team: Team,
    *,
    scm_url: str | None,
    scm_url_or_name: str | None,
    limit: int,
    offset: int,
) -> Page[ShownRepo]:
    """Return one page of a team's repositories, newest first."""
    rows = await store.db.fetch(_LIST, team.id, scm_url, scm_url_or_name, limit, offset)
    return page_of(rows, _shown)


async def change(store: Store, repo: Repo, change: RepoChange) -> None:
    """Change what is given.

    Raises:
        AlreadyExists: the team has another one with the new address.
        InvalidField: a new address without credentials for it, where the old one had some.
    """
    try:
        changed = await store.db.fetchval(
            _CHANGE, repo.id, change.name, change.scm_url, change.replaces_auth, change.scm_auth
        )
    except asyncpg.UniqueViolationError:
        raise await _exists(store, repo.team_id, change.scm_url or "") from None
    if changed is None:
        raise InvalidField("scm_auth", "must be given again (or null) together with a new scm_url")


async def _exists(store: Store, team_id: TeamId, scm_url: str) -> AlreadyExists:
    existing = await store.db.fetchval(_BY_URL, team_id, scm_url)
    return AlreadyExists("scm_url", f"is registered already, as repository {existing}", existing)


def _shown(row: Any) -> ShownRepo:
    values = dict(row)
    values.pop("total", None)
    return ShownRepo(**values)
