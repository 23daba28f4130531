"""How much at once: a process that is full says so at once instead of slowing everybody down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from api.errors import Refused

_RETRY = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests answered at the same time by one process, held ones included."""

    requests: int = 8192
    #: With one and the same token.
    requests_a_token: int = 1024


def limiting(limits: Limits) -> Middleware:
    """Return the middleware that keeps *limits*."""
    open_requests = 0
    by_token: Counter[int] = Counter()

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal open_requests
        # Health must be told from overload, so it passes.
        if request.path.rstrip("/") in ("/healthz", "/readyz"):
            return await handler(request)
        if open_requests >= limits.requests:
            raise Refused(503, "the server is full; try again", headers=_RETRY)
        # A hash: the table holds nothing that a dump of memory would give away as a list.
        owner = hash(request.headers.get("Authorization", ""))
        if by_token[owner] >= limits.requests_a_token:
            raise Refused(429, "too many requests at once with this token", headers=_RETRY)
        open_requests += 1
        by_token[owner] += 1
        try:
            return await handler(request)
        finally:
            open_requests -= 1
            by_token[owner] -= 1
            if not by_token[owner]:
                del by_token[owner]

    return limit
