"""Tasks on the wire: which attempt's log is wanted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from api.schemas.common import RequestQuery


class LogQuery(RequestQuery):
    """Which log."""

    attempt: Annotated[
        int | None,
        Field(ge=1, le=32767, description="Number of the attempt, from 1; absent: the last one."),
    ] = None
