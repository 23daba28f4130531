"""Every request has an id: the caller's where it is sane, else a new one; answered and logged."""

from __future__ import annotations

import random
import re

from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.contextvars import bind_contextvars

from api.keys import REQUEST_ID

HEADER = "X-Request-Id"

#: Seeded by the system: an id has to be new, not secret, and is not worth a system call each.
_ids = random.Random()  # noqa: S311 - see above
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@web.middleware
async def request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request, for its answer and for every log line below it."""
    given = request.headers.get(HEADER, "")
    name = given if _SANE.fullmatch(given) else f"{_ids.getrandbits(128):032x}"
    request[REQUEST_ID] = name
    # Never unbound: aiohttp gives each request a context of its own.
    bind_contextvars(request_id=name)
    return await handler(request)


async def answer_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the id into the answer (a signal: streamed answers start before the handler ends)."""
    if REQUEST_ID in request:
        response.headers[HEADER] = request[REQUEST_ID]
