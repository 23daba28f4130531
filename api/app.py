"""The api as an aiohttp application: what it carries, its middlewares, its routes; nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web

from api import keys, openapi
from api.claims import add_claims
from api.gathering import add_gathering
from api.holding import add_holding
from api.middlewares.access_log import access_log
from api.middlewares.errors import errors
from api.middlewares.limits import Limits, limiting
from api.middlewares.request_id import answer_request_id, request_id
from api.middlewares.security_headers import add_security_headers
from api.operations import register
from api.routes import all_operations
from core.runtime.sealing import open_sealer
from core.runtime.settings import Settings
from core.store.store import Store


def build_app(
    settings: Settings,
    store: Store,
    *,
    limits: Limits | None = None,
    readiness_checks: Sequence[keys.ReadinessCheck] = (),
) -> web.Application:
    """Return the application; *store* is open, and closed by who opened it."""
    app = web.Application(
        # Outermost first. The log sees what the errors became.
        middlewares=[request_id, access_log, errors, limiting(limits or Limits())],
        client_max_size=int(settings.api.max_body_bytes),
    )
    operations = all_operations()
    app[keys.SETTINGS] = settings
    app[keys.STORE] = store
    app[keys.SEALER] = open_sealer(settings)
    app[keys.ZONE] = ZoneInfo(str(settings.timezone))
    app[keys.STOPPING] = asyncio.Event()
    app[keys.READINESS_CHECKS] = list(readiness_checks)
    app[keys.OPENAPI] = orjson.dumps(openapi.document(operations))
    app.on_response_prepare.append(answer_request_id)
    app.on_response_prepare.append(add_security_headers)
    app.on_shutdown.append(_release_held)
    add_holding(app)
    add_gathering(app)
    add_claims(app)
    register(app, operations)
    return app


async def _release_held(app: web.Application) -> None:
    """Have held requests answered before the server waits for them to end."""
    app[keys.STOPPING].set()
