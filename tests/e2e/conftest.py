"""Kennel's processes on a fresh database of the session's server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from tests.e2e.processes import FAST_LEASES, Kennel


@pytest.fixture
async def kennel(database_url: str, tmp_path: Path) -> AsyncIterator[Kennel]:
    """No process yet; those a test starts are stopped after it."""
    async with Kennel(database_url, tmp_path, FAST_LEASES) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every process's log beside a failure."""
    report = yield
    kennel = getattr(item, "funcargs", {}).get("kennel")
    if report.failed and isinstance(kennel, Kennel):
        report.sections += [
            (f"{daemon.name} (pid {daemon.pid})", daemon.log_tail()) for daemon in kennel.daemons
        ]
    return report
