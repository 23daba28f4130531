"""Skip what the machine lacks, and show what the processes said beside a failure."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Generator

import pytest

from tests.e2e.processes import Kennel
from tests.failover.servers import BIN, Pair, new_pair


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs = {mark.args[0] for mark in item.iter_markers("needs")}
    if "pgbouncer" in needs and not shutil.which("pgbouncer", path="/usr/sbin:/usr/bin"):
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    if "nginx" in needs and not shutil.which("nginx", path="/usr/sbin:/usr/bin"):
        pytest.skip("nginx is not installed: apt-get install nginx")
    if needs & {"postgresql", "pgbouncer"} and not (BIN / "postgres").exists():
        pytest.skip(f"PostgreSQL 15 is not installed ({BIN}): apt-get install postgresql-15")


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A primary and its synchronous standby, without a schema."""
    async with new_pair() as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every process's log beside a failure."""
    report = yield
    kennels = [
        value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Kennel)
    ]
    if report.failed:
        report.sections += [
            (f"{daemon.name} (pid {daemon.pid})", daemon.log_tail())
            for kennel in kennels
            for daemon in kennel.daemons
        ]
    return report
