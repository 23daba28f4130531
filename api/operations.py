"""One place an operation: path, who may, what it takes, what it answers.

The declaration is what authorises and validates at run time and what the OpenAPI document is
made of, so that neither can differ from the other. A handler is called with what its operation
declares: `handler(request)`, `handler(request, body)`, `handler(request, query)` or
`handler(request, body, query)`; see `api/routes/teams.py` for one of each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Required, TypeAlias, TypedDict, Unpack

from aiohttp import web
from pydantic import BaseModel

from api.auth import authorise
from api.bodies import read_body, read_query
from api.envelope import error
from api.principals import Access
from api.routing import PathTree

Handler: TypeAlias = Callable[..., Awaitable[web.StreamResponse]]
Endpoint: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Where the registry and the job API live, and the second prefix they answer under.
ORGS = "/server/main/api/orgs"
ORGS_V3 = "/server/main/api/v3/orgs"
TEAM = ORGS + "/{org_sid}/teams/{team_name}"
REPO = TEAM + "/repos/{repo_id}"
PROJECT = REPO + "/projects/{project_id}"


class Shape(Enum):
    """How an answer's content is wrapped."""

    BARE = "bare"
    ENVELOPE = "envelope"
    PAGE = "page"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an operation."""

    #: A model or TypedDict; None: no body.
    content: Any = None
    shape: Shape = Shape.BARE
    description: str = ""
    #: For a body that is not JSON.
    media_type: str = "application/json"


def in_envelope(content: Any, description: str = "") -> Answer:
    """Declare *content* in the envelope."""
    return Answer(content, Shape.ENVELOPE, description)


def in_page(content: Any, description: str = "") -> Answer:
    """Declare a page of *content* in the envelope."""
    return Answer(content, Shape.PAGE, description)


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method on one path takes and answers."""

    method: str
    path: str
    handler: Handler
    summary: str
    access: Access
    tag: str
    answers: Mapping[int, Answer]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    #: Media types of a body that the handler reads itself.
    raw_body: str | None = None
    #: Header parameters: name → description.
    headers: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    #: Its handler calls `api.scope.entered_project`: the project is found together with the caller.
    is_in_project: bool = False
    #: Whether a path below `ORGS` also answers below `ORGS_V3`.
    in_v3: bool = True
    #: Shown in the OpenAPI document.
    is_documented: bool = True

    @property
    def name(self) -> str:
        """Identifies the operation: `scans.create_scan`."""
        return f"{self.tag}.{self.handler.__name__}"

    def paths(self) -> Sequence[str]:
        """Return every path it answers under: both prefixes, with and without the slash."""
        found = [self.path]
        if self.in_v3 and self.path.startswith(ORGS):
            found.append(ORGS_V3 + self.path.removeprefix(ORGS))
        twins = [path.rstrip("/") if path.endswith("/") else f"{path}/" for path in found]
        return [*found, *(twin for twin in twins if twin)]

    def endpoint(self) -> Endpoint:
        """Return the handler as the router calls it: authorise, validate, then handle."""

        async def endpoint(request: web.Request) -> web.StreamResponse:
            await authorise(request, self.access, is_in_project=self.is_in_project)
            arguments: list[BaseModel] = []
            if self.body is not None:
                arguments.append(await read_body(request, self.body))
            if self.query is not None:
                arguments.append(read_query(request, self.query))
            return await self.handler(request, *arguments)

        endpoint.__name__ = self.name
        return endpoint


class Options(TypedDict, total=False):
    """What a declaration says of an operation; see `Operation`."""

    summary: Required[str]
    access: Required[Access]
    answers: Required[Mapping[int, Answer]]
    body: type[BaseModel]
    query: type[BaseModel]
    raw_body: str
    headers: Mapping[str, str]
    description: str
    is_in_project: bool
    in_v3: bool
    is_documented: bool


class Operations:
    """The operations of one resource, in order of declaration; *tag* names it in the document."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Operation] = []

    def get(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Declare a read; HEAD answers too."""
        return self._declare("GET", path, options)

    def post(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Declare a create or an action."""
        return self._declare("POST", path, options)

    def put(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Declare a change."""
        return self._declare("PUT", path, options)

    def patch(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Declare an append."""
        return self._declare("PATCH", path, options)

    def delete(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Declare a removal."""
        return self._declare("DELETE", path, options)

    def _declare(self, method: str, path: str, options: Options) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            self.all.append(
                Operation(method=method, path=path, handler=handler, tag=self.tag, **options)
            )
            return handler

        return declare


def register(app: web.Application, operations: Sequence[Operation]) -> None:
    """Add *operations* to the application's router."""
    tree = PathTree()
    for operation in operations:
        endpoint = operation.endpoint()
        # A handler that reads the bytes itself has bounds of its own.
        expecting = expect if operation.raw_body is None else expect_bytes
        for path in operation.paths():
            # Without a variable a path is one look into aiohttp's own dictionary.
            add = tree.add if "{" in path else app.router.add_route
            add(operation.method, path, endpoint, expect_handler=expecting)
            if operation.method == "GET":
                add("HEAD", path, endpoint, expect_handler=expect)
    app.router.register_resource(tree)


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue`: a body that is too large, or not asked for, is not sent."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return error(417, "Expect must be 100-continue")
    if request.content_length is not None and request.content_length > request.client_max_size:
        return error(413, f"the body is larger than {request.client_max_size} bytes")
    return await expect_bytes(request)


async def expect_bytes(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue` where the handler bounds the body."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return error(417, "Expect must be 100-continue")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The answer itself has not begun: it may still become an error.
    request.writer.output_size = 0
    return None
