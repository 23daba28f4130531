"""What the token routes take and answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from api.pagination import PageQuery
from api.schemas.common import Line, RequestBody, integral

_DAY_S = 86400

Lifetime = Annotated[int, Field(ge=1, le=3650 * _DAY_S), BeforeValidator(integral)]


class TokenCreate(RequestBody):
    """A user token needs a role; an enrolment token is single-use or expires, or both."""

    kind: Literal["user", "enrolment"] = "user"
    name: Annotated[
        Line,
        Field(
            min_length=1,
            max_length=128,
            description="Its owner: `creator` of jobs, `remarked_by` of cancels.",
        ),
    ]
    role: Literal["viewer", "member", "admin"] | None = Field(
        default=None, description="Of a user token; needed there."
    )
    org_sid: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="The only organisation a user token sees; null: all."
    )
    expires_in_s: Lifetime | None = Field(default=None, description="null: until revoked.")
    single_use: bool | None = Field(
        default=None, description="Of an enrolment token; default: true unless it expires."
    )


class TokenQuery(PageQuery):
    """Which tokens."""

    kind: Literal["user", "enrolment"] | None = None


class TokenAnswer(TypedDict):
    """A token, without its text."""

    id: int
    kind: Literal["user", "enrolment"]
    name: str
    role: str | None
    org_sid: str | None
    single_use: bool
    created_time: str
    expire_time: str | None
    #: When a single-use token was used.
    used_time: str | None
    revoked_time: str | None


class NewTokenAnswer(TokenAnswer):
    """A token just made, with its text."""

    #: The text; answered this once, stored nowhere.
    token: str
