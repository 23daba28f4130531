"""Everything but the listener through PgBouncer in transaction mode, with few server connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from cli.exits import Exit
from core.domain.errors import SettingError
from core.runtime.settings import load_settings
from core.store import schema
from core.store.pool import create_pool
from tests.e2e.processes import (
    FAST_LEASES,
    Client,
    Daemon,
    Kennel,
    closed,
    create,
    eventually,
    register,
)
from tests.e2e.repositories import new_repository, stdlib_repository
from tests.failover.load import lines_of
from tests.failover.poolers import Pooler, new_pooler
from tests.failover.servers import Server, new_server
from tests.store.test_queries import LASTING, without_comments

pytestmark = [pytest.mark.needs("pgbouncer"), pytest.mark.timeout(240)]

#: What PgBouncer itself says to a server it lends to the next client.
OWN = re.compile(
    r"SET (application_name|client_encoding|DateStyle|TimeZone)='[^']*';", re.IGNORECASE
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that writes down every statement."""
    async with new_server(log_statement="all") as found:
        yield found


@pytest.fixture
async def pooler(server: Server) -> AsyncIterator[Pooler]:
    async with new_pooler(server, default_pool_size="3") as found:
        yield found


@pytest.fixture
async def kennel(server: Server, pooler: Pooler, tmp_path: Path) -> AsyncIterator[Kennel]:
    """No process yet; those a test starts go through the pooler."""
    pooled = {
        "KENNEL_DATABASE_POOLED": "true",
        "KENNEL_LISTEN_DATABASE_URL": server.url(),
        "KENNEL_SCHEDULER__POOL_SIZE": "8",
    }
    async with Kennel(pooler.url, tmp_path, FAST_LEASES | pooled) as found:
        yield found


async def test_values_of_every_kind_pass_and_nothing_is_prepared_by_name(
    server: Server, pooler: Pooler
) -> None:
    value = {"名": ["é", 1, None]}
    async with await create_pool(
        pooler.url, size=6, application_name="kennel-test", pooled=True
    ) as db:
        await db.execute("CREATE TABLE notes (n int, words text[], value jsonb, seen timestamptz)")

        async def write(n: int) -> None:
            async with db.transaction() as connection:
                await connection.execute(
                    "INSERT INTO notes VALUES ($1, $2, $3, now())", n, ["a", "b"], value
                )
                await connection.copy("notes", columns=["n", "value"], rows=[(n + 100, value)])

        await asyncio.gather(*(write(n) for n in range(20)))

        rows = await db.fetch("SELECT value, array_agg(n) AS n FROM notes GROUP BY value")
        assert [row["value"] for row in rows] == [value]
        assert len(rows[0]["n"]) == 40
    assert leftovers(server, "kennel-test") == []


@pytest.mark.slow
async def test_jobs_run_and_close_through_the_pooler(server: Server, kennel: Kennel) -> None:
    api, doomed = await started(kennel)
    project = await register(api, new_repository(kennel.folder / "repo").url, engines=["lines"])
    full = {"incr_scan": False, "force_create": True}
    jobs = [await create(api, project, **full) for _ in range(4)]

    await closed(api, project, jobs[0])
    doomed.kill()
    await kennel.start_worker("heir", api=api)
    jobs.append(await create(api, project, **full))

    assert {(await closed(api, project, job))["result_code"] for job in jobs} <= {0, 2}
    assert_nothing_was_left(server, kennel)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_what_dies_behind_the_pooler_and_the_pooler_itself_are_replaced(
    server: Server, pooler: Pooler, kennel: Kennel
) -> None:
    api, doomed = await started(kennel)
    slow = await register(
        api, stdlib_repository(kennel.folder / "slow").url, engines=["pylint", "lines"]
    )
    slow_job = await create(api, slow)
    await engine_runs(kennel.folder / "worker-doomed")
    doomed.kill()
    await kennel.start_worker("heir", api=api)
    job = await closed(api, slow, slow_job, within_s=300)
    assert (job["result_code"], job["task_done"]) == (0, 2)

    pooler.kill()
    await pooler.start()

    async def is_created() -> int:
        answer = await api.post(f"{slow.path}/scans/create/", {"force_create": True})
        return answer.body["job"]["id"] if answer.status == 200 else 0

    next_job = await eventually(is_created, within_s=30, what="a job is created once more")
    assert (await closed(api, slow, next_job))["state"] == 2
    assert_nothing_was_left(server, kennel)


