"""The OpenAPI 3.1 document, made of the declarations and models that authorise and validate.

`python -m api.openapi` prints it; `docs/openapi.json` is the committed copy.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NotRequired, TypeAlias

import orjson
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from api.operations import ORGS, ORGS_V3, Answer, Operation, Shape
from api.principals import Access

Json: TypeAlias = dict[str, Any]

_REF = "#/components/schemas/{model}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")

_ERRORS: Mapping[int, str] = {
    400: "A field is wrong; `invalid_fields` names each.",
    401: "No token, or none that is good.",
    403: "The token's role does not reach this.",
    404: "It does not exist, or not for this token.",
    413: "The body is larger than accepted.",
    415: "The body is neither JSON nor a form.",
    429: "Too many requests at once with this token.",
    500: "A defect of Kennel; its log has it under the request's id.",
    503: "The database is away or the server full: try again.",
}

_DESCRIPTION = f"""Asynchronous job scheduler and worker daemon for code scans.

Every path answers with and without the slash at its end; every path below `{ORGS}/` also below
`{ORGS_V3}/`. Unless said otherwise answers come in the envelope
`{{"data": …, "code": 0, "msg": "…", "status_code": 200}}`. Every error has the shape `Error`.
Bodies are JSON or forms. `X-Request-Id` is taken over, answered, and written to the log."""

_SECURITY: Mapping[Access, Sequence[Mapping[str, list[str]]]] = {
    Access.OPEN: [],
    Access.ENROLMENT: [{"enrolmentToken": []}],
    Access.WORKER: [{"workerToken": []}],
}
_USER_SECURITY: Sequence[Mapping[str, list[str]]] = [{"userToken": []}]

_SECURITY_SCHEMES: Json = {
    "userToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Token <user token>`; `kennel tokens create` makes one.",
    },
    "enrolmentToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "Buys a worker its identity.",
    },
    "workerToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "What `register` and `token` answer.",
    },
}


class InvalidField(TypedDict):
    """A field and what is wrong with it."""

    field: str
    message: list[str]


class Error(TypedDict):
    """Every refusal."""

    status_code: int
    #: 1000 unless something more special is known
    code: int | str
    msg: str
    invalid_fields: NotRequired[list[InvalidField]]
    #: Id of what exists already.
    existing_id: NotRequired[int | str]


def document(operations: Sequence[Operation]) -> Json:
    """Return the document of *operations*."""
    shown = [operation for operation in operations if operation.is_documented]
    schemas = _Schemas(shown)
    paths: dict[str, Json] = {}
    for operation in shown:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kennel",
            "version": version("kennel"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in shown)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {str(status): _error(text) for status, text in _ERRORS.items()},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


class _Schemas:
    """JSON schemas of all models at once, so that shared parts get one name."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        contents = dict.fromkeys(_key(content) for content in _contents(operations))
        by_key = {_key(content): content for content in _contents(operations)}
        self._by_key, described = TypeAdapter.json_schemas(
            [(key, "validation", TypeAdapter(by_key[key])) for key in contents],
            ref_template=_REF,
        )
        self.components: Json = dict(sorted(described.get("$defs", {}).items()))
        self._queries = {
            operation.query: self._take(operation.query)
            for operation in operations
            if operation.query is not None
        }
        for query in self._queries:
            self.components.pop(query.__name__, None)

    def of(self, content: Any) -> Json:
        return dict(self._by_key[_key(content), "validation"])

    def query(self, model: type[BaseModel]) -> Json:
        return self._queries[model]

    def _take(self, model: type[BaseModel]) -> Json:
        schema = self.of(model)
        if "$ref" in schema:
            return dict(self.components[schema["$ref"].rpartition("/")[2]])
        return schema


def _key(content: Any) -> str:
    return f"{getattr(content, '__module__', '')}.{content!r}"


