"""A key that is there twice is refused wherever it hides, and nothing else is for its colons."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import parse_json
from api.envelope import wire_time
from api.errors import InvalidRequest

#: Short, so that keys meet; with what colons are counted wrongly by.
TEXTS = st.sampled_from(["", "a", "b", ":", '"a":1', "{", "\\", "{}:,"])


class Pairs(list[tuple[str, Any]]):
    """An object with its members in order, a key maybe twice."""


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(TEXTS, inner), max_size=4).map(Pairs)
    ),
    max_leaves=12,
)


def written(value: Any) -> str:
    if isinstance(value, Pairs):
        members = (f"{json.dumps(key)} : {written(inner)}" for key, inner in value)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return json.dumps(value)


def repeats(value: Any) -> bool:
    if isinstance(value, Pairs):
        inner = [inside for _, inside in value]
        return len(dict(value)) < len(value) or any(map(repeats, inner))
    return isinstance(value, list) and any(map(repeats, value))


@given(VALUES)
def test_json_is_refused_exactly_when_a_key_is_there_twice(value: Any) -> None:
    text = written(value)

    if repeats(value):
        with pytest.raises(InvalidRequest, match="same key twice"):
            parse_json(text.encode())
    else:
        assert parse_json(text.encode()) == json.loads(text)


@given(
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is beside
    zone=st.sampled_from(["Asia/Shanghai", "UTC", "America/St_Johns", "Australia/Lord_Howe"]),
)
def test_times_on_the_wire_have_microseconds_and_an_offset(moment: datetime, zone: str) -> None:
    local = moment.astimezone(ZoneInfo(zone))

    assert wire_time(moment, ZoneInfo(zone)) == local.isoformat(timespec="microseconds")
    whole = moment.replace(microsecond=0)
    assert wire_time(whole, ZoneInfo(zone)).partition(".")[2][:6] == "000000"
