"""What must not be read in a log: secrets by their key, by their form and by their value.

Owns the rules and the walk through a log event; `logs` puts it at the end of its processors, so
that nothing, exception texts included, passes by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

HIDDEN = "[redacted]"

_SECRET_KEY = re.compile(
    r"token|passw|passphrase|secret|credential|authorization|cookie|private_?key|api_?key"
)
#: Of these a number is a count or an id (`token_id`, `tokens_pruned`), not the secret.
_NUMBERS_ARE_HARMLESS = re.compile(r"token|credential")

# Every repetition is bounded, so that a hostile text costs linear time.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Our own tokens, wherever they stand.
    (re.compile(r"kn[a-z]_[A-Za-z0-9_-]{20,}"), HIDDEN),
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.{0,20000}?(?:-----END[^\n]*|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    # scheme://user:password@host; also with "/" in a password that nobody quoted.
    (re.compile(r"(://)[^\s/?#]{1,1024}@"), rf"\1{HIDDEN}@"),
    (
        re.compile(r"(://)[^\s/?#:@\[]{0,256}:(?!\d{1,5}(?:[/?#\s]|$))[^\s@]{1,512}@"),
        rf"\1{HIDDEN}@",
    ),
    (
        re.compile(
            r"([?&;][\w.-]{0,64}(?:token|passw(?:or)?d|secret|signature|api_?key)=)[^&\s#\"']{1,2048}",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            r"((?:authorization|cookie)[\"']?\s{0,8}[:=]\s{0,8}[\"']?)(?:(?:token|bearer|basic)\s+)?"
            r"[^\s\"',}]{1,2048}",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # password='…' as reprs and configuration files have it.
    (
        re.compile(
            r"((?:passw(?:or)?d|passphrase|secret|token|private_key)[\"']?\s{0,4}[=:]\s{0,4})"
            r"(?:'[^']{1,2048}'|\"[^\"]{1,2048}\")",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(\bbearer\s{1,8})[A-Za-z0-9._~+/=-]{8,2048}", re.IGNORECASE), rf"\1{HIDDEN}"),
)

#: Without any of these no rule can apply: one search for most texts instead of all the rules.
_SUSPECT = re.compile(
    r"kn[a-z]_|-----BEGIN|://|[?&;]|authorization|cookie|bearer|passw|passphrase|secret|token"
    r"|private_key",
    re.IGNORECASE,
)

#: No rule applies to such.
_HEXADECIMAL = re.compile(r"[0-9a-f-]*")

_DEEPEST = 8
_MOST_ITEMS = 500
_LONGEST = 32 * 1024
#: Texts up to this length are remembered as harmless, and so many of them.
_SHORT, _MOST_INNOCENT = 256, 4096


class Redactor:
    """Turns any value into plain JSON without secrets. *secrets*: values known beforehand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Short ones would blank innocent text; the longest first, for one may hold another.
        known = sorted({secret for secret in secrets if len(secret) >= 8}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self._shortest = len(known[-1]) if known else _LONGEST
        #: Short texts seen lately that hold no secret: most of a log line is said again and again.
        self._innocent: set[str] = set()

    def event(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a log event's fields as plain JSON."""
        return {self._key(name): self._field(name, value, 0) for name, value in fields.items()}

    def text(self, text: str) -> str:
        """Return *text* without secrets, as valid UTF-8, cut to a sane length."""
        if text in self._innocent:
            return text
        if len(text) < self._shortest and _HEXADECIMAL.fullmatch(text):
            # Mostly the id of one request or claim: not worth remembering.
            return text
        clean = self._cleaned(text)
        if clean == text and len(text) <= _SHORT:
            if len(self._innocent) >= _MOST_INNOCENT:
                self._innocent.clear()
            self._innocent.add(text)
        return clean

    def _cleaned(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        if _SUSPECT.search(text):
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        if len(text) > _LONGEST:
            text = text[:_LONGEST] + "… (cut)"
        # A lone surrogate (an undecodable file name) is no UTF-8 and would break the line.
        return text.encode("utf-8", "backslashreplace").decode()

    def _key(self, name: object) -> str:
        return name if isinstance(name, str) and name.isidentifier() else self.text(str(name))

    def _field(self, name: object, value: Any, depth: int) -> Any:
        kind = _kind_of(str(name))
        if kind == "harmless" or value is None or isinstance(value, bool):
            return self._plain(value, depth)
        if kind == "countable" and isinstance(value, int | float):
            return self._plain(value, depth)
        return HIDDEN

    def _plain(self, value: Any, depth: int) -> Any:
        if type(value) is str:
            return self.text(value)
        if isinstance(value, Enum):
            value = value.value
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            # What does not fit 64 bits is no JSON number for our serialiser.
            return value if -(2**63) <= value < 2**63 else str(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray):
            return self.text(bytes(value[:_LONGEST]).decode("utf-8", "backslashreplace"))
        if isinstance(value, date | datetime):
            return value.isoformat()
        return self._composite(value, depth)

    def _composite(self, value: Any, depth: int) -> Any:
        if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
            # Their own text would show every field, a password too.
            value = _fields_of(value)
        is_container = isinstance(value, Mapping | list | tuple | AbstractSet)
        if is_container and depth >= _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            items = list(value.items())[:_MOST_ITEMS]
            return {self._key(name): self._field(name, inner, depth + 1) for name, inner in items}
        if is_container:
            return [self._plain(inner, depth + 1) for inner in list(value)[:_MOST_ITEMS]]
        return self.text(_shown(value))


@lru_cache(maxsize=2048)
def _kind_of(name: str) -> Literal["harmless", "countable", "secret"]:
    normal = name.lower().replace("-", "_")
    if not _SECRET_KEY.search(normal):
        return "harmless"
    return "countable" if _NUMBERS_ARE_HARMLESS.search(normal) else "secret"


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    return {field.name: getattr(value, field.name, None) for field in fields(value)}


def _shown(value: object) -> str:
    try:
        # An exception's repr hides its text's line breaks; its text is what a reader wants.
        return (
            f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
        )
    except Exception as error:  # noqa: BLE001 - any __str__ may fail; a log line must not
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
