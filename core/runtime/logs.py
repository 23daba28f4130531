"""How a process logs: JSON lines in service, readable on a terminal, never with a secret.

Logs go to standard error; standard output belongs to what a command was asked for. Records of
the standard library's loggers (asyncio, aiohttp, alembic) take the same way out.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import IO, Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from core.runtime.redaction import Redactor
from core.runtime.settings import LogSettings, read_service_manager

#: sd-daemon(3): what journald reads a line's priority from.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
#: Methods that are not called as their level is.
_LEVELS = {"warn": "warning", "exception": "error"}
#: Fields that every line has from here, whatever an event calls its own.
_OURS = frozenset(("timestamp", "level", "service", "logger"))


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module; safe to call at import, before `configure_logs`."""
    return cast("FilteringBoundLogger", _Logger(name))


def configure_logs(
    settings: LogSettings,
    service: str,
    *,
    secrets: Iterable[str] = (),
    stream: IO[str] | None = None,
) -> None:
    """Send every log of this process to *stream* (standard error) as *settings* say.

    *service* is in every line; *secrets* (`Settings.secrets()`) are blanked wherever they stand.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    is_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _completing(service, Redactor(secrets)),
            *(_json(stream) if is_json else _console(stream)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *name: _Lines(stream, *name),
        # Structlog's own cache would outlive a configuration; `_Logger` has one that does not.
        cache_logger_on_first_use=False,
    )
    _adopt_standard_library(level)


class _Logger:
    """A module's logger: bound once a configuration, where structlog would bind it once a line.

    Loggers are made at import and used before and after a configuration.
    """

    __slots__ = ("_bound", "_name", "_processors")

    def __init__(self, name: str) -> None:
        self._name = name
        self._processors: object = None
        self._bound: Any = None

    def __getattr__(self, method: str) -> Any:
        processors = structlog.get_config()["processors"]
        if processors is not self._processors:
            self._bound = structlog.get_logger(self._name).bind()
            self._processors = processors
        return getattr(self._bound, method)


class _Lines:
    """Writes finished lines; a full disk or a closed pipe must not end a daemon."""

    _lock = threading.Lock()

    def __init__(self, stream: IO[str], name: str = "") -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass  # nobody left to tell

    log = debug = info = warning = error = critical = msg


def _completing(service: str, redactor: Redactor) -> Processor:
    """Return what makes a line of an event: its secrets blanked, and whose it is, and when."""

    def complete(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        line: dict[str, Any] = {
            "timestamp": datetime.now(UTC),
            "level": _LEVELS.get(method, method),
            "event": None,
        }
        line |= redactor.event(event if _OURS.isdisjoint(event) else _foreign(event))
        line["service"] = service
        line["logger"] = logger.name
        return line

    return complete


def _foreign(event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if name not in _OURS}


def _json(stream: IO[str]) -> list[Processor]:
    is_journal = _is_journal(stream)

    def render(_: WrappedLogger, __: str, event: EventDict) -> str:
        line = orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()
        return f"<{_PRIORITY.get(event['level'], 6)}>{line}" if is_journal else line

    return [render]


def _is_journal(stream: IO[str]) -> bool:
    """Tell whether journald reads *stream*: it names the socket it gave us by its inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return read_service_manager().journal_stream == f"{found.st_dev}:{found.st_ino}"


def _console(stream: IO[str]) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [_without_controls, cast("Processor", renderer)]


def _without_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Spell out control characters: what a repository is called must not steer a terminal."""
    return {name: _printable(value) for name, value in event.items()}


def _printable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in value)


class _Bridge(logging.Handler):
    """Hands records of the standard library's loggers to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        _log_at(get_logger(record.name), record.levelno)(message, exc_info=record.exc_info or None)


def _log_at(logger: FilteringBoundLogger, level: int) -> Callable[..., Any]:
    if level >= logging.ERROR:
        return logger.error
    if level >= logging.WARNING:
        return logger.warning
    return logger.info if level >= logging.INFO else logger.debug


def _adopt_standard_library(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Bridge)] + [
        _Bridge()
    ]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    # At debug it tells of every selector made.
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))
    # At info they tell of themselves at every start; migrations that ran are told by ours.
    for chatty in ("alembic.runtime.plugins", "alembic.runtime.migration"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
