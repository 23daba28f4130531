"""Limits of engines: how many tasks of one may run at the same time, whosever they are."""

from __future__ import annotations

import re

from aiohttp import web

from api.envelope import enveloped
from api.keys import STORE
from api.operations import Operations, in_envelope, in_page
from api.pagination import PageQuery, page
from api.principals import Access
from api.schemas.engines import EngineLimitChange, EngineLimitItem
from api.scope import path_text
from core.domain.errors import NotFound
from core.runtime.logs import get_logger
from core.store import shares

log = get_logger(__name__)

operations = Operations("engines")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/@#-]{0,63}")


@operations.get(
    "/api/v1/engines/limits/",
    summary="List the limits of engines, by name",
    access=Access.VIEWER,
    query=PageQuery,
    answers={200: in_page(EngineLimitItem)},
)
async def list_limits(request: web.Request, query: PageQuery) -> web.Response:
    found = await shares.engine_limits(request.app[STORE])
    shown = found[query.offset : query.offset + query.limit]
    results: list[EngineLimitItem] = [
        {"engine": limit.engine, "max_running": limit.max_running} for limit in shown
    ]
    return page(request, query, count=len(found), results=results)


@operations.put(
    "/api/v1/engines/{engine}/limit/",
    summary="Limit how many tasks of an engine run at the same time",
    access=Access.OPERATOR,
    body=EngineLimitChange,
    answers={200: in_envelope(EngineLimitItem)},
    description="`prepare` limits the preparations of jobs. What is in the queue or runs already "
    "is counted and not taken back.",
)
async def set_limit(request: web.Request, body: EngineLimitChange) -> web.Response:
    engine = path_text(request, "engine")
    if not _NAME.fullmatch(engine):
        raise NotFound(f"engine {engine[:40]!r}")
    await shares.set_engine_limit(request.app[STORE], engine, body.max_running)
    log.info("engine.limited", engine=engine, max_running=body.max_running)
    answer: EngineLimitItem = {"engine": engine, "max_running": body.max_running}
    return enveloped(answer)
