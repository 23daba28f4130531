"""One event a request: what was asked, how it ended, how long it took; never the query."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from core.runtime.logs import get_logger

log = get_logger(__name__)

#: Asked for every few seconds by machines, and by each of them; of interest only when it fails.
_QUIET = ("/healthz", "/readyz", "/worker/v1/heartbeat", "/worker/v1/claim")


@web.middleware
async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log the request once it is answered, or once its caller went away."""
    started = time.perf_counter()
    status: int | None = None
    try:
        response = await handler(request)
        status = response.status
        return response
    except asyncio.CancelledError:
        status = 499
        raise
    finally:
        duration_s = time.perf_counter() - started
        _write(request, status or 500, duration_s)


def _write(request: web.Request, status: int, duration_s: float) -> None:
    resource = request.match_info.route.resource
    is_quiet = status < 400 and request.path.rstrip("/") in _QUIET
    write = log.debug if is_quiet else log.info
    write(
        "request.answered",
        method=request.method,
        # The template, not the path: bounded in number, and free of what a caller put there.
        route=resource.canonical if resource is not None else None,
        status=status,
        duration_ms=round(duration_s * 1000, 3),
    )
