"""Projects of a repository: registered, found, listed, closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from core.domain.errors import AlreadyExists, InvalidField, NotFound
from core.domain.ids import OrgId, ProjectId, RepoId, SchemeId
from core.domain.states import ActiveJobPolicy
from core.store.pages import Page, page_of
from core.store.queries import query
from core.store.shares import ShareChange, limits_changed
from core.store.store import Store
from core.store.tokens import ROLES, UserToken

_CREATE = query("projects/create")
_FIND = query("projects/find")
_GET = query("projects/get")
_ENTER = query("projects/enter")
_LIST = query("projects/list")
_CHANGE = query("projects/change")

#: status on the wire
ACTIVE, INACTIVE, CLOSED = 1, 2, 3
_POLICIES = {policy.value: policy for policy in ActiveJobPolicy}


@dataclass(frozen=True, slots=True)
class Project:
    """A branch of a repository, scanned by a scheme; with what answers say of the two."""

    id: ProjectId
    branch: str
    scan_path: str
    status: int
    created_from: str
    creator: str
    created_at: datetime
    #: Of its organisation's share of the queue, beside the organisation's other projects.
    weight: int
    #: Tasks in the queue and on workers at the same time; None: not limited.
    max_running: int | None
    repo_id: RepoId
    repo_name: str
    scm_url: str
    scm_type: str
    scheme_id: SchemeId
    scheme_name: str
    scheme_status: int
    scheme_is_default: bool
    scheme_languages: Sequence[str]
    #: The scheme's; None: the server's setting.
    active_job_policy: ActiveJobPolicy | None
    org_id: OrgId
    org_sid: str
    team_name: str
    team_display_name: str


@dataclass(frozen=True, slots=True)
class NewProject:
    """A project to be registered."""

    repo_id: RepoId
    scheme_id: SchemeId
    branch: str
    scan_path: str
    created_from: str
    creator: str


async def create(store: Store, new: NewProject) -> ProjectId:
    """Register a project.

    Raises:
        AlreadyExists: the repository has one with this branch, scheme and path.
        InvalidField: the repository has no such scheme, or it is disused.
    """
    project_id: ProjectId | None = await store.db.fetchval(
        _CREATE,
        new.repo_id,
        new.scheme_id,
        new.branch,
        new.scan_path,
        new.created_from,
        new.creator,
    )
    if project_id is not None:
        return project_id
    existing = await store.db.fetchval(_FIND, new.repo_id, new.scheme_id, new.branch, new.scan_path)
    if existing is None:
        raise InvalidField(
            "scan_scheme_id", f"{new.scheme_id} is no active scheme of this repository"
        )
    raise AlreadyExists(
        "branch", f"{new.branch} is registered with this scheme, as project {existing}", existing
    )


@dataclass(frozen=True, slots=True)
class ProjectPlace:
    """Where a caller looks for a project, and which organisation it sees (None: all)."""

    org_sid: str
    team_name: str
    repo_id: RepoId
    project_id: ProjectId
    scope: OrgId | None


async def get(
    store: Store,
    org_sid: str,
    team_name: str,
    repo_id: RepoId,
    project_id: ProjectId,
    *,
    scope: OrgId | None,
) -> Project:
    """Return a project.

    Raises:
        NotFound: it does not exist there, or not for the caller.
    """
    place = ProjectPlace(org_sid, team_name, repo_id, project_id, scope)
    (found,) = await find_many(store, [place])
    if found is None:
        raise NotFound(f"project {project_id}")
    return found


async def find_many(store: Store, places: Sequence[ProjectPlace]) -> list[Project | None]:
    """Return projects, in order; None: it does not exist there, or not for the caller."""
    rows = await store.db.fetch(
        _GET,
        [place.org_sid for place in places],
        [place.team_name for place in places],
        [place.repo_id for place in places],
        [place.project_id for place in places],
        [place.scope for place in places],
    )
    found = {row["n"] - 1: _project(row) for row in rows}
    return [found.get(index) for index in range(len(places))]


class Entry(NamedTuple):
    """A caller and where it looks for a project."""

    token_hash: bytes
    org_sid: str
    team_name: str
    repo_id: RepoId
    project_id: ProjectId


class EnteredProject(NamedTuple):
    """A project that its caller sees: what its jobs are started with."""

    id: ProjectId
    #: The scheme's; None: the server's setting.
    active_job_policy: ActiveJobPolicy | None


class Entered(NamedTuple):
    """A good user token, and the project its owner asked for; None: not there for them."""

    token: UserToken
    project: EnteredProject | None


async def enter_many(store: Store, entries: Sequence[Entry]) -> list[Entered | None]:
    """Return callers and projects, in order; None: the token is not good now."""
    found: list[Entered | None] = [None] * len(entries)
    for row in await store.db.fetch(_ENTER, *zip(*entries, strict=True)):
        n, token_id, name, role, org_id, project_id, policy = row
        project = None
        if project_id is not None:
            project = EnteredProject(project_id, None if policy is None else _POLICIES[policy])
        found[n - 1] = Entered(UserToken(token_id, name, ROLES[role], org_id), project)
    return found


async def list_projects(
    store: Store,
    repo_id: RepoId,
    *,
    branch: str | None,
    scheme_id: int | None,
    status: int | None,
    limit: int,
    offset: int,
) -> Page[Project]:
    """Return one page of a repository's projects, newest first."""
    rows = await store.db.fetch(_LIST, repo_id, branch, scheme_id, status, limit, offset)
    return page_of(rows, _project)


async def change(
    store: Store,
    project_id: ProjectId,
    *,
    status: int | None = None,
    share: ShareChange | None = None,
) -> None:
    """Change what is given; a closed or inactive project takes no scans."""
    share = share or ShareChange()
    await store.db.execute(
        _CHANGE, project_id, status, share.weight, share.sets_limit, share.max_running
    )
    limits_changed(store)


def _project(row: Any) -> Project:
    values = dict(row)
    for extra in ("total", "n"):
        values.pop(extra, None)
    policy = values["active_job_policy"]
    values["active_job_policy"] = ActiveJobPolicy(policy) if policy is not None else None
    return Project(**values)
