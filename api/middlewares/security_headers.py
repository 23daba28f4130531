"""Headers that keep a browser from making something of an answer that it is not."""

from __future__ import annotations

from aiohttp import web

#: An answer of the API is no page: nothing in it may load or run.
_NOTHING = "default-src 'none'; frame-ancestors 'none'"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": _NOTHING,
    "Cache-Control": "no-store",
}


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add what the handler did not set itself."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