def _contents(operations: Sequence[Operation]) -> Iterator[Any]:
    yield Error
    for operation in operations:
        if operation.body is not None:
            yield operation.body
        if operation.query is not None:
            yield operation.query
        for answer in operation.answers.values():
            if answer.content is not None:
                yield answer.content


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": _described(operation),
        "security": _SECURITY.get(operation.access, _USER_SECURITY),
        "responses": _responses(operation, schemas),
    }
    parameters = list(_parameters(operation, schemas))
    if parameters:
        described["parameters"] = parameters
    content = _request_content(operation, schemas)
    if content:
        # Optional: an absent body is an empty object, which some models accept.
        described["requestBody"] = {"content": content}
    return described


def _described(operation: Operation) -> str:
    needs = {
        Access.OPEN: "Open.",
        Access.OPERATOR: "Needs an admin of all organisations.",
        Access.ENROLMENT: "Needs an enrolment token.",
        Access.WORKER: "Needs a worker token.",
    }.get(operation.access, f"Needs the role {operation.access.value}.")
    return f"{operation.description} {needs}".strip()


def _parameters(operation: Operation, schemas: _Schemas) -> Iterator[Json]:
    for name in _PLACEHOLDER.findall(operation.path):
        is_number = name.endswith("_id")
        schema: Json = {"type": "string", "minLength": 1}
        if is_number:
            schema = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if operation.query is not None:
        described = schemas.query(operation.query)
        required = described.get("required", [])
        for name, schema in described.get("properties", {}).items():
            yield {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": _as_text(schema),
            }
    for name, description in operation.headers.items():
        yield {
            "name": name,
            "in": "header",
            "description": description,
            "schema": {"type": "string"},
        }


def _as_text(schema: Json) -> Json:
    """Return a field's schema as a query has it: absent or empty, but never null."""
    found = {key: value for key, value in schema.items() if key != "title"}
    if found.get("default", "") is None:
        del found["default"]
    choices = [one for one in found.pop("anyOf", []) if one != {"type": "null"}]
    if "type" in found or not choices:
        return found
    return {**found, **choices[0]} if len(choices) == 1 else {**found, "anyOf": choices}


def _request_content(operation: Operation, schemas: _Schemas) -> Json:
    if operation.raw_body is not None:
        return {operation.raw_body: {}}
    if operation.body is None:
        return {}
    schema = {"schema": schemas.of(operation.body)}
    if operation.access in (Access.WORKER, Access.ENROLMENT):
        return {"application/json": schema}
    return {"application/json": schema, "application/x-www-form-urlencoded": schema}


def _responses(operation: Operation, schemas: _Schemas) -> Json:
    found: Json = {
        str(status): _answer(answer, schemas, status)
        for status, answer in operation.answers.items()
    }
    for status in _errors_of(operation):
        found.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return dict(sorted(found.items()))


def _errors_of(operation: Operation) -> Iterator[int]:
    has_body = operation.body is not None or operation.raw_body is not None
    if has_body or operation.query is not None:
        yield 400
    if has_body:
        yield from (413, 415)
    if operation.access is not Access.OPEN:
        yield from (401, 403, 429, 503)
    if "{" in operation.path:
        yield 404
    yield 500


def _answer(answer: Answer, schemas: _Schemas, status: int) -> Json:
    described: Json = {"description": answer.description or ("OK" if status < 400 else "Refused")}
    if answer.content is None:
        return described
    schema = schemas.of(answer.content)
    if answer.shape is Shape.PAGE:
        schema = _enveloped(_paged(schema))
    elif answer.shape is Shape.ENVELOPE:
        schema = _enveloped(schema)
    return {**described, "content": {answer.media_type: {"schema": schema}}}


def _enveloped(data: Json) -> Json:
    return _object(
        data=data,
        code={"type": "integer", "const": 0},
        msg={"type": "string"},
        status_code={"type": "integer"},
    )


def _paged(item: Json) -> Json:
    address = {"type": ["string", "null"], "format": "uri"}
    return _object(
        count={"type": "integer", "minimum": 0},
        next=address,
        previous=address,
        results={"type": "array", "items": item},
    )


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _error(description: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }


def main() -> None:
    """Print the document of this version."""
    from api.routes import all_operations

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(document(all_operations()), option=options))


if __name__ == "__main__":
    main()
