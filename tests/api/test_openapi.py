"""The OpenAPI document: valid, committed, complete, and true to the models that validate."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from pydantic import BaseModel

from api.operations import Operation
from api.routes import all_operations
from tests.api.caller import DOCUMENT, Api

ROOT = Path(__file__).parents[2]
OPERATIONS = all_operations()


def test_the_document_is_valid_openapi_3_1() -> None:
    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


def test_the_committed_document_is_the_emitted_one() -> None:
    emitted = subprocess.run(
        [sys.executable, "-m", "api.openapi"], cwd=ROOT, check=True, capture_output=True, timeout=60
    )

    committed = (ROOT / "docs" / "openapi.json").read_bytes()
    assert emitted.stdout == committed, "run: make docs"


async def test_the_served_document_is_the_emitted_one(api: Api) -> None:
    answer = await api.with_token(None).get("/openapi.json")

    assert answer.status == 200
    assert answer.body == orjson.loads(orjson.dumps(DOCUMENT))


def test_every_operation_is_in_the_document_with_its_own_name() -> None:
    documented = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    names = [
        one["operationId"]
        for operations in DOCUMENT["paths"].values()
        for one in operations.values()
    ]

    assert documented == {(one.method, one.path) for one in OPERATIONS if one.is_documented}
    assert len(set(names)) == len(names)


def test_no_method_and_path_is_declared_twice() -> None:
    served = [(one.method, path) for one in OPERATIONS for path in one.paths()]

    assert len(set(served)) == len(served)


def test_every_guarded_operation_says_so() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, described in operations.items():
            is_open = path in ("/healthz", "/readyz", "/openapi.json", "/docs")
            assert bool(described["security"]) != is_open, f"{method} {path}"
            assert ("401" in described["responses"]) != is_open, f"{method} {path}"


@pytest.mark.parametrize("operation", [pytest.param(one, id=one.name) for one in OPERATIONS])
def test_a_handler_takes_what_its_operation_declares(operation: Operation) -> None:
    parameters = list(inspect.signature(operation.handler).parameters)[1:]
    hints = typing.get_type_hints(operation.handler)
    declared = [model for model in (operation.body, operation.query) if model is not None]

    assert [hints[name] for name in parameters] == declared


def test_bounds_of_numbers_survive_into_the_document() -> None:
    # Nested the wrong way round, pydantic drops them without a word.
    scheme = DOCUMENT["components"]["schemas"]["SchemeCreate"]["properties"]

    assert (scheme["priority"]["minimum"], scheme["priority"]["maximum"]) == (-100, 100)
    assert scheme["job_runtime_limit"]["minimum"] == 1
    assert scheme["status"]["type"] == "integer"


def test_a_change_has_no_defaults_and_needs_nothing() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    for name in ("OrgChange", "RepoChange", "SchemeChange", "ProjectChange"):
        assert "required" not in schemas[name]
        assert not [
            field for field, schema in schemas[name]["properties"].items() if "default" in schema
        ]


def test_every_body_is_bounded_text_without_end_nowhere() -> None:
    """Each text of a body has a longest length, a pattern or a set of values."""
    unbounded = []

    def walk(schema: Any, where: str) -> None:
        if not isinstance(schema, dict):
            return
        if schema.get("type") == "string" and not {
            "maxLength",
            "pattern",
            "enum",
            "const",
            "format",
        } & set(schema):
            unbounded.append(where)
        for key in ("properties", "$defs"):
            for name, inner in schema.get(key, {}).items():
                walk(inner, f"{where}.{name}")
        for inner in [schema.get("items"), *schema.get("anyOf", [])]:
            walk(inner, where)

    for body in {one.body for one in OPERATIONS if one.body is not None}:
        assert issubclass(body, BaseModel)
        walk(body.model_json_schema(), body.__name__)
    assert unbounded == []


async def test_the_reference_page_loads_everything_from_this_server(api: Api) -> None:
    anybody = api.with_token(None)

    page = await anybody.get("/docs")
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe-eval" not in page.headers["Content-Security-Policy"]
    assert [source for source in sources if source.startswith("/docs/static/")] == [
        s for s in sources if s != "data:,"
    ]
    for source in sources:
        if source.startswith("/"):
            assert (await anybody.get(source)).status == 200
    # a script in the page itself would be blocked by its own policy
    assert re.search(r"<script(?![^>]*src=)", page.text) is None
