"""Callers of the api, and what they make over HTTP.

Every answer of an operation is checked against the OpenAPI document, so that no test can pass
on an answer that the document does not describe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from openapi_schema_validator import OAS31Validator

from api import openapi
from api.operations import ORGS, ORGS_V3
from api.routes import all_operations
from core.domain.tokens import TokenKind, hash_token, make_token
from core.store.store import Store

DOCUMENT = openapi.document(all_operations())
_TEMPLATES = [
    (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path.rstrip("/"))) + "/?"), operations)
    for path, operations in DOCUMENT["paths"].items()
]


@dataclass
class Answered:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: Any = None

    @property
    def data(self) -> Any:
        """What the envelope holds; the test fails with the answer where there is none."""
        assert isinstance(self.body, dict), (self.status, self.text)
        assert "data" in self.body, self.body
        return self.body["data"]

    @property
    def fields(self) -> list[str]:
        """The fields a refusal names."""
        return [wrong["field"] for wrong in self.body.get("invalid_fields", [])]


@dataclass
class Api:
    """A caller with one token."""

    client: TestClient
    token: str | None
    store: Store
    defaults: dict[str, Any] = field(default_factory=dict)

    def with_token(self, token: str | None) -> Api:
        """The same server, called by someone else."""
        return Api(self.client, token, self.store)

    async def request(self, method: str, path: str, **options: Any) -> Answered:
        headers = {
            **({"Authorization": f"Token {self.token}"} if self.token else {}),
            **options.pop("headers", {}),
        }
        async with self.client.request(
            method, path, headers=headers, allow_redirects=False, **options
        ) as response:
            return await _read(method, path, response)

    async def get(self, path: str, **options: Any) -> Answered:
        return await self.request("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answered:
        return await self.request(
            "POST", path, **({"json": json} if json is not None else {}), **options
        )

    async def put(self, path: str, json: Any = None, **options: Any) -> Answered:
        return await self.request("PUT", path, json=json, **options)

    # -- making what a test needs, over HTTP -------------------------------------------------

    async def made(self, path: str, json: Any) -> Any:
        answer = await self.post(path, json)
        assert answer.status == 201, answer.text
        return answer.data

    async def org(self, org_sid: str = "acme") -> str:
        await self.made(f"{ORGS}/", {"org_sid": org_sid})
        return f"{ORGS}/{org_sid}"

    async def team(self, org: str, name: str = "core") -> str:
        await self.made(f"{org}/teams/", {"name": name})
        return f"{org}/teams/{name}"

    async def repo(
        self, team: str, scm_url: str = "https://git.example.org/acme/web.git", **fields: Any
    ) -> str:
        made = await self.made(f"{team}/repos/", {"scm_url": scm_url, "scm_type": "git", **fields})
        return f"{team}/repos/{made['id']}"

    async def scheme(self, repo: str, name: str = "lint", **fields: Any) -> int:
        made = await self.made(f"{repo}/schemes/", {"name": name, **fields})
        return int(made["id"])

    async def project(self, repo: str, branch: str = "main", **fields: Any) -> str:
        made = await self.made(f"{repo}/projects/", {"branch": branch, **fields})
        return f"{repo}/projects/{made['id']}"

    async def a_project(self, org_sid: str = "acme", **fields: Any) -> str:
        """The path of a project with all its parents."""
        repo = await self.repo(await self.team(await self.org(org_sid)))
        return await self.project(repo, **fields)


async def a_token(
    store: Store, role: str, *, name: str = "somebody", org_sid: str | None = None
) -> str:
    """A good user token with this role, of all organisations or of one."""
    token = make_token(TokenKind.USER)
    await store.db.execute(
        "INSERT INTO tokens (kind, name, role, token_hash, org_id)"
        " VALUES ('user', $1, $2, $3, (SELECT id FROM organizations WHERE org_sid = $4))",
        name,
        role,
        hash_token(token),
        org_sid,
    )
    return token


async def _read(method: str, path: str, response: ClientResponse) -> Answered:
    text = await response.text()
    is_json = response.content_type == "application/json" and text
    answered = Answered(
        response.status, response.headers.copy(), text, await response.json() if is_json else None
    )
    if response.status >= 400 and method != "HEAD" and not path.endswith("/readyz"):
        assert_error_shape(answered)
    _check_documented(method, path, answered)
    return answered


def assert_error_shape(answered: Answered) -> None:
    assert answered.headers["Content-Type"].startswith("application/json"), answered
    OAS31Validator({"$ref": "#/components/schemas/Error", **DOCUMENT}).validate(answered.body)
    assert answered.body["status_code"] == answered.status


def _check_documented(method: str, path: str, answered: Answered) -> None:
    """Fail when an operation answers what its document does not say."""
    plain = path.partition("?")[0].replace(ORGS_V3, ORGS)
    operations: dict[str, Any] = next(
        (found for template, found in _TEMPLATES if template.fullmatch(plain)), {}
    )
    described = operations.get(method.lower())
    if described is None or method == "HEAD":
        return
    answers = described["responses"]
    assert str(answered.status) in answers, (
        f"{method} {path}: {answered.status} is not documented: {answered.text}"
    )
    content = answers[str(answered.status)].get("content", {}).get("application/json")
    if content is not None:
        OAS31Validator({**content["schema"], "components": DOCUMENT["components"]}).validate(
            answered.body
        )
