"""A primary that is lost with all it had not sent: what was answered stays, and work goes on."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest

from core.runtime.settings import LeaseSettings, Settings
from core.store import schema
from core.store.notify import Signals
from core.store.pool import DatabaseUnavailable, create_pool, is_unavailable
from core.store.store import Store
from scheduler.reaper import Reaper
from tests.e2e.processes import eventually
from tests.failover.servers import Pair

pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.timeout(180)]


async def test_a_pool_moves_from_a_dead_primary_to_the_promoted_standby(pair: Pair) -> None:
    async with await create_pool(pair.url, size=3, application_name="kennel-test") as db:
        await db.execute("CREATE TABLE notes (n int)")
        pair.primary.kill()

        with pytest.raises(Exception) as during:
            await db.execute("INSERT INTO notes VALUES (1)")
        await pair.promote()

        async def writes() -> bool:
            try:
                await db.execute("INSERT INTO notes VALUES (2)")
            except (DatabaseUnavailable, asyncpg.PostgresError, OSError):
                return False
            return True

        await eventually(writes, within_s=30, what="the pool writes to the promoted standby")
        assert is_unavailable(during.value)
        assert await db.fetchval("SELECT count(*) FROM notes") == 1


async def test_a_standby_is_never_taken_and_the_refusal_says_why(pair: Pair) -> None:
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        await create_pool(
            pair.standby.url(), size=1, application_name="kennel-test", connect_deadline_s=0.2
        )


async def test_the_listener_moves_too_and_hears_again(pair: Pair) -> None:
    async with Signals(pair.url, probe_interval_s=0.5, probe_timeout_s=2) as signals:
        assert signals.is_connected
        pair.primary.kill()

        async def is_away() -> bool:
            return not signals.is_connected

        await eventually(is_away, within_s=10, what="the loss is noticed")
        await pair.promote()

        assert await signals.wait_connected(30)
        async with Signals(pair.url) as other:
            with signals.subscribe("tasks") as waiter:
                other.publish("tasks")
                assert await waiter.wait(10)


async def test_a_write_that_was_given_up_is_seen_by_nobody_before_the_standby_has_it(
    pair: Pair,
) -> None:
    async with (
        await create_pool(pair.url, size=2, application_name="kennel-test") as db,
    ):
        await db.execute("CREATE TABLE notes (n int)")
        pair.standby.signal_all(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await db.execute("INSERT INTO notes VALUES (1)")

        # Still waiting, not cancelled: cancelled it would be there for all to see, and to answer for.
        async def waits() -> bool:
            return bool(
                await db.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                )
            )

        await eventually(waits, within_s=10, what="the commit waits for the standby")
        assert await db.fetchval("SELECT count(*) FROM notes") == 0

        pair.standby.signal_all(signal.SIGCONT)

        async def is_there() -> bool:
            return await db.fetchval("SELECT count(*) FROM notes") == 1

        await eventually(is_there, within_s=30, what="the standby has it, so it is there")


async def test_a_promoted_standby_takes_no_worker_for_lost_that_it_never_heard_of(
    pair: Pair,
) -> None:
    await schema.upgrade(pair.url)
    async with (
        await create_pool(pair.url, size=2, application_name="kennel-test") as db,
        Signals(pair.url) as signals,
    ):
        await db.execute(_WORKER)
        pair.primary.kill()
        await pair.promote()

        async def age_s() -> float:
            try:
                return float(await db.fetchval(_AGE))
            except (DatabaseUnavailable, asyncpg.PostgresError, OSError):
                return 0

        # The standby has run for longer than a lease when it becomes the primary.
        lease_s = await eventually(age_s, within_s=30, what="the promoted standby answers") / 2
        lease = LeaseSettings(lease_s=lease_s, fence_s=lease_s * 0.8, heartbeat_s=lease_s * 0.2)
        reaper = Reaper(Store(db, signals), Settings(lease=lease))

        assert await db.fetchval("SELECT count(*) FROM worker_beats") == 0
        assert await reaper.tick() == 0
        await db.execute("UPDATE worker_beats SET seen_at = now() - make_interval(secs => $1)", 600)
        assert await reaper.tick() == 1


_WORKER = """
    INSERT INTO workers
        (name, instance_hash, tags, engines, slots, isolation, version, registered_at)
    VALUES
        ('w', decode(repeat('ab', 32), 'hex'), '{}', '[]', 1, 'group', '1', now() - interval '1 d')
"""
_AGE = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8"
