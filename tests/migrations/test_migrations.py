from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from core.store import schema
from core.store.postgres_install import wheel_bin_dir
from core.store.tables import metadata
from tests.conftest import Postgres

ROOT = Path(__file__).parents[2]
LOCK_KEY = 0x6B656E6E656C


def dump(postgres: Postgres, url: str) -> str:
    """Return the schema as `pg_dump` writes it, without what Alembic keeps for itself."""
    # The server's own: a newer one also shows marks that Debian's 15 keeps in attoptions and its
    # own pg_dump leaves out.
    bin_dir = postgres.bin_dir or wheel_bin_dir()
    done = subprocess.run(
        [
            bin_dir / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--exclude-table=alembic_version",
            url,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The restriction key of pg_dump is new each time.
    return "\n".join(line for line in done.stdout.splitlines() if "restrict " not in line)


async def run(url: str, statement: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return await connection.execute(statement)
    finally:
        await connection.close()


async def create_from_metadata(url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


async def test_up_down_up_ends_where_it_was(postgres: Postgres, empty_database_url: str) -> None:
    empty = dump(postgres, empty_database_url)
    await schema.upgrade(empty_database_url)
    migrated = dump(postgres, empty_database_url)

    for revision in (*schema.known_revisions()[-2::-1], "base"):
        await schema.downgrade(empty_database_url, revision)
        assert await schema.current(empty_database_url) == (
            None if revision == "base" else revision
        )
    assert dump(postgres, empty_database_url) == empty

    await schema.upgrade(empty_database_url)
    assert dump(postgres, empty_database_url) == migrated
    assert await schema.current(empty_database_url) == schema.known_revisions()[-1]


async def test_an_upgrade_of_an_upgraded_database_changes_nothing(
    postgres: Postgres, database_url: str
) -> None:
    before = dump(postgres, database_url)

    await schema.upgrade(database_url)

    assert dump(postgres, database_url) == before


async def upgrade_by_hand(url: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={"PATH": os.defpath, "KENNEL_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_two_processes_upgrade_at_once_and_both_end_well(empty_database_url: str) -> None:
    done = await asyncio.gather(*(upgrade_by_hand(empty_database_url) for _ in range(2)))

    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert await schema.current(empty_database_url) == schema.known_revisions()[-1]


async def test_an_upgrade_is_told_once_and_not_where_nothing_was_to_do(
    empty_database_url: str,
) -> None:
    with capture_logs() as logs:
        await schema.upgrade(empty_database_url)
        await schema.upgrade(empty_database_url)

    told = [event for event in logs if event["event"] == "schema.upgraded"]
    newest = schema.known_revisions()[-1]
    assert [(event["before"], event["after"]) for event in told] == [(None, newest)]


async def test_two_upgrades_of_one_process_both_end_well(empty_database_url: str) -> None:
    await asyncio.gather(*(schema.upgrade(empty_database_url) for _ in range(2)))

    assert await schema.current(empty_database_url) == schema.known_revisions()[-1]


async def test_a_second_upgrade_waits_for_the_first(empty_database_url: str) -> None:
    first = await asyncpg.connect(empty_database_url)
    await first.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    second = asyncio.create_task(schema.upgrade(empty_database_url))

    async with asyncio.timeout(30):
        waiting = False
        while not waiting:
            waiting = await first.fetchval(
                "SELECT count(*) > 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                "WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted"
            )
    assert not second.done()
    assert await schema.current(empty_database_url) is None

    await first.close()
    await asyncio.wait_for(second, 60)
    assert await schema.current(empty_database_url) == schema.known_revisions()[-1]


async def test_a_migration_gives_up_on_a_lock_rather_than_stand_in_the_way(
    database_url: str,
) -> None:
    # The one before it changes jobs.
    await schema.downgrade(database_url, "0005")
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.execute("SELECT * FROM jobs")

        with pytest.raises(Exception, match="lock timeout"):
            await asyncio.wait_for(schema.downgrade(database_url, "base"), 30)

    await reader.close()
    assert await schema.current(database_url) == "0005"


async def test_the_metadata_and_the_migrations_say_the_same(
    postgres: Postgres, database_url: str
) -> None:
    async with postgres.database() as from_metadata:
        await create_from_metadata(from_metadata)

        described = dump(postgres, from_metadata)

    assert dump(postgres, database_url) == described


async def test_the_sql_for_those_who_apply_it_by_hand_makes_the_same_schema(
    postgres: Postgres, database_url: str, empty_database_url: str
) -> None:
    await run(empty_database_url, await schema.upgrade_sql())

    assert dump(postgres, empty_database_url) == dump(postgres, database_url)
    assert await schema.current(empty_database_url) == schema.known_revisions()[-1]


async def test_alembic_by_hand_needs_an_address(tmp_path: Path) -> None:
    done = await upgrade_by_hand("")

    assert done.returncode != 0
    assert "KENNEL_DATABASE_URL" in done.stderr
