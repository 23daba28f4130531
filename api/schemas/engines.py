"""Limits of engines on the wire."""

from __future__ import annotations

from typing_extensions import TypedDict

from api.schemas.common import RequestBody
from api.schemas.registry import MaxRunning


class EngineLimitChange(RequestBody):
    """How many tasks of an engine may be in the queue and on workers at the same time."""

    #: null: no longer limited
    max_running: MaxRunning | None


class EngineLimitItem(TypedDict):
    """An engine's limit."""

    engine: str
    max_running: int | None
