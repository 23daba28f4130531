"""Headers that keep a browser from making something of an answer that it is not."""

from __future__ import annotations

from aiohttp import web
from multidict import istr

#: An answer of the API is no page: nothing in it may load or run.
_NOTHING = "default-src 'none'; frame-ancestors 'none'"

_HEADERS = {
    istr("X-Content-Type-Options"): "nosniff",
    istr("Referrer-Policy"): "no-referrer",
    istr("X-Frame-Options"): "DENY",
    istr("Content-Security-Policy"): _NOTHING,
    istr("Cache-Control"): "no-store",
}


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add what the handler did not set itself."""
    headers = response.headers
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
