from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core.store.pool import (
    Database,
    DatabaseUnavailable,
    create_pool,
    is_connection_lost,
    is_expected,
    is_unavailable,
    retrying,
)
from tests.store.latepath import late_path


async def test_json_goes_in_and_comes_out_as_python_values(db: Database) -> None:
    value = {"名": ["é", 1, None, True, 1.5], "nested": {"a": []}}

    assert await db.fetchval("SELECT $1::jsonb", value) == value
    assert await db.fetchval("SELECT $1::json", value) == value


async def test_an_error_rolls_the_transaction_back(db: Database) -> None:
    await db.execute("CREATE TABLE notes (n int)")

    async def break_off() -> None:
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO notes VALUES (1)")
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await break_off()

    assert await db.fetchval("SELECT count(*) FROM notes") == 0


async def test_copy_writes_rows(db: Database) -> None:
    await db.execute("CREATE TABLE notes (n int, words text)")

    async with db.transaction() as connection:
        await connection.copy("notes", columns=["n", "words"], rows=[(1, "a"), (2, None)])
        await connection.executemany("INSERT INTO notes VALUES ($1, $2)", [(3, "c"), (4, "d")])

    assert [tuple(row) for row in await db.fetch("SELECT * FROM notes ORDER BY n")] == [
        (1, "a"),
        (2, None),
        (3, "c"),
        (4, "d"),
    ]


async def test_limits_reach_the_server(database_url: str) -> None:
    async with await create_pool(
        database_url,
        size=1,
        application_name="kennel-limits",
        statement_timeout_s=1.5,
        lock_timeout_s=2,
        idle_in_transaction_timeout_s=3,
    ) as db:
        shown = {
            name: await db.fetchval(f"SHOW {name}")
            for name in (
                "application_name",
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
            )
        }

    assert list(shown.values()) == ["kennel-limits", "1500ms", "2s", "3s"]


async def test_behind_a_pooler_nothing_is_prepared_by_name_and_no_limit_is_sent(
    database_url: str,
) -> None:
    async with await create_pool(
        database_url, size=1, application_name="kennel-pooled", pooled=True
    ) as db:
        for _ in range(2):
            assert await db.fetchval("SELECT $1::int + 1", 1) == 2

        assert (
            await db.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        )
        assert await db.fetchval("SHOW statement_timeout") == "0"


async def test_giving_a_connection_back_sends_nothing(db: Database) -> None:
    async with db.connection() as connection:
        # What a reset would undo; pooled connections promise not to do it (see test_queries).
        await connection.execute("SET search_path TO pg_catalog")
        pid = await connection.fetchval("SELECT pg_backend_pid()")

    async with db.connection() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == pid
        assert await connection.fetchval("SHOW search_path") == "pg_catalog"


async def test_waiting_for_a_connection_ends(database_url: str) -> None:
    async with (
        await create_pool(
            database_url, size=1, application_name="kennel-test", acquire_timeout_s=0.05
        ) as db,
        db.connection(),
    ):
        with pytest.raises(DatabaseUnavailable, match="no database connection came free"):
            await db.fetchval("SELECT 1")


async def test_a_database_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect"):
        await create_pool(
            f"postgresql://kennel:x@/kennel?host={tmp_path}&port=5432",
            size=1,
            application_name="kennel-test",
            connect_deadline_s=0.3,
        )


async def test_a_wrong_password_is_not_tried_again(database_url: str) -> None:
    name, _, rest = database_url.partition("@")

    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        async with asyncio.timeout(20):
            await create_pool(
                f"{name}wrong@{rest}",
                size=1,
                application_name="kennel-test",
                connect_deadline_s=600,
            )


async def test_the_pool_survives_the_loss_of_its_connections(
    db: Database, database_url: str
) -> None:
    pid = await db.fetchval("SELECT pg_backend_pid()")
    other = await asyncpg.connect(database_url)
    await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    await other.close()

    assert await retrying(lambda: db.fetchval("SELECT 7")) == 7


async def test_a_connection_lost_in_a_statement_is_told_apart(db: Database) -> None:
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as caught:
        await db.execute("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)")

    assert is_connection_lost(caught.value)
    assert not is_expected(caught.value)


async def test_the_servers_last_words_to_an_idle_connection_are_a_loss_too(
    database_url: str, db: Database
) -> None:
    async with (
        late_path(database_url) as path,
        await create_pool(path.url, size=1, application_name="kennel-idle") as pool,
    ):
        pid = await pool.fetchval("SELECT pg_backend_pid()")
        await db.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        async with asyncio.timeout(10):
            await path.has_ended.wait()

        with pytest.raises(asyncpg.InternalClientError) as caught:
            await pool.fetchval("SELECT 7")
        path.may_end.set()

        assert is_connection_lost(caught.value)
        assert await retrying(lambda: pool.fetchval("SELECT 7")) == 7


