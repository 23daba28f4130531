from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import asyncpg
import orjson
import pytest

from core.store.notify import CHANNEL, EVERYTHING, Signals
from core.store.pool import Database
from tests.store.latepath import late_path

#: Long against any wake-up, short against the patience of whoever runs the tests.
SOON_S = 10.0


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Signals]:
    """The wake-ups of another process."""
    async with Signals(database_url) as running:
        yield running


@pytest.fixture
async def heard(database_url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Every message that has topics, as it goes over the wire."""
    messages: list[dict[str, Any]] = []

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        assert len(str(payload).encode()) < 8000
        message = orjson.loads(str(payload))
        if message["topics"]:
            messages.append(message)

    connection = await asyncpg.connect(database_url)
    await connection.add_listener(CHANNEL, hear)
    yield messages
    await connection.close()


async def forget_start(*signals: Signals) -> None:
    """Wait until all are connected, past the wake-up that comes with it."""
    for each in signals:
        assert await each.wait_connected(SOON_S)


async def all_heard(heard: list[dict[str, Any]], last: str) -> list[str]:
    """Wait until the message with *last* has come over this wire too; return every topic."""
    async with asyncio.timeout(SOON_S):
        while not any(last in message["topics"] for message in heard):
            await asyncio.to_thread(int)
    return [topic for message in heard for topic in message["topics"]]


async def test_a_waiter_of_the_same_process_is_woken_at_once(signals: Signals) -> None:
    with signals.subscribe("tasks") as waiter:
        signals.publish("tasks")

        assert await waiter.wait(0)


async def test_a_waiter_of_another_process_is_woken(signals: Signals, other: Signals) -> None:
    await forget_start(signals, other)
    with other.subscribe("job:12") as waiter:
        signals.publish("job:12")

        assert await waiter.wait(SOON_S)


async def test_other_topics_wake_nobody(signals: Signals, other: Signals) -> None:
    await forget_start(signals, other)
    with other.subscribe("job:12") as waiter, other.subscribe("last") as last:
        signals.publish("job:13", "tasks")
        signals.publish("last")

        assert await last.wait(SOON_S)
        assert not await waiter.wait(0)


async def test_a_wake_up_between_two_waits_is_kept_for_the_second(signals: Signals) -> None:
    with signals.subscribe("tasks") as waiter:
        signals.publish("tasks")
        assert await waiter.wait(0)

        signals.publish("tasks")  # while the waiter looks for work
        signals.publish("tasks")

        assert await waiter.wait(0)
        assert not await waiter.wait(0)


async def test_a_closed_waiter_is_forgotten(signals: Signals) -> None:
    with signals.subscribe("tasks", "jobs") as waiter:
        pass

    signals.publish("tasks")

    assert not await waiter.wait(0)
    assert signals._waiters == {}


async def test_what_follows_the_first_is_gathered(
    signals: Signals, heard: list[dict[str, Any]], database_url: str
) -> None:
    await forget_start(signals)
    async with Signals(database_url, gather_s=0.02) as listener:
        with listener.subscribe("last") as last:
            for number in range(500):
                signals.publish(f"job:{number}", "tasks")
                await asyncio.to_thread(int)  # lets the sender run, as requests would
            signals.publish("last")
            assert await last.wait(SOON_S)

    topics = await all_heard(heard, "last")
    assert {f"job:{number}" for number in range(500)} < set(topics)
    assert len(heard) < 50
    assert topics[0] == "job:0"


async def test_many_topics_are_split_below_the_limit_of_notify(
    signals: Signals, heard: list[dict[str, Any]], other: Signals
) -> None:
    await forget_start(signals, other)
    names = [f"{'长' * 60}:{number}" for number in range(200)]
    with other.subscribe(names[-1]) as last:
        signals.publish(*names)
        assert await last.wait(SOON_S)

    assert await all_heard(heard, names[-1]) == names
    assert len(heard) > 1


async def test_more_than_can_be_named_wakes_everybody(
    signals: Signals, heard: list[dict[str, Any]], other: Signals
) -> None:
    await forget_start(signals, other)
    with other.subscribe("unrelated") as waiter:
        signals.publish(*(f"job:{number}" for number in range(5000)))
        assert await waiter.wait(SOON_S)

    assert await all_heard(heard, EVERYTHING) == [EVERYTHING]


async def test_a_topic_that_does_not_fit_is_refused(signals: Signals) -> None:
    for topic in ("", "x" * 201):
        with pytest.raises(ValueError, match="1 to 200 bytes"):
            signals.publish(topic)


async def test_messages_of_strangers_are_survived(signals: Signals, db: Database) -> None:
    await forget_start(signals)
    with signals.subscribe("tasks") as waiter:
        for payload in (
            "",
            "nonsense",
            "[]",
            "{}",
            '{"from": 1, "topics": 5}',
            '{"from":"x","topics":[7]}',
        ):
            await db.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
        assert not await waiter.wait(0)

        await db.execute("SELECT pg_notify($1, $2)", CHANNEL, '{"from": "x", "topics": ["tasks"]}')

        assert await waiter.wait(SOON_S)
    assert signals.is_connected


async def cut(db: Database) -> None:
    await db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'kennel-signals' AND datname = current_database()"
    )


async def test_a_lost_connection_comes_back_and_wakes_every_waiter_once(
    signals: Signals, db: Database
) -> None:
    await forget_start(signals)
    with signals.subscribe("tasks") as tasks, signals.subscribe("job:1") as job:
        await cut(db)

        assert await tasks.wait(SOON_S)
        assert await job.wait(SOON_S)
        assert signals.is_connected
        assert not await tasks.wait(0)


async def test_a_connection_whose_end_is_late_is_replaced_all_the_same(
    database_url: str, db: Database
) -> None:
    async with late_path(database_url) as path, Signals(path.url) as signals:
        await forget_start(signals)
        with signals.subscribe("tasks") as waiter:
            await cut(db)
            async with asyncio.timeout(SOON_S):
                await path.has_ended.wait()
            signals.publish("jobs")  # over what asyncpg takes for busy

            assert await waiter.wait(SOON_S), "everybody is woken when it hears again"


async def test_what_was_published_without_a_connection_arrives_later(
    signals: Signals, other: Signals, db: Database, heard: list[dict[str, Any]]
) -> None:
    await forget_start(signals, other)
    await cut(db)
    signals.publish("job:99")

    await all_heard(heard, "job:99")


async def test_a_process_starts_without_a_database_and_wakes_its_own(tmp_path: Path) -> None:
    signals = Signals(f"postgresql://kennel:x@/kennel?host={tmp_path}&port=5432")
    await signals.start(connect_timeout_s=0.05)
    try:
        with signals.subscribe("tasks") as waiter:
            signals.publish("tasks")
            assert await waiter.wait(0)
        assert not signals.is_connected
    finally:
        await signals.stop()


async def test_a_silent_connection_is_probed(database_url: str, db: Database) -> None:
    async with Signals(database_url, probe_interval_s=0.05, probe_timeout_s=0.5) as signals:
        await forget_start(signals)
        with signals.subscribe("tasks") as waiter:
            # The connection lives and no longer hears: what a pooler does to LISTEN.
            assert signals._connection is not None
            cast("Any", signals._connection)._listeners.clear()
            await signals._connection.execute("UNLISTEN *")

            assert await waiter.wait(30), "the probe noticed and connected again"


async def test_what_is_said_again_while_it_is_sent_is_sent_again(
    database_url: str, heard: list[dict[str, Any]]
) -> None:
    class Talkative(Signals):
        """Says it again when the first message is out and not yet confirmed."""

        has_repeated = False

        async def _send(self, payload: str) -> None:
            await super()._send(payload)
            if "job:1" in payload and not self.has_repeated:
                self.has_repeated = True
                self.publish("job:1")

    async with Talkative(database_url) as signals:
        await forget_start(signals)
        signals.publish("job:1")
        async with asyncio.timeout(SOON_S):
            while not signals.has_repeated:
                await asyncio.to_thread(int)
        signals.publish("last")

        assert (await all_heard(heard, "last")).count("job:1") == 2


@pytest.mark.parametrize("turns", range(5))
async def test_stop_sends_what_is_due(database_url: str, other: Signals, turns: int) -> None:
    await forget_start(other)
    leaving = Signals(database_url, gather_s=0)
    await leaving.start()
    with other.subscribe("first") as first, other.subscribe("farewell") as farewell:
        leaving.publish("first")
        assert await first.wait(SOON_S)
        leaving.publish("farewell")
        for _ in range(turns):
            # On its way, for so many turns of the loop.
            turned = asyncio.Event()
            asyncio.get_running_loop().call_soon(turned.set)
            await turned.wait()
        await leaving.stop()

        assert await farewell.wait(SOON_S)


async def test_signals_wake_a_loop(signals: Signals) -> None:
    from core.runtime.loops import Wake

    with signals.subscribe("tasks") as waiter:
        wake: Wake = waiter
        assert not await wake.wait(0)
