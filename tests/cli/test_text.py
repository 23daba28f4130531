"""What strangers named is harmless on a terminal."""

from __future__ import annotations

import pytest

from cli.text import moment, plural, printable, printable_lines, span


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\nc\td", "a\\x0db\\x0ac\\x09d"),
        ("\x9b31m", "\\x9b31m"),
        ("left\u202eright", "left\\u202eright"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
        ("文件 ü [bold]", "文件 ü [bold]"),
    ],
)
def test_what_steers_a_terminal_is_spelt_out(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert printable("x" * 100, longest=10) == "x" * 9 + "…"


def test_lines_of_a_log_stay_lines() -> None:
    assert printable_lines("one\n\ttwo\x1b[0m\n") == "one\n\ttwo\\x1b[0m\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.44, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (7800, "2 h 10 min")],
)
def test_spans_are_short(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


def test_counts_and_times_are_readable() -> None:
    assert [plural(count, "file") for count in (0, 1, 1234)] == ["0 files", "1 file", "1,234 files"]
    assert moment("2026-06-01T10:27:26.442961+08:00") == "2026-06-01 10:27:26"
    assert (moment(None), moment("\x1b")) == ("–", "\\x1b")
