"""The OpenAPI document and the page that shows it: open, and from this server alone."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.keys import OPENAPI
from api.operations import Answer, Operations
from api.principals import Access
from api.scope import path_text
from api.ui import STATIC
from core.domain.errors import NotFound

operations = Operations("docs")

_STATIC_FILES = frozenset(file.name for file in STATIC.iterdir() if file.is_file())

#: The page draws its icons as data: URLs and styles elements in place; scripts come from us only.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)


@operations.get(
    "/openapi.json",
    summary="This document",
    access=Access.OPEN,
    answers={200: Answer(dict[str, Any])},
)
async def openapi_document(request: web.Request) -> web.Response:
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


@operations.get(
    "/docs",
    summary="The reference page",
    access=Access.OPEN,
    answers={200: Answer(str, media_type="text/html")},
)
async def reference_page(_request: web.Request) -> web.StreamResponse:
    return web.FileResponse(STATIC / "docs.html", headers={"Content-Security-Policy": _PAGE_POLICY})


@operations.get(
    "/docs/static/{name}",
    summary="A file of the reference page",
    access=Access.OPEN,
    answers={200: Answer(str, media_type="*/*")},
    is_documented=False,
)
async def static_file(request: web.Request) -> web.StreamResponse:
    name = path_text(request, "name")
    if name not in _STATIC_FILES:
        raise NotFound(f"file {name[:80]!r}")
    # Checked again after an hour: a release brings new ones under the same names.
    return web.FileResponse(STATIC / name, headers={"Cache-Control": "public, max-age=3600"})
