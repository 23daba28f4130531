"""Asking for a scan: what a body may say, what is answered."""

from __future__ import annotations

import re
from typing import Annotated, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict

from api.schemas.common import Line, RequestBody

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
_COMMIT = re.compile(r"(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})")


def _flag(value: object) -> object:
    """Take the words for true and false that the reference server takes."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("Must be a valid boolean.")


def _commit(value: str) -> str:
    if not _COMMIT.fullmatch(value):
        raise ValueError("must be a whole commit id, 40 or 64 hexadecimal digits")
    return value.lower()


Flag = Annotated[bool, BeforeValidator(_flag)]


class CreateScan(RequestBody):
    """A scan that is asked for. Every field may be absent."""

    incr_scan: Annotated[
        Flag, Field(description="true: what changed since the last good scan; false: everything.")
    ] = True
    async_flag: Annotated[
        Flag, Field(description="true: answer at once; false: answer when the job is closed.")
    ] = True
    force_create: Annotated[
        Flag,
        Field(
            description="true: start now, beside whatever runs; false: wait until the project's "
            "earlier jobs are closed."
        ),
    ] = False
    created_from: Annotated[
        Line, Field(min_length=1, max_length=32, description="Channel, free text.")
    ] = "api"
    revision: Annotated[
        Annotated[str, Field(max_length=64), AfterValidator(_commit)] | None,
        Field(description="Commit to scan; absent: the head of the branch."),
    ] = None


class CreatedJob(TypedDict):
    """The job of a create."""

    id: int
    #: With `async_flag` false, once the job is closed.
    state: NotRequired[int]
    result_code: NotRequired[int]
    result_msg: NotRequired[str]


class CreatedScan(TypedDict):
    id: int


class ScanCreated(TypedDict):
    job: CreatedJob
    scan: CreatedScan
