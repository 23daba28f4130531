"""No secret passes the redactor, wherever it stands; what is no secret does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from core.protocol.messages import ScmAuth
from core.runtime.redaction import HIDDEN, Redactor

SECRET_KEYS = st.sampled_from(
    [
        "token",
        "lease_token",
        "Kennel-Token",
        "password",
        "PASSWORD",
        "db_passwd",
        "client_secret",
        "secret_key",
        "Authorization",
        "Set-Cookie",
        "private_key",
        "privateKey",
        "X-Api-Key",
        "passphrase",
        "credentials",
    ]
)
#: Text in which the mark below cannot stand by chance.
CANARY = "qZ7canaryQx9"
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
CANARIES = st.sampled_from(
    [CANARY, [CANARY], {"inner": {"deep": CANARY}}, CANARY.encode(), SecretStr(CANARY), (CANARY,)]
)


def nested(value: Any, path: list[str]) -> Any:
    for name in path:
        value = [value] if name == "[]" else {name: value}
    return value


@given(
    key=SECRET_KEYS,
    secret=CANARIES,
    path=st.lists(st.sampled_from(["[]", "a", "b-c", "ü"]), max_size=12),
    beside=PLAIN,
)
def test_a_value_under_a_secret_key_is_hidden_at_any_depth(
    key: str, secret: Any, path: list[str], beside: Any
) -> None:
    event = {"event": "x.done", "beside": beside, "found": nested({key: secret}, path)}

    line = orjson.dumps(Redactor().event(event))

    assert CANARY.encode() not in line


@given(
    before=st.text(max_size=30),
    secret=st.from_regex(r"kn[a-z]_[A-Za-z0-9_-]{20,60}", fullmatch=True),
    after=st.text(max_size=30),
    path=st.lists(st.sampled_from(["[]", "a"]), max_size=10),
)
def test_a_token_of_ours_is_hidden_in_any_text(
    before: str, secret: str, after: str, path: list[str]
) -> None:
    line = orjson.dumps(Redactor().event({"found": nested(f"{before}{secret}{after}", path)}))

    assert secret.encode() not in line


@given(PLAIN, st.text(max_size=10))
def test_whatever_is_logged_becomes_one_line_of_json(value: Any, name: str) -> None:
    line = orjson.dumps(Redactor().event({name: value}))

    assert b"\n" not in line


@given(
    secret=st.text(min_size=8, max_size=40).filter(lambda text: text not in HIDDEN),
    around=st.text(max_size=20),
)
def test_a_known_secret_is_hidden_whatever_it_looks_like(secret: str, around: str) -> None:
    redacted = Redactor([secret]).text(f"{around}{secret}")

    assert secret not in redacted.replace(HIDDEN, "")


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://kennel:{CANARY}@db:5432/kennel",
        f"https://{CANARY}@git.example/x.git",
        f"https://user:p/{CANARY}/w@git.example/x.git",
        f"https://user:p@{CANARY}@git.example/x.git",
        f"fatal: unable to access 'https://u:{CANARY}@h/': no",
        f"GET /x?access_token={CANARY}&page=2",
        f"Authorization: Token {CANARY}",
        f"{{'authorization': 'Bearer {CANARY}'}}",
        f"Cookie: {CANARY}",
        f"sent Bearer {CANARY}",
        f"Auth(username='u', password='{CANARY}')",
        f"{{'private_key': '{CANARY}'}}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_a_secret_is_hidden_by_its_form(text: str) -> None:
    assert CANARY not in Redactor().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://git.example:8443/team/x.git",
        "http://127.0.0.1:8000/ui mailto me@example.com",
        "ssh: user git@host",
        "src/tokens/password_reset.py:10:3 W0611 unused import",
        "knowledge is kn_wn",
        "?page=2&page_size=50",
        "The Bearer of news",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_models_and_dataclasses_are_shown_by_their_fields_without_the_secret_ones() -> None:
    @dataclass(frozen=True, slots=True)
    class Source:
        url: str
        auth: ScmAuth

    source = Source("ssh://h/x", ScmAuth(username="u", private_key=CANARY))

    assert Redactor().event({"source": source}) == {
        "source": {
            "url": "ssh://h/x",
            "auth": {"username": "u", "password": None, "private_key": HIDDEN},
        }
    }


def test_counts_and_ids_of_tokens_stay_readable() -> None:
    event = {"token_id": 7, "tokens_pruned": 0, "has_token": True, "password": None}

    assert Redactor().event(event) == event


def test_a_number_under_a_password_is_hidden() -> None:
    assert Redactor().event({"password": 1234}) == {"password": HIDDEN}


def test_the_exception_s_text_is_kept_and_cleaned() -> None:
    shown = Redactor().event({"error": ValueError(f"no https://u:{CANARY}@h")})

    assert shown == {"error": f"ValueError: no https://{HIDDEN}@h"}


def test_an_object_that_cannot_be_shown_costs_no_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(CANARY)

    assert Redactor().event({"found": Broken()}) == {
        "found": "<Broken that cannot be shown: RuntimeError>"
    }


def test_plain_kinds_are_written_as_a_reader_expects() -> None:
    class Colour(Enum):
        RED = "red"

    event = {
        "path": Path("/a"),
        "colour": Colour.RED,
        "big": 2**70,
        "raw": b"\xff",
        "odd": "\ud800",
    }

    assert Redactor().event(event) == {
        "path": "/a",
        "colour": "red",
        "big": str(2**70),
        "raw": "\\xff",
        "odd": "\\ud800",
    }


def test_size_and_depth_are_bounded_even_for_what_contains_itself() -> None:
    loop: dict[str, Any] = {"items": list(range(100_000)), "text": "x" * 10_000_00}
    loop["self"] = loop

    assert len(orjson.dumps(Redactor().event(loop))) < 500_000


@pytest.mark.parametrize(
    "hostile", ["://" * 30_000, "://a:" * 20_000, "authorization " * 8_000, "-----BEGIN " * 9_000]
)
def test_a_hostile_text_costs_no_more_than_its_length(hostile: str) -> None:
    started = time.process_time()
    Redactor().text(hostile)

    assert time.process_time() - started < 2.0


def test_a_known_secret_of_hexadecimal_digits_is_hidden_where_ids_stay() -> None:
    redactor = Redactor(["0123456789abcdef"])

    shown = redactor.event({"job": "0123-4567", "key": "ff0123456789abcdefff"})

    assert shown == {"job": "0123-4567", "key": f"ff{HIDDEN}ff"}
