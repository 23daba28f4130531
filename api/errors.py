"""Refusals of the HTTP edge: what the caller did wrong, with the status that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from core.domain.errors import KennelError

#: The reference server's default: nothing more special is known.
GENERIC_CODE = 1000
#: Field name for what is wrong with a body as a whole.
WHOLE = "non_field_errors"
#: Fields named in one answer.
_MOST_FIELDS = 50


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field and what is wrong with it, in sentences for the caller."""

    field: str
    messages: tuple[str, ...]


class Refused(KennelError):
    """A request that is not carried out; becomes an error answer with *status*."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: int | str = GENERIC_CODE,
        fields: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.fields = tuple(fields)
        self.headers = dict(headers or {})


class InvalidRequest(Refused):
    """Fields of the body or the query cannot be accepted; all of them are named."""

    def __init__(self, fields: Sequence[FieldError]) -> None:
        first = fields[0]
        super().__init__(400, f"{first.field} {first.messages[0]}", fields=fields)


class Unauthorized(Refused):
    """No token, or one that is not (or no longer) good."""

    def __init__(self, message: str) -> None:
        super().__init__(401, message, headers={"WWW-Authenticate": "Token"})


class Forbidden(Refused):
    """A good token whose owner may not do this."""

    def __init__(self, message: str) -> None:
        super().__init__(403, message)


def invalid(field: str, message: str) -> InvalidRequest:
    """Return the refusal of one field."""
    return InvalidRequest([FieldError(field, (message,))])


def describe(error: ValidationError) -> InvalidRequest:
    """Return the refusal for what pydantic found; never with the input, which may be secret."""
    found: dict[str, list[str]] = {}
    for wrong in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in wrong["loc"])[:200] or WHOLE
        found.setdefault(field, []).append(_sentence(wrong))
        if len(found) >= _MOST_FIELDS:
            break
    return InvalidRequest([FieldError(field, tuple(texts)) for field, texts in found.items()])


def _sentence(wrong: ErrorDetails) -> str:
    """Word what pydantic found; where its own words speak of Python, in words of ours."""
    context = wrong.get("ctx", {})
    match wrong["type"], context.get("field_type"):
        case "too_long", "Value":
            return f"must have {context['max_length']} characters or fewer"
        case "too_short", "Value":
            least = context["min_length"]
            return "must not be empty" if least == 1 else f"must have {least} characters or more"
        case "model_type", _:
            return "must be an object"
    return wrong["msg"].removeprefix("Value error, ")
