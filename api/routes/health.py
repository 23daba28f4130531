"""Is the process up, is the service ready: for service managers, load balancers and people."""

from __future__ import annotations

import asyncio
from typing import Literal

from aiohttp import web
from typing_extensions import TypedDict

from api.envelope import bare
from api.keys import READINESS_CHECKS, STOPPING, STORE
from api.middlewares.errors import is_unavailable
from api.operations import Answer, Operations
from api.principals import Access
from core.domain.errors import SchemaMismatch
from core.store.schema import check_schema
from core.store.store import Store

operations = Operations("health")

_CHECK_TIMEOUT_S = 5.0


class Health(TypedDict):
    """The process is up."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """Whether the service can do its work."""

    status: Literal["ready", "not ready"]
    #: What is missing, in words.
    reasons: list[str]


@operations.get(
    "/healthz",
    summary="Is the process up?",
    access=Access.OPEN,
    answers={200: Answer(Health)},
)
async def health(_request: web.Request) -> web.Response:
    return bare({"status": "ok"})


@operations.get(
    "/readyz",
    summary="Can the service do its work?",
    description="Database, schema and listener, and in `kennel up` one worker.",
    access=Access.OPEN,
    answers={200: Answer(Readiness), 503: Answer(Readiness)},
)
async def ready(request: web.Request) -> web.Response:
    reasons = await not_ready_reasons(request.app)
    if reasons:
        return bare(
            {"status": "not ready", "reasons": reasons}, status=503, headers={"Retry-After": "1"}
        )
    return bare({"status": "ready", "reasons": []})


async def not_ready_reasons(app: web.Application) -> list[str]:
    """Return what keeps the service from its work; nothing: it is ready."""
    store = app[STORE]
    reasons = ["the process is stopping"] if app[STOPPING].is_set() else []
    reasons += await _database_reasons(store)
    if not store.signals.is_connected:
        reasons.append("the listening connection is down")
    for check in app[READINESS_CHECKS]:
        reason = await check()
        if reason is not None:
            reasons.append(reason)
    return reasons


async def _database_reasons(store: Store) -> list[str]:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check_schema(store.db)
    except SchemaMismatch as error:
        return [str(error)]
    except Exception as error:
        if not is_unavailable(error):
            raise
        # Its text may name hosts and users, and anybody may ask.
        return ["the database is not available"]
    return []
