"""Real processes on a primary that is killed under them: nothing promised is lost, none restarts."""

from __future__ import annotations

import collections
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.domain.codes import ResultCode
from core.store import schema
from tests.e2e.processes import FAST_LEASES, Client, Kennel, Project, eventually, register
from tests.e2e.repositories import new_repository
from tests.failover.load import Load, all_closed, lines_of, told
from tests.failover.servers import Pair

pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.slow]

SHORT = {**FAST_LEASES, "KENNEL_API__STATEMENT_TIMEOUT_S": "2"}


async def crew(kennel: Kennel, *, of_each: int) -> list[Client]:
    apis = [await kennel.start_api() for _ in range(of_each)]
    for number in range(of_each):
        await kennel.start_scheduler()
        await kennel.start_worker(f"w{number}", api=apis[number % len(apis)])
    return apis


async def projects_on(api: Client, folder: Path, count: int) -> list[Project]:
    return [
        await register(api, new_repository(folder / f"repo{number}").url, engines=["lines"])
        for number in range(count)
    ]


async def is_noticed(kennel: Kennel, load: Load) -> None:
    """Wait until everybody has met the loss, so that what follows is a recovery."""

    async def look() -> bool:
        schedulers = [daemon for daemon in kennel.daemons if daemon.name == "scheduler"]
        return bool(load.refusals) and all(told(found, "loop.unavailable") for found in schedulers)

    await eventually(look, within_s=60, what="every process has met the loss of the primary")


async def is_ready_again(apis: list[Client]) -> None:
    async def look() -> bool:
        return all([(await api.get("/readyz")).status == 200 for api in apis])

    await eventually(look, within_s=60, what="every api says that it is ready")


def assert_nothing_is_lost(jobs: list[Any], rows: dict[str, Any]) -> None:
    # Ended with success, or because a newer job of the project had by then.
    assert {job["result_code"] for job in jobs} <= {ResultCode.SUCCESS, ResultCode.SUPERSEDED}
    assert rows["missing"] == 0
    assert rows["open_tasks"] == 0


def assert_told_in_few_words(kennel: Kennel) -> None:
    """One line a loop at the loss, one at the return, no traceback; and nobody began anew."""
    for daemon in kennel.daemons:
        assert daemon.is_running, daemon.log_tail()
        lines = lines_of(daemon)
        assert [line for line in lines if line.get("exception")] == [], daemon.name
        if daemon.name == "scheduler":
            lost = collections.Counter(line["loop"] for line in told(daemon, "loop.unavailable"))
            back = collections.Counter(line["loop"] for line in told(daemon, "loop.recovered"))
            assert back == lost
            # A promotion may be met twice: the old one gone, the new one not yet writable.
            assert max(lost.values()) <= 2, lost
        if daemon.name in ("api", "scheduler"):
            assert told(daemon, "signals.reconnected"), daemon.log_tail()


async def books(pair: Pair, load: Load) -> dict[str, Any]:
    """Look at the promoted server's own tables."""
    row = (
        await pair.standby.query(
            """
            SELECT
                (
                    SELECT count(*) FROM unnest($1::bigint[]) AS p (id)
                    WHERE NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = p.id)
                ) AS missing,
                (
                    SELECT count(*) FROM tasks AS t
                    WHERE NOT EXISTS (SELECT FROM task_outcomes AS o WHERE o.task_id = t.id)
                    AND t.job_id = ANY($1::bigint[])
                ) AS open_tasks
            """,
            list(load.promised),
        )
    )[0]
    return dict(row)


@pytest.fixture
async def kennel(pair: Pair, tmp_path: Path) -> AsyncIterator[Kennel]:
    """No process yet; a schema on both servers, and the address of both for all processes."""
    await schema.upgrade(pair.url)
    async with Kennel(pair.url, tmp_path, SHORT) as found:
        yield found


async def run_through_a_loss(
    pair: Pair, kennel: Kennel, *, of_each: int, projects: int, before: int, after: int
) -> None:
    apis = await crew(kennel, of_each=of_each)
    load = Load(apis, await projects_on(apis[0], kennel.folder, projects))
    async with load.running():
        load.want(before)
        await load.reached()
        load.want(after)
        pair.primary.kill()
        await is_noticed(kennel, load)
        await pair.promote()
        await load.reached()
    await is_ready_again(apis)
    jobs = await all_closed(apis[0], load, within_s=120)
    assert_nothing_is_lost(jobs, await books(pair, load))
    assert_told_in_few_words(kennel)


@pytest.mark.timeout(240)
async def test_what_was_promised_outlives_the_primary(pair: Pair, kennel: Kennel) -> None:
    await run_through_a_loss(pair, kennel, of_each=1, projects=3, before=6, after=6)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_two_of_each_go_on_by_themselves_when_the_primary_is_killed_under_load(
    pair: Pair, kennel: Kennel
) -> None:
    await run_through_a_loss(pair, kennel, of_each=2, projects=8, before=80, after=80)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_primary_that_falls_silent_is_left_for_the_promoted_standby(
    pair: Pair, kennel: Kennel
) -> None:
    apis = await crew(kennel, of_each=2)
    load = Load(apis, await projects_on(apis[0], kennel.folder, 4))
    async with load.running():
        load.want(20)
        await load.reached()
        load.want(20)
        # Its connections stay open and its port takes new ones: only time tells that it is gone.
        pair.primary.signal_all(signal.SIGSTOP)
        await pair.promote()
        await load.reached(within_s=180)
    await is_ready_again(apis)
    jobs = await all_closed(apis[0], load, within_s=120)
    assert_nothing_is_lost(jobs, await books(pair, load))
    assert all(daemon.is_running for daemon in kennel.daemons)
