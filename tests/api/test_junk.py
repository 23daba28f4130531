"""Junk in every field of every operation: refused or answered, never an internal error."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel
from yarl import URL

from api.operations import Operation
from api.principals import Access
from api.routes import all_operations
from core.domain.tokens import TokenKind, hash_token, make_token
from core.store.store import Store
from tests.api.caller import Api

#: As they stand in an address, percent-encoded.
QUERY_JUNK = [
    "%00", "%ff", "%ED%A0%80", "%zz", "a%00b", "9" * 400, "-1", "0", "-" + "9" * 30, "9223372036854775808",
    "2147483648", "1e308", "NaN", "Infinity", "1.5", "%D9%A3", "%", "_", "%25", "%5C", "'%3B%20DROP%20TABLE%20jobs",
    "%E2%80%AE", "[]", "{}", "null", "true", "1,2,x", ",", "1,,2", "1," * 500, "x" * 3000, "2026-13-45",
    "0001-01-01", "9999-12-31T23:59:59%2B14:00", "0000-00-00", "infinity", "-infinity", "2026-01-01T00:00:00-99:99",
    "1e18", "-1e18", "now()", "%F0%9F%90%95", "%0a",
]  # fmt: skip
BODY_JUNK: list[Any] = [
    None, 2**63, -(2**63) - 1, 10**30, -1, 1.5, 1e308, "", "\x00", "a\x00b", "x" * 100_000, "\u202e", "🐕", "%s", "'; DROP",
    [], [None], [[]], ["\x00"], [{}], [1] * 5000, {}, {"": ""}, {"x": {"y": {"z": []}}}, "9" * 400,
]  # fmt: skip

OPERATIONS = all_operations()


def path_of(operation: Operation) -> str:
    known = {"org_sid": "acme", "team_name": "core"}
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "1"), operation.path)


@pytest.fixture
async def tokens(api: Api, store: Store) -> dict[Access, str]:
    """A token that gets past the door of each kind of operation."""
    await api.a_project()
    worker, enrolment = make_token(TokenKind.WORKER), make_token(TokenKind.ENROLMENT)
    await store.db.execute(
        "WITH w AS (INSERT INTO workers (name, instance_hash, engines, slots, isolation)"
        " VALUES ('w', '\\x01', '[]', 1, 'group') RETURNING id)"
        " INSERT INTO worker_tokens SELECT $1, id, now() + interval '1 hour' FROM w",
        hash_token(worker),
    )
    await store.db.execute(
        "INSERT INTO tokens (kind, name, token_hash) VALUES ('enrolment', 'rack', $1)",
        hash_token(enrolment),
    )
    return {Access.WORKER: worker, Access.ENROLMENT: enrolment}


def fields_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


@pytest.mark.parametrize(
    "operation", [pytest.param(one, id=one.name) for one in OPERATIONS if one.query is not None]
)
async def test_junk_in_a_filter_is_refused_or_answered(
    api: Api, tokens: dict[Access, str], operation: Operation
) -> None:
    assert operation.query is not None
    caller = api.with_token(tokens.get(operation.access, api.token))
    for name in fields_of(operation.query):
        for junk in QUERY_JUNK:
            address = str(URL(f"{path_of(operation)}?{name}={junk}", encoded=True))
            answer = await caller.request(operation.method, address)
            assert answer.status in (200, 400, 404), f"{address}: {answer.status} {answer.text}"


@pytest.mark.parametrize(
    "operation", [pytest.param(one, id=one.name) for one in OPERATIONS if one.body is not None]
)
async def test_junk_in_a_body_is_refused_or_answered(
    api: Api, tokens: dict[Access, str], operation: Operation
) -> None:
    assert operation.body is not None
    caller = api.with_token(tokens.get(operation.access, api.token))
    for name in fields_of(operation.body):
        for junk in BODY_JUNK:
            answer = await caller.request(
                operation.method, path_of(operation), data=_json({name: junk}), headers=_JSON
            )
            assert answer.status < 500, f"{name}={junk!r:.60}: {answer.status} {answer.text}"


@pytest.mark.parametrize(
    "operation",
    [pytest.param(one, id=f"{one.method} {one.path}") for one in OPERATIONS if "{" in one.path],
)
async def test_junk_in_a_path_is_not_found(
    api: Api, tokens: dict[Access, str], operation: Operation
) -> None:
    caller = api.with_token(tokens.get(operation.access, api.token))
    names = re.findall(r"\{(\w+)\}", operation.path)
    for name in names:
        for junk in (
            "%00",
            "%ff",
            "9" * 400,
            "9223372036854775808",
            "-1",
            "%D9%A3",
            "..%2f..",
            "x" * 2000,
            "%ED%A0%80",
        ):
            wild = operation.path.replace("{" + name + "}", junk)
            address = str(
                URL(
                    re.sub(
                        r"\{(\w+)\}",
                        lambda m: {"org_sid": "acme", "team_name": "core"}.get(m[1], "1"),
                        wild,
                    ),
                    encoded=True,
                )
            )
            answer = await caller.request(
                operation.method, address, headers=_JSON, data=b"{}" if operation.body else None
            )
            assert 400 <= answer.status < 500, f"{address}: {answer.status} {answer.text}"


_JSON = {"Content-Type": "application/json"}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
