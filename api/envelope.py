"""The two shapes of every answer: data in the envelope, or an error. Bytes by orjson."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web
from pydantic import BaseModel

from api.errors import GENERIC_CODE, FieldError

OK_TEXT = "请求成功"


def enveloped(data: Any, *, status: int = 200, msg: str = OK_TEXT) -> web.Response:
    """Answer *data* in the envelope."""
    return bare({"data": data, "code": 0, "msg": msg, "status_code": status}, status=status)


def bare(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer *data* as it is."""
    return web.Response(
        body=orjson.dumps(data), status=status, headers=headers, content_type="application/json"
    )


def message(content: BaseModel) -> web.Response:
    """Answer a message of the worker protocol."""
    return web.Response(body=content.model_dump_json().encode(), content_type="application/json")


def error(
    status: int,
    message: str,
    *,
    code: int | str = GENERIC_CODE,
    fields: Sequence[FieldError] = (),
    existing_id: int | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Answer a refusal."""
    body: dict[str, Any] = {"status_code": status, "code": code, "msg": message}
    if fields:
        body["invalid_fields"] = [
            {"field": wrong.field, "message": list(wrong.messages)} for wrong in fields
        ]
    if existing_id is not None:
        body["existing_id"] = existing_id
    return bare(body, status=status, headers=headers)


def wire_time(moment: datetime, zone: ZoneInfo) -> str:
    """Return *moment* as answers show it: ISO 8601 with microseconds and the zone's offset."""
    local = moment.astimezone(zone)
    if local.microsecond:
        # In a quarter of the time; of a moment without microseconds it writes none.
        return orjson.dumps(local)[1:-1].decode()
    return local.isoformat(timespec="microseconds")
