"""Lines are JSON in service and readable on a terminal; every logger takes the same way out."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
import structlog
import structlog.testing

from core.runtime.logs import configure_logs, get_logger
from core.runtime.settings import LogSettings

pytestmark = pytest.mark.usefixtures("restored_logs")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(
    format_: Literal["auto", "json", "console"] = "json",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: io.StringIO | None = None,
    secrets: tuple[str, ...] = (),
) -> io.StringIO:
    stream = stream or io.StringIO()
    settings = LogSettings(format=format_, level=level)
    configure_logs(settings, "api", secrets=secrets, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_carries_time_level_event_service_logger_fields_and_context() -> None:
    stream = configured()

    with structlog.contextvars.bound_contextvars(attempt_id=4):
        get_logger("worker.attempt").info("attempt.started", task_id=2)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "attempt.started",
        "service": "api",
        "logger": "worker.attempt",
        "task_id": 2,
        "attempt_id": 4,
    }


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    early = get_logger("early")

    stream = configured()
    early.info("x.done")

    assert [line["event"] for line in lines(stream)] == ["x.done"]


def test_a_logger_follows_each_configuration_and_none() -> None:
    logger = get_logger("x")
    first = configured(level="warning")
    logger.info("x.unseen")
    second = configured()
    logger.info("x.seen")
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as captured:
        logger.info("x.captured")

    assert lines(first) == []
    assert [line["event"] for line in lines(second)] == ["x.seen"]
    assert [line["event"] for line in captured] == ["x.captured"]


def test_what_every_line_says_cannot_be_said_by_an_event() -> None:
    stream = configured()

    get_logger("x").info("x.done", level="fatal", service="bank", timestamp="never", logger="y")
    get_logger("x").exception("x.failed")

    done, failed = lines(stream)
    assert (done["level"], done["service"], done["logger"]) == ("info", "api", "x")
    assert done["timestamp"] == datetime.fromisoformat(done["timestamp"]).isoformat().replace(
        "+00:00", "Z"
    )
    assert failed["level"] == "error"


def test_less_than_the_level_is_not_written() -> None:
    stream = configured(level="warning")

    get_logger("x").info("x.seen")
    logging.getLogger("aiohttp.server").info("seen")
    get_logger("x").warning("x.refused")

    assert [line["event"] for line in lines(stream)] == ["x.refused"]


def test_auto_is_json_in_service_and_readable_on_a_terminal() -> None:
    service = configured("auto")
    get_logger("x").info("x.done", n=1)
    terminal = configured("auto", stream=Terminal())
    get_logger("x").info("x.done", n=1)

    assert lines(service)[0]["n"] == 1
    assert terminal.getvalue().startswith("\x1b")
    assert "x.done" in terminal.getvalue()


def test_loggers_of_the_standard_library_take_the_same_way() -> None:
    stream = configured()

    logging.getLogger("aiohttp.server").error("failed for %s", "https://u:hunter2@h/")
    logging.getLogger("alembic.runtime").info("Running upgrade")
    # Of no interest, and several at every start.
    logging.getLogger("alembic.runtime.plugins").info("setup plugin alembic.autogenerate.schemas")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", stacklevel=1)

    found = [(line["level"], line["logger"]) for line in lines(stream)]
    assert found == [
        ("error", "aiohttp.server"),
        ("info", "alembic.runtime"),
        ("warning", "py.warnings"),
    ]
    assert "hunter2" not in stream.getvalue()


def test_a_record_whose_arguments_do_not_fit_is_still_written() -> None:
    stream = configured()

    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%d files", ("many",), None)
    # Straight to ours: pytest's own handler, beside it, would raise.
    logging.getLogger().handlers[-1].handle(record)

    assert lines(stream)[0]["event"] == "%d files"


def test_an_exception_is_one_line_without_the_secrets_of_its_text() -> None:
    stream = configured(secrets=("pass-phrase-1",))

    def fail() -> None:
        raise ValueError("kna_" + "Ab3_-" * 8 + " and pass-phrase-1")

    try:
        fail()
    except ValueError:
        get_logger("x").exception("x.failed")
        logging.getLogger("asyncio").exception("unhandled")

    first, second = lines(stream)
    for line in (first, second):
        assert "ValueError: [redacted] and [redacted]" in line["exception"]
        assert line["level"] == "error"


def test_a_terminal_is_not_steered_by_what_is_logged() -> None:
    terminal = configured("console", stream=Terminal())

    get_logger("x").info("repo.added", name="\x1b]0;owned\x07\x1b[2J\r", tree={"a": "\x9b1m"})

    written = terminal.getvalue()
    assert "\x1b]0;" not in written
    assert "\x1b[2J" not in written
    assert "\x07" not in written
    assert "\x9b" not in written
    assert "\r" not in written
    assert "\\x1b]0;owned" in written


def test_configuring_twice_writes_each_record_once() -> None:
    configured()
    stream = configured()

    logging.getLogger("x").warning("once")

    assert len(lines(stream)) == 1


def test_a_closed_stream_ends_no_daemon() -> None:
    stream = configured()
    stream.close()

    get_logger("x").info("x.done")


def test_a_full_disk_ends_no_daemon() -> None:
    with Path("/dev/full").open("w") as full:
        configure_logs(LogSettings(format="json"), "api", stream=full)
        get_logger("x").info("x.done")
        # What could not be written must not be tried again at the close.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_lines_of_several_threads_do_not_mix() -> None:
    stream = configured()
    log = get_logger("x")
    threads = [
        threading.Thread(target=lambda: [log.info("x.done", text="y" * 500) for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(lines(stream)) == 400


def test_the_journal_is_told_each_line_s_priority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        configure_logs(LogSettings(format="json"), "api", stream=stream)
        get_logger("x").info("x.done")
        get_logger("x").error("x.failed")

    first, second = (tmp_path / "journal").read_text().splitlines()
    assert first.startswith("<6>{")
    assert second.startswith("<3>{")


def test_another_stream_than_the_journal_s_gets_no_prefix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with (tmp_path / "log").open("w+") as stream:
        configure_logs(LogSettings(format="auto"), "api", stream=stream)
        get_logger("x").info("x.done")

    assert (tmp_path / "log").read_text().startswith("{")


def test_logs_go_to_standard_error_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(LogSettings(format="json"), "api")
    get_logger("x").info("x.done")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert orjson.loads(captured.err)["event"] == "x.done"
