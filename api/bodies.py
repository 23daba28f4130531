"""Reading what a caller sent, distrustfully: JSON or a form, bounded, then a model.

JSON that is syntax to some and nonsense to others (NaN, duplicate keys, lone surrogates, depth
without end) is refused here, so that no model and no statement ever meets it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import orjson
from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from api.errors import WHOLE, InvalidRequest, Refused, describe, invalid

Model = TypeVar("Model", bound=BaseModel)

#: Longest a body may take to arrive, seconds.
BODY_TIMEOUT_S = 30.0
_DEEPEST = 32
_MOST_PAIRS = 1000
_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Return the body as *model*; an absent one is an empty object.

    Raises:
        Refused: too slow, of an unknown type, or not what the model says.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, "send the body without Content-Encoding")
    try:
        if request.content.is_eof() and request.content_type != _MULTIPART:
            # All of it is here, as mostly: nothing to wait for.
            content = await request.read()
        else:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                if request.content_type == _MULTIPART:
                    return validate_form(model, await _multipart_pairs(request))
                content = await request.read()
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    except (ClientError, ConnectionError):
        raise Refused(400, "the body ended early") from None
    if not content:
        return validate(model, {})
    if request.content_type == _FORM:
        return validate_form(model, _pairs(content.decode("latin-1"), WHOLE))
    if "Content-Type" in request.headers and not _is_json(request.content_type):
        raise Refused(415, "send JSON (application/json) or a form")
    return validate(model, parse_json(content))


def read_query(request: web.Request, model: type[Model]) -> Model:
    """Return the query as *model*; an empty value is no value, of several the last counts."""
    pairs = _pairs(request.rel_url.raw_query_string, "query")
    return validate(model, {name: value for name, value in pairs if value}, is_text=True)


def validate(model: type[Model], values: object, *, is_text: bool = False) -> Model:
    """Return *values* as *model*; where they came as text, text is taken for numbers.

    Raises:
        InvalidRequest: names every field that is wrong.
    """
    try:
        return model.model_validate(values, strict=False if is_text else None)
    except ValidationError as error:
        raise describe(error) from None


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        InvalidRequest: no JSON, or JSON that two readers may understand differently.
    """
    try:
        value = orjson.loads(content)
        depth, members = _extent(value)
        # A colon for every member, and none in a text: then no key was there twice.
        if content.count(b":") != members:
            json.loads(content, object_pairs_hook=_without_duplicates)
    except (orjson.JSONDecodeError, ValueError) as error:
        raise invalid(WHOLE, f"is not valid JSON: {error}"[:200]) from None
    except RecursionError:
        raise invalid(WHOLE, f"is nested deeper than {_DEEPEST} levels") from None
    if depth > _DEEPEST:
        raise invalid(WHOLE, f"is nested deeper than {_DEEPEST} levels")
    return value


def validate_form(model: type[Model], pairs: Iterable[tuple[str, str]]) -> Model:
    """Return form fields as *model*: lists by repetition or as JSON, objects as JSON."""
    gathered: dict[str, list[str]] = {}
    for name, value in pairs:
        gathered.setdefault(name, []).append(value)
    known = _fields_by_name(model)
    values: dict[str, Any] = {}
    for name, texts in gathered.items():
        if name in known:
            values[name] = _form_value(name, texts, known[name])
    return validate(model, values, is_text=True)


def _form_value(name: str, texts: list[str], field: FieldInfo) -> Any:
    kinds = _kinds(field.annotation)
    is_structured = bool(kinds & {list, dict, tuple}) or any(
        isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds
    )
    if is_structured and len(texts) == 1 and texts[0].lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(texts[0].encode())
        except InvalidRequest as error:
            raise invalid(name, error.fields[0].messages[0]) from None
        except UnicodeEncodeError:
            raise invalid(name, "is not valid JSON") from None
    if list in kinds:
        return texts
    if len(texts) > 1:
        raise invalid(name, "is given more than once")
    return texts[0]


def _kinds(annotation: object) -> set[object]:
    """Return the classes an annotation is made of, without their arguments."""
    origin = get_origin(annotation)
    if origin is None:
        return {annotation}
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if isinstance(origin, type):
        return {origin}
    return {kind for inner in get_args(annotation) for kind in _kinds(inner)}


def _fields_by_name(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _pairs(text: str, what: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PAIRS)
    except UnicodeError:
        raise invalid(what, "must be UTF-8") from None
    except ValueError:
        raise invalid(what, f"has more than {_MOST_PAIRS} fields") from None


async def _multipart_pairs(request: web.Request) -> list[tuple[str, str]]:
    try:
        form = await request.post()
    except (HttpProcessingError, ValueError, LookupError, AssertionError):
        raise invalid(WHOLE, "is not a readable multipart form") from None
    for name, value in form.items():
        if not isinstance(value, str):
            raise invalid(name[:200], "must be text, not a file")
    return [(name, str(value)) for name, value in form.items()]


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _extent(value: Any) -> tuple[int, int]:
    """Return how deep a JSON value is, no deeper than matters, and the members of its objects."""
    depth, members, level = 0, 0, [value]
    while level and depth <= _DEEPEST:
        below: list[Any] = []
        for outer in level:
            if isinstance(outer, dict):
                members += len(outer)
                below += outer.values()
            elif isinstance(outer, list):
                below += outer
        depth, level = depth + 1, below
    return depth, members
