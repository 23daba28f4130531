"""Projects of a repository: a branch, scanned by a scheme, maybe a sub-folder of it only."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.keys import PRINCIPAL, STORE, ZONE
from api.operations import PROJECT, REPO, Operations, in_envelope, in_page
from api.pagination import page
from api.principals import Access
from api.schemas.registry import ProjectAnswer, ProjectChange, ProjectCreate, ProjectQuery
from api.scope import org_scope, scoped_project, scoped_repo
from api.shares import share_change
from core.domain.errors import InvalidField
from core.domain.ids import SchemeId
from core.domain.scm import as_field, check_branch
from core.store import projects, schemes
from core.store.projects import NewProject, Project

operations = Operations("projects")

_NOT_IN_A_PATH = re.compile("[\x00-\x1f\x7f-\x9f\\\\\ud800-\udfff]")


@operations.post(
    f"{REPO}/projects/",
    summary="Register a project",
    access=Access.ADMIN,
    body=ProjectCreate,
    answers={201: in_envelope(ProjectAnswer)},
)
async def create_project(request: web.Request, body: ProjectCreate) -> web.Response:
    store = request.app[STORE]
    with as_field("branch"):
        branch = check_branch(body.branch)
    scan_path = _checked_path(body.scan_path)
    repo = await scoped_repo(request)
    scheme_id = body.scan_scheme_id
    new = NewProject(
        repo_id=repo.id,
        scheme_id=SchemeId(scheme_id) if scheme_id else await schemes.default(store, repo.id),
        branch=branch,
        scan_path=scan_path,
        created_from=body.created_from,
        creator=request[PRINCIPAL].name,
    )
    project_id = await projects.create(store, new)
    created = await projects.get(
        store,
        request.match_info["org_sid"],
        request.match_info["team_name"],
        repo.id,
        project_id,
        scope=org_scope(request),
    )
    return enveloped(_answer(created, request.app[ZONE]), status=201)


@operations.get(
    f"{REPO}/projects/",
    summary="List the projects of a repository",
    access=Access.VIEWER,
    query=ProjectQuery,
    answers={200: in_page(ProjectAnswer)},
)
async def list_projects(request: web.Request, query: ProjectQuery) -> web.Response:
    repo = await scoped_repo(request)
    found = await projects.list_projects(
        request.app[STORE],
        repo.id,
        branch=query.branch,
        scheme_id=query.scan_scheme,
        status=query.status,
        limit=query.limit,
        offset=query.offset,
    )
    results = [_answer(project, request.app[ZONE]) for project in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    f"{PROJECT}/",
    summary="Show a project",
    access=Access.VIEWER,
    answers={200: in_envelope(ProjectAnswer)},
)
async def show_project(request: web.Request) -> web.Response:
    return enveloped(_answer(await scoped_project(request), request.app[ZONE]))


@operations.put(
    f"{PROJECT}/",
    summary="Change a project's status, weight or limit",
    access=Access.ADMIN,
    body=ProjectChange,
    answers={200: in_envelope(ProjectAnswer)},
)
async def change_project(request: web.Request, body: ProjectChange) -> web.Response:
    project = await scoped_project(request)
    status = body.status if "status" in body.model_fields_set else None
    share = share_change(body)
    if status is not None or share is not None:
        await projects.change(request.app[STORE], project.id, status=status, share=share)
    return enveloped(_answer(await scoped_project(request), request.app[ZONE]))


def _checked_path(scan_path: str) -> str:
    """Return a sub-folder in its one form: no slash at either end, nothing that leads out."""
    path = scan_path.strip("/")
    if not path or path == ".":
        return ""
    parts = path.split("/")
    if _NOT_IN_A_PATH.search(path) or any(part in ("", ".", "..", ".git") for part in parts):
        raise InvalidField(
            "scan_path", "must be a folder of the repository, without '.', '..' or '.git' in it"
        )
    return path


def _answer(project: Project, zone: ZoneInfo) -> ProjectAnswer:
    return {
        "id": project.id,
        "branch": project.branch,
        "status": project.status,
        "scan_path": project.scan_path,
        "created_from": project.created_from,
        "repo": {
            "id": project.repo_id,
            "name": project.repo_name,
            "scm_url": project.scm_url,
            "scm_type": project.scm_type,
        },
        "scan_scheme": {
            "id": project.scheme_id,
            "name": project.scheme_name,
            "languages": list(project.scheme_languages),
            "default_flag": project.scheme_is_default,
            "status": project.scheme_status,
        },
        "weight": project.weight,
        "max_running": project.max_running,
        "creator": project.creator,
        "created_time": wire_time(project.created_at, zone),
    }
