"""Pages of a list: what a caller may ask for, and the addresses of the next and previous one."""

from __future__ import annotations

import re
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from api.envelope import enveloped
from api.keys import SETTINGS

DEFAULT_LIMIT = 10
MOST_LIMIT = 1000

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}/?")


class PageQuery(BaseModel):
    """Which page; the base of every list's query."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: Annotated[int, Field(ge=1, le=MOST_LIMIT, description="Items a page.")] = DEFAULT_LIMIT
    offset: Annotated[int, Field(ge=0, le=2**53, description="Items before the page.")] = 0


def page(request: web.Request, query: PageQuery, *, count: int, results: list[Any]) -> web.Response:
    """Answer one page in the envelope."""
    later = query.offset + query.limit
    earlier = max(query.offset - query.limit, 0)
    return enveloped(
        {
            "count": count,
            "next": _address(request, query, later) if later < count else None,
            "previous": _address(request, query, earlier) if query.offset > 0 else None,
            "results": results,
        }
    )


def base_url(request: web.Request) -> str:
    """Return the address callers reach this server under, without a slash at the end.

    Behind a proxy that is believed (`KENNEL_API__TRUST_FORWARDED`) it is the proxy's, with the
    prefix the proxy took off.
    """
    scheme, host, prefix = request.url.scheme, request.host, ""
    if request.app[SETTINGS].api.trust_forwarded:
        proto = _first(request, "X-Forwarded-Proto").lower()
        scheme = proto if proto in ("http", "https") else scheme
        host = _first(request, "X-Forwarded-Host") or host
        found = _first(request, "X-Forwarded-Prefix")
        prefix = found.rstrip("/") if _PREFIX.fullmatch(found) else ""
    if not _HOST.fullmatch(host):
        api = request.app[SETTINGS].api
        host = f"{api.host}:{api.port}"
    return f"{scheme}://{host}{prefix}"


def _address(request: web.Request, query: PageQuery, offset: int) -> str:
    address = request.rel_url.update_query(limit=query.limit, offset=offset)
    return base_url(request) + str(address)


def _first(request: web.Request, header: str) -> str:
    """Return what the nearest proxy but one wrote first: the address the caller used."""
    return request.headers.get(header, "").split(",")[0].strip()
