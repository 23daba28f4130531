"""Scan schemes of a repository: which engines, on which paths, within which limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.keys import STORE, ZONE
from api.operations import REPO, Operations, in_envelope, in_page
from api.pagination import page
from api.principals import Access
from api.schemas.registry import (
    EngineChoice,
    EngineChoiceAnswer,
    SchemeAnswer,
    SchemeChange,
    SchemeCreate,
    SchemeQuery,
)
from api.scope import path_id, scoped_repo
from core.domain.engines import BUILT_IN
from core.domain.errors import InvalidField
from core.domain.ids import SchemeId
from core.store import schemes
from core.store.schemes import Scheme, SchemeFields
from core.store.store import Store

operations = Operations("schemes")

_SCHEME = f"{REPO}/schemes/{{scheme_id}}/basicconf/"

#: Field on the wire → column, where they differ.
_COLUMNS = {"default_flag": "is_default", "job_runtime_limit": "job_runtime_limit_minutes"}


@operations.post(
    f"{REPO}/schemes/",
    summary="Create a scan scheme",
    access=Access.ADMIN,
    body=SchemeCreate,
    answers={201: in_envelope(SchemeAnswer)},
)
async def create_scheme(request: web.Request, body: SchemeCreate) -> web.Response:
    store = request.app[STORE]
    repo = await scoped_repo(request)
    await _check_engines(store, body.engines)
    columns = _columns(body, SchemeCreate.model_fields)
    created = await schemes.create(store, repo.id, SchemeFields(**columns))
    return enveloped(_answer(created, request.app[ZONE]), status=201)


@operations.get(
    f"{REPO}/schemes/",
    summary="List the scan schemes of a repository",
    access=Access.VIEWER,
    query=SchemeQuery,
    answers={200: in_page(SchemeAnswer)},
)
async def list_schemes(request: web.Request, query: SchemeQuery) -> web.Response:
    repo = await scoped_repo(request)
    found = await schemes.list_schemes(
        request.app[STORE],
        repo.id,
        name=query.name,
        status=query.status,
        limit=query.limit,
        offset=query.offset,
    )
    results = [_answer(scheme, request.app[ZONE]) for scheme in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    _SCHEME,
    summary="Show a scan scheme",
    access=Access.VIEWER,
    answers={200: in_envelope(SchemeAnswer)},
)
async def show_scheme(request: web.Request) -> web.Response:
    repo = await scoped_repo(request)
    scheme = await schemes.get(request.app[STORE], repo.id, _scheme_id(request))
    return enveloped(_answer(scheme, request.app[ZONE]))


@operations.put(
    _SCHEME,
    summary="Change a scan scheme",
    access=Access.ADMIN,
    body=SchemeChange,
    answers={200: in_envelope(SchemeAnswer)},
)
async def change_scheme(request: web.Request, body: SchemeChange) -> web.Response:
    store = request.app[STORE]
    repo = await scoped_repo(request)
    await _check_engines(store, body.engines)
    columns = _columns(body, body.model_fields_set)
    changed = await schemes.change(store, repo.id, _scheme_id(request), columns)
    return enveloped(_answer(changed, request.app[ZONE]))


def _scheme_id(request: web.Request) -> SchemeId:
    return SchemeId(path_id(request, "scheme_id"))


async def _check_engines(store: Store, engines: Sequence[EngineChoice] | None) -> None:
    """Refuse engines nobody knows: neither built in nor ever offered by a worker."""
    names = [engine.name for engine in engines or ()]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InvalidField("engines", f"name {', '.join(sorted(twice))} more than once")
    strange = {name for name in names if name not in BUILT_IN}
    if strange:
        strange -= await schemes.offered_engines(store, strange)
    if strange:
        raise InvalidField(
            "engines",
            f"name {', '.join(sorted(strange))}, which is neither built in"
            f" ({', '.join(sorted(BUILT_IN))}) nor was ever offered by a worker",
        )


def _columns(body: SchemeCreate, names: Any) -> dict[str, Any]:
    """Return the columns that the fields *names* of a body stand for."""
    columns: dict[str, Any] = {}
    for name in names:
        value = getattr(body, name)
        if name == "path_filters":
            columns |= {"inclusion": value.inclusion, "exclusion": value.exclusion}
        elif name == "engines":
            columns[name] = [engine.model_dump() for engine in value] if value is not None else None
        else:
            columns[_COLUMNS.get(name, name)] = value
    return columns


def _answer(scheme: Scheme, zone: ZoneInfo) -> SchemeAnswer:
    fields = scheme.fields
    engines = list(fields.engines) if fields.engines is not None else None
    return {
        "id": scheme.id,
        "repo": scheme.repo_id,
        "name": fields.name,
        "description": fields.description,
        "languages": list(fields.languages),
        "tag": fields.tag,
        "default_flag": fields.is_default,
        "job_runtime_limit": fields.job_runtime_limit_minutes,
        "status": fields.status,
        # Written by this module alone, from `EngineChoice`.
        "engines": cast("list[EngineChoiceAnswer] | None", engines),
        "path_filters": {
            "inclusion": list(fields.inclusion),
            "exclusion": list(fields.exclusion),
        },
        "active_job_policy": fields.active_job_policy,
        "fail_on": fields.fail_on,
        "partial_fails": fields.partial_fails,
        "cancel_siblings": fields.cancel_siblings,
        "allow_repo_config": fields.allow_repo_config,
        "priority": fields.priority,
        "created_time": wire_time(scheme.created_at, zone),
        "modified_time": wire_time(scheme.modified_at, zone),
    }
