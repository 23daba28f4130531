"""Texts for people: what a stranger named made harmless, spans and times made short.

Repositories, findings and servers name things; a control character among them must not steer the
terminal. `printable` is applied to every text that is not Kennel's own before it is printed.
"""

from __future__ import annotations

from datetime import datetime

_ELLIPSIS = "…"


def printable(value: object, *, longest: int | None = None) -> str:
    """Return *value* on one line, with what is not printable spelt out as hexadecimal digits."""
    text = "".join(
        char if char.isprintable() else _spelt(char)
        for char in ("" if value is None else str(value))
    )
    text = text.strip()
    return text if longest is None else shortened(text, longest)


def shortened(text: str, longest: int) -> str:
    """Return at most *longest* characters, the last one an ellipsis where some are left out."""
    return text if len(text) <= longest else text[: longest - 1] + _ELLIPSIS


def printable_lines(text: str) -> str:
    """Return a text of several lines, printable but for its line ends and tabs."""
    return "".join(char if char.isprintable() or char in "\n\t" else _spelt(char) for char in text)


def span(seconds: float | None) -> str:
    """Return a span as people read it: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def moment(text: str | None) -> str:
    """Return a time of an answer to the second, in its own zone; `–` for none."""
    if not text:
        return "–"
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return printable(text, longest=32)


def number(value: int | None) -> str:
    """Return a count with separators; `–` for none."""
    return "–" if value is None else f"{value:,}"


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: `1 finding`, `2 findings`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def _spelt(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