async def started(kennel: Kennel) -> tuple[Client, Daemon]:
    # Past the pooler, or its lock and its time limits would be others' too.
    assert await (await kennel.spawn("upgrade", "db", "upgrade")).wait(60) == Exit.OK
    api = await kennel.start_api()
    await kennel.start_scheduler()
    return api, await kennel.start_worker("doomed", api=api, slots=1)


def assert_nothing_was_left(server: Server, kennel: Kennel) -> None:
    assert leftovers(server, "kennel-api", "kennel-scheduler") == []
    for daemon in kennel.daemons[1:]:
        assert [line for line in lines_of(daemon) if line.get("exception")] == []


async def engine_runs(folder: Path) -> None:
    async def look() -> bool:
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if "pylint_driver" in words and str(folder) in words:
                return True
        return False

    await eventually(look, within_s=60, what="pylint runs")


def statements(server: Server) -> Iterator[tuple[str, str, str]]:
    """Yield from the server's log who said what, and by which name it was prepared."""
    entries = re.split(r"\n(?!\t)", server.log())
    for entry in entries:
        match = re.match(
            r"\S+ \S+ \S+ \[\d+\] (\S*): LOG:  (?:execute (\S+)|statement): (.*)", entry, re.DOTALL
        )
        if match:
            yield match[1], match[2] or "", match[3]


def leftovers(server: Server, *names: str) -> list[str]:
    """Return what pooled connections said that would be the next client's too."""
    found = []
    said = 0
    for who, name, sql in statements(server):
        if who not in names:
            continue
        said += 1
        if name not in ("", "<unnamed>"):
            found.append(f"prepared as {name}: {sql[:200]}")
        text = without_comments(sql)
        if not OWN.fullmatch(text.strip()):
            found += [
                f"{what}: {sql[:200]}"
                for what, pattern in LASTING.items()
                if re.search(pattern, text, flags=re.IGNORECASE)
            ]
    assert said > 40
    return found


async def test_a_pooler_nobody_told_of_is_refused_with_the_setting_to_use(
    server: Server, pooler: Pooler
) -> None:
    with pytest.raises(SettingError, match="KENNEL_DATABASE_POOLED=true"):
        async with asyncio.timeout(20):
            await create_pool(
                pooler.url, size=1, application_name="kennel-test", connect_deadline_s=600
            )

    limits = "statement_timeout,lock_timeout,idle_in_transaction_session_timeout"
    async with new_pooler(server, ignore_startup_parameters=limits) as lenient:
        with pytest.raises(SettingError, match="KENNEL_DATABASE_POOLED=true"):
            await create_pool(lenient.url, size=1, application_name="kennel-test")


@pytest.mark.slow
async def test_a_daemon_that_is_not_told_of_the_pooler_ends_with_one_sentence(
    server: Server, pooler: Pooler, tmp_path: Path
) -> None:
    await schema.upgrade(server.url())
    async with Kennel(pooler.url, tmp_path, {}) as kennel:
        daemon = await kennel.spawn("scheduler", "scheduler")

        assert await daemon.wait(60) == Exit.CONFIGURATION
        assert "KENNEL_DATABASE_POOLED=true" in daemon.log_tail(1)


def test_a_pooled_database_needs_the_way_past_the_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENNEL_DATABASE_URL", "postgresql://kennel@pooler/kennel")
    monkeypatch.setenv("KENNEL_DATABASE_POOLED", "true")

    with pytest.raises(SettingError, match="KENNEL_LISTEN_DATABASE_URL"):
        load_settings()
