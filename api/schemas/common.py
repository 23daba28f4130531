"""Types that requests are made of, and the base of request models.

Order within `Annotated` matters: constraints first, then what turns 45.0 into 45; nested the
other way round, pydantic drops the bounds from the JSON schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class RequestBody(BaseModel):
    """A body: JSON types are taken at their word, unknown keys are ignored (as TCA does)."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema.get("properties", {}).values():
        field.pop("default", None)
    schema.pop("required", None)


#: For a PUT: what is absent stays as it is, so a default says nothing.
CHANGE = ConfigDict(json_schema_extra=_without_defaults)


class RequestQuery(BaseModel):
    """A query: everything is text there, and unknown names are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def storable(value: str) -> str:
    """Refuse what PostgreSQL or UTF-8 cannot hold."""
    if _UNSTORABLE.search(value):
        raise ValueError("must not contain NUL or lone surrogates")
    return value


def one_line(value: str) -> str:
    """Refuse line breaks and characters that reorder or hide others."""
    if _CONTROL.search(value):
        raise ValueError("must be one line without control characters")
    return value


def integral(value: object) -> object:
    """Take 45.0 for 45: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def json_size(most_bytes: int) -> Any:
    """Bound what a free-form value takes as JSON."""

    def check(value: object) -> object:
        try:
            size = len(orjson.dumps(value))
        except (TypeError, ValueError):
            raise ValueError("cannot be written as JSON") from None
        if size > most_bytes:
            raise ValueError(f"is larger than {most_bytes} bytes as JSON")
        if _has_unstorable(value):
            raise ValueError("must not contain NUL or lone surrogates")
        return value

    return AfterValidator(check)


def _has_unstorable(value: object) -> bool:
    if isinstance(value, str):
        return bool(_UNSTORABLE.search(value))
    if isinstance(value, dict):
        return any(_has_unstorable(inner) for pair in value.items() for inner in pair)
    return isinstance(value, list) and any(_has_unstorable(inner) for inner in value)


#: Any text, lines included.
Text = Annotated[str, AfterValidator(storable)]
#: Text on one line.
Line = Annotated[str, AfterValidator(one_line)]
#: What an id in a body or query can be.
Id = Annotated[int, Field(ge=1, le=2**63 - 1), BeforeValidator(integral)]
#: A word for machines: engine names, languages, tags.
Word = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/@#-]*$")
]
