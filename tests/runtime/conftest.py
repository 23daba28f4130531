"""What the runtime's tests share: an environment without Kennel's variables, logs put back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own, or systemd above them."""
    foreign = {
        "CREDENTIALS_DIRECTORY",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "XDG_STATE_HOME",
    }
    for name in list(os.environ):
        if name in foreign or name.startswith("KENNEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def restored_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    asyncio_level = logging.getLogger("asyncio").level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
