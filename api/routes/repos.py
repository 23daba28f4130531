"""Repositories of a team. Credentials are sealed before they reach the store."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import orjson
from aiohttp import web

from api.envelope import enveloped, wire_time
from api.keys import PRINCIPAL, SEALER, SETTINGS, STORE, ZONE
from api.operations import REPO, TEAM, Operations, in_envelope, in_page
from api.pagination import page
from api.principals import Access
from api.schemas.registry import RepoAnswer, RepoChange, RepoCreate, RepoQuery, ScmAuth
from api.scope import scoped_repo, scoped_team
from core.domain.errors import InvalidField
from core.domain.scm import ScmCredentials, as_field, parse_scm_url
from core.store import repos
from core.store.repos import NewRepo, ShownRepo

operations = Operations("repositories")


@operations.post(
    f"{TEAM}/repos/",
    summary="Register a repository",
    access=Access.ADMIN,
    body=RepoCreate,
    answers={201: in_envelope(RepoAnswer)},
)
async def create_repo(request: web.Request, body: RepoCreate) -> web.Response:
    _check_type(body.scm_type)
    _check_url(request, body.scm_url)
    new = NewRepo(
        name=body.name or _name_of(body.scm_url),
        scm_url=body.scm_url,
        scm_auth=_sealed(request, body.scm_auth),
        created_from=body.created_from,
        creator=request[PRINCIPAL].name,
    )
    store = request.app[STORE]
    repo_id = await repos.create(store, await scoped_team(request), new)
    shown = await repos.show(store, repo_id)
    return enveloped(_answer(shown, request.app[ZONE]), status=201)


@operations.get(
    f"{TEAM}/repos/",
    summary="List the repositories of a team",
    access=Access.VIEWER,
    query=RepoQuery,
    answers={200: in_page(RepoAnswer)},
)
async def list_repos(request: web.Request, query: RepoQuery) -> web.Response:
    found = await repos.list_repos(
        request.app[STORE],
        await scoped_team(request),
        scm_url=query.scm_url,
        scm_url_or_name=query.scm_url_or_name,
        limit=query.limit,
        offset=query.offset,
    )
    results = [_answer(repo, request.app[ZONE]) for repo in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    f"{REPO}/",
    summary="Show a repository",
    access=Access.VIEWER,
    answers={200: in_envelope(RepoAnswer)},
)
async def show_repo(request: web.Request) -> web.Response:
    repo = await scoped_repo(request)
    return enveloped(_answer(await repos.show(request.app[STORE], repo.id), request.app[ZONE]))


@operations.put(
    f"{REPO}/",
    summary="Change a repository",
    description="Credentials never follow to another address: a new `scm_url` needs `scm_auth`.",
    access=Access.ADMIN,
    body=RepoChange,
    answers={200: in_envelope(RepoAnswer)},
)
async def change_repo(request: web.Request, body: RepoChange) -> web.Response:
    repo = await scoped_repo(request)
    if body.scm_url:
        _check_url(request, body.scm_url)
    change = repos.RepoChange(
        name=body.name or None,
        scm_url=body.scm_url or None,
        replaces_auth="scm_auth" in body.model_fields_set,
        scm_auth=_sealed(request, body.scm_auth),
    )
    await repos.change(request.app[STORE], repo, change)
    return enveloped(_answer(await repos.show(request.app[STORE], repo.id), request.app[ZONE]))


def _check_type(scm_type: str) -> None:
    if scm_type == "svn":
        raise InvalidField("scm_type", "svn is not supported: Kennel scans git repositories")
    if scm_type != "git":
        raise InvalidField("scm_type", "must be git")


def _check_url(request: web.Request, scm_url: str) -> None:
    with as_field("scm_url"):
        parse_scm_url(scm_url, allow_local=request.app[SETTINGS].allow_local_repos)


def _name_of(scm_url: str) -> str:
    """Return the last part of an address, as people call the repository."""
    path = scm_url.rstrip("/").removesuffix(".git").rstrip("/")
    return path.replace(":", "/").rpartition("/")[2][:128] or scm_url[:128]


def _sealed(request: web.Request, auth: ScmAuth | None) -> bytes | None:
    if auth is None:
        return None
    if auth.scm_password is None and auth.private_key is None:
        raise InvalidField("scm_auth", "needs scm_password or private_key")
    with as_field("scm_auth"):
        ScmCredentials(auth.scm_username, auth.scm_password, auth.private_key)
    # The names are those of `core.domain.scm.ScmCredentials`, which is made of it again.
    fields = {
        "username": auth.scm_username,
        "password": auth.scm_password,
        "private_key": auth.private_key,
    }
    return request.app[SEALER].seal(orjson.dumps(fields).decode())


def _answer(repo: ShownRepo, zone: ZoneInfo) -> RepoAnswer:
    active = repo.recent_active
    return {
        "id": repo.id,
        "name": repo.name,
        "scm_url": repo.scm_url,
        "scm_type": repo.scm_type,
        "branch_count": repo.branch_count,
        "scheme_count": repo.scheme_count,
        "job_count": repo.job_count,
        "created_time": wire_time(repo.created_at, zone),
        "recent_active": wire_time(active, zone) if active is not None else None,
        "created_from": repo.created_from,
        "creator": repo.creator,
    }
