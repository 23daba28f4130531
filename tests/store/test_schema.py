from __future__ import annotations

import pytest

from core.domain.errors import SchemaMismatch
from core.store import schema
from core.store.pool import Database, create_pool


async def test_the_migrated_schema_suits_the_code(db: Database, database_url: str) -> None:
    await schema.check_schema(db)

    assert await schema.current(database_url) == schema.known_revisions()[-1]


async def test_what_the_code_needs_is_shipped() -> None:
    assert schema.NEEDED_REVISION in schema.known_revisions()
    assert all(schema._is_revision(revision) for revision in schema.known_revisions())


async def test_an_empty_database_says_what_to_run(empty_database_url: str) -> None:
    async with await create_pool(empty_database_url, size=1, application_name="kennel-test") as db:
        with pytest.raises(SchemaMismatch, match="kennel db upgrade"):
            await schema.check_schema(db)

    assert await schema.current(empty_database_url) is None


async def test_an_older_schema_than_needed_says_what_to_run(db: Database) -> None:
    await db.execute("UPDATE schema_info SET revision = '0000'")

    with pytest.raises(SchemaMismatch, match=r"has schema 0000.*run `kennel db upgrade`"):
        await schema.check_schema(db)


async def test_a_newer_schema_that_old_code_can_live_with_is_accepted(db: Database) -> None:
    await db.execute("UPDATE schema_info SET revision = '9999'")

    await schema.check_schema(db)


async def test_a_newer_schema_that_shuts_old_code_out_asks_for_an_upgrade(db: Database) -> None:
    await db.execute(
        "UPDATE schema_info SET revision = '9999', oldest_code = $1", schema.SCHEMA_GENERATION + 1
    )

    with pytest.raises(SchemaMismatch, match=r"too old for the database.*upgrade Kennel"):
        await schema.check_schema(db)


async def test_a_revision_nobody_made_is_refused(db: Database) -> None:
    await db.execute("UPDATE schema_info SET revision = 'abcd'")

    with pytest.raises(SchemaMismatch, match="no version of Kennel made"):
        await schema.check_schema(db)


async def test_old_code_does_not_migrate_a_newer_database(db: Database, database_url: str) -> None:
    await db.execute("UPDATE schema_info SET revision = '9999'")

    with pytest.raises(SchemaMismatch, match="does not know schema 9999"):
        await schema.upgrade(database_url)
