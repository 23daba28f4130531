"""From a path to the thing it names, if it exists for the caller: else 404, never 403."""

from __future__ import annotations

from aiohttp import web

from api.keys import PRINCIPAL, PROJECT, STORE
from core.domain.errors import NotFound
from core.domain.ids import OrgId, ProjectId, RepoId
from core.store import orgs, projects, repos, teams
from core.store.orgs import Org
from core.store.projects import EnteredProject, Entry, Project
from core.store.repos import Repo
from core.store.teams import Team

_MOST = 2**63 - 1


def path_id(request: web.Request, name: str) -> int:
    """Return the id at *name* in the path; whatever cannot be one does not exist."""
    text = request.match_info[name]
    # Length first: a number of a thousand digits is not worth converting.
    if len(text) <= 19 and text.isascii() and text.isdigit() and 0 < int(text) <= _MOST:
        return int(text)
    raise NotFound(f"{name.removesuffix('_id')} {text[:40]!r}")


def path_text(request: web.Request, name: str) -> str:
    """Return the text at *name* in the path, if the database could hold it at all."""
    text = request.match_info[name]
    if len(text) > 256 or any(char == "\x00" or "\ud800" <= char <= "\udfff" for char in text):
        raise NotFound(name)
    return text


def org_scope(request: web.Request) -> OrgId | None:
    """Return the only organisation the caller sees; None: all."""
    return request[PRINCIPAL].org_id


async def scoped_org(request: web.Request) -> Org:
    """Return the organisation of the path."""
    org_sid = path_text(request, "org_sid")
    return await orgs.get(request.app[STORE], org_sid, scope=org_scope(request))


async def scoped_team(request: web.Request) -> Team:
    """Return the team of the path."""
    return await teams.get(
        request.app[STORE],
        path_text(request, "org_sid"),
        path_text(request, "team_name"),
        scope=org_scope(request),
    )


async def scoped_repo(request: web.Request) -> Repo:
    """Return the repository of the path."""
    return await repos.get(
        request.app[STORE],
        path_text(request, "org_sid"),
        path_text(request, "team_name"),
        RepoId(path_id(request, "repo_id")),
        scope=org_scope(request),
    )


async def scoped_project(request: web.Request) -> Project:
    """Return the project of the path, with its repository and scheme."""
    place = _project_path(request)
    return await projects.get(request.app[STORE], *place, scope=org_scope(request))


def entry(request: web.Request, token_hash: bytes) -> Entry:
    """Return whom and what to look up for an operation in a project."""
    try:
        return Entry(token_hash, *_project_path(request))
    except NotFound:
        # Said once it is known who asks; until then no project has the id 0.
        return Entry(token_hash, "", "", RepoId(0), ProjectId(0))


def entered_project(request: web.Request) -> EnteredProject:
    """Return the project of the path, found together with the caller."""
    if PROJECT not in request:
        raise NotFound(f"project {_project_path(request)[-1]}")
    return request[PROJECT]


def _project_path(request: web.Request) -> tuple[str, str, RepoId, ProjectId]:
    return (
        path_text(request, "org_sid"),
        path_text(request, "team_name"),
        RepoId(path_id(request, "repo_id")),
        ProjectId(path_id(request, "project_id")),
    )