async def test_a_deadlock_is_expected_and_tried_again(db: Database) -> None:
    await db.execute("CREATE TABLE notes (id int PRIMARY KEY, n int)")
    await db.execute("INSERT INTO notes VALUES (1, 0), (2, 0)")
    both_hold_one = asyncio.Barrier(2)
    seen: list[BaseException] = []

    async def add(first: int, second: int) -> None:
        async def once() -> None:
            try:
                async with db.transaction() as connection:
                    await connection.execute("UPDATE notes SET n = n + 1 WHERE id = $1", first)
                    if not seen:
                        await both_hold_one.wait()
                    await connection.execute("UPDATE notes SET n = n + 1 WHERE id = $1", second)
            except asyncpg.PostgresError as error:
                seen.append(error)
                raise

        await retrying(once)

    await asyncio.gather(add(1, 2), add(2, 1))

    assert seen
    assert all(is_expected(error) for error in seen)
    assert await db.fetchval("SELECT sum(n) FROM notes") == 4


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "53300", "25006"])
async def test_a_database_that_cannot_write_is_nobodys_fault(db: Database, sqlstate: str) -> None:
    with pytest.raises((asyncpg.PostgresError, DatabaseUnavailable)) as caught:
        await db.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")

    assert is_unavailable(caught.value)
    with pytest.raises(asyncpg.DivisionByZeroError) as ours:
        await db.execute("SELECT 1 / 0")
    assert not is_unavailable(ours.value)


async def test_an_error_of_ours_is_not_tried_again(db: Database) -> None:
    tries = 0

    async def wrong() -> None:
        nonlocal tries
        tries += 1
        await db.execute("SELECT nonsense")

    with pytest.raises(asyncpg.UndefinedColumnError):
        await retrying(wrong)

    assert tries == 1


async def test_what_must_not_happen_twice_is_not_tried_again_after_a_loss() -> None:
    tries: list[BaseException] = []

    async def fail(error: BaseException) -> None:
        tries.append(error)
        raise error

    lost, collided = asyncpg.ConnectionDoesNotExistError(), asyncpg.DeadlockDetectedError()
    for error in (lost, collided):
        with pytest.raises(type(error)):
            await retrying(partial(fail, error), after_loss=False, jitter=lambda: 0)

    assert tries.count(lost) == 1
    assert tries.count(collided) > 1


async def test_retrying_ends(db: Database) -> None:
    tries = 0

    async def busy() -> None:
        nonlocal tries
        tries += 1
        raise asyncpg.LockNotAvailableError("busy")

    with pytest.raises(asyncpg.LockNotAvailableError):
        await retrying(busy, attempts=3)

    assert tries == 3


async def test_who_waits_gets_the_connection_that_is_given_back(db: Database) -> None:
    asked = range(40)  # far more than there are connections

    async def ask(n: int) -> int:
        async with db.transaction() as connection:
            await connection.execute("SELECT pg_sleep(0.005)")
            answer: int = await connection.fetchval("SELECT $1::int", n)
            return answer

    assert await asyncio.gather(*map(ask, asked)) == list(asked)


async def test_a_cancelled_statement_leaves_its_connection_fit_for_the_next(
    database_url: str,
) -> None:
    async with await create_pool(database_url, size=1, application_name="test") as db:
        pid = await db.fetchval("SELECT pg_backend_pid()")
        running = asyncio.create_task(db.execute("SELECT pg_sleep(60)"))
        async with await create_pool(database_url, size=1, application_name="watch") as watch:
            await _until_busy(watch, pid)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert await db.fetchval("SELECT 1") == 1


async def _until_busy(watch: Database, pid: int) -> None:
    async with asyncio.timeout(10):
        while not await watch.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active')", pid
        ):
            pass


async def test_connections_nobody_needs_go_back_to_the_library(database_url: str) -> None:
    async with await create_pool(database_url, size=4, application_name="test") as db:
        all_are_lent = asyncio.Barrier(4)

        async def borrow() -> None:
            async with db.connection():
                await all_are_lent.wait()

        await asyncio.gather(*(borrow() for _ in range(4)))
        assert db.at_hand == 4

        db.trim()  # what the timer does: nobody has used them since the last
        db.trim()
        await db.fetchval("SELECT 1")

        assert db.at_hand == 1


async def test_a_connection_given_up_while_at_hand_makes_room_for_another(
    database_url: str,
) -> None:
    async with await create_pool(database_url, size=1, application_name="test") as db:
        async with db.connection() as connection:
            protocol: Any = getattr(connection.raw, "_protocol")  # noqa: B009 - of no type
        assert db.at_hand == 1

        protocol.abort()  # what asyncpg does where it does not understand the server

        assert await db.fetchval("SELECT 7") == 7
