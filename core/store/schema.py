"""Which schema the database has, whether this code suits it, and the way from one to the next.

The database says which code it suits (`schema_info.oldest_code`), and the code which schema it
needs, so that old and new code run side by side while a schema is first widened and later narrowed.
Moving between revisions is Alembic's; it is imported only when that is asked for.
"""

from __future__ import annotations

import asyncio
import io
import threading
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from core.domain.errors import SchemaMismatch
from core.runtime.logs import get_logger
from core.store import dialing
from core.store.pool import Queryable

if TYPE_CHECKING:
    from alembic.config import Config

log = get_logger(__name__)

#: Raised by one when code is written that can live without something older code needs; a later
#: migration that takes that thing away sets `oldest_code` to it.
SCHEMA_GENERATION = 2

#: The oldest revision this code works on. Revisions are four digits, in order.
NEEDED_REVISION = "0005"


#: Alembic's context is one for the whole process; other processes wait at a lock of the database.
_ONE_AT_A_TIME = threading.Lock()


async def check_schema(db: Queryable) -> None:
    """Raise SchemaMismatch, which says what to run, unless this code suits the database."""
    try:
        row = await db.fetchrow("SELECT revision, oldest_code FROM schema_info")
    except asyncpg.UndefinedTableError:
        row = None
    if row is None:
        raise SchemaMismatch("the database has no schema of Kennel: run `kennel db upgrade`")
    revision, oldest_code = row["revision"], row["oldest_code"]
    if not _is_revision(revision):
        raise SchemaMismatch(
            f"the database has schema {revision!r}, which no version of Kennel made: "
            "check KENNEL_DATABASE_URL"
        )
    if oldest_code > SCHEMA_GENERATION:
        raise SchemaMismatch(
            f"this code is too old for the database (schema {revision} asks for generation "
            f"{oldest_code}, this is {SCHEMA_GENERATION}): upgrade Kennel"
        )
    if int(revision) < int(NEEDED_REVISION):
        raise SchemaMismatch(
            f"the database has schema {revision}, this code needs {NEEDED_REVISION}: "
            "run `kennel db upgrade`"
        )


async def current(dsn: str) -> str | None:
    """Return the database's revision; None when it has no schema of Kennel.

    Raises:
        DatabaseUnavailable: nobody answers there, or not to us.
    """
    connection = await dialing.connect(dsn)
    try:
        revision: str | None = await connection.fetchval("SELECT revision FROM schema_info")
    except asyncpg.UndefinedTableError:
        return None
    else:
        return revision
    finally:
        await connection.close(timeout=10)


async def upgrade(dsn: str, revision: str = "head") -> None:
    """Bring the database to *revision*; a second upgrade at the same time waits for the first.

    Raises:
        DatabaseUnavailable: nobody answers there, or not to us.
        SchemaMismatch: newer code made the schema.
    """
    found = await current(dsn)
    if found is not None and found not in known_revisions():
        raise SchemaMismatch(
            f"this code is too old for the database: it does not know schema {found}; "
            "upgrade Kennel"
        )
    await asyncio.to_thread(_run, "upgrade", dsn, revision)
    after = await current(dsn)
    if after != found:
        log.info("schema.upgraded", before=found, after=after)


async def downgrade(dsn: str, revision: str) -> None:
    """Take the database back to *revision*, `base` for nothing. Loses what that one cannot hold."""
    await asyncio.to_thread(_run, "downgrade", dsn, revision)


async def upgrade_sql(revision: str = "head") -> str:
    """Return the SQL of an upgrade from nothing to *revision*, for those who apply it by hand."""
    output = io.StringIO()
    await asyncio.to_thread(_run, "upgrade", None, revision, output)
    return output.getvalue()


def known_revisions() -> tuple[str, ...]:
    """Return the revisions this code ships, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(None))
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


def _is_revision(text: str) -> bool:
    return len(text) == 4 and text.isascii() and text.isdigit()


def _run(verb: str, dsn: str | None, revision: str, output: io.StringIO | None = None) -> None:
    from alembic import command

    config = _config(dsn, output)
    with _ONE_AT_A_TIME:
        getattr(command, verb)(config, revision, sql=output is not None)


def _config(dsn: str | None, output: io.StringIO | None = None) -> Config:
    """Configure without a file: the same in a checkout and from the wheel."""
    from alembic.config import Config

    config = Config(output_buffer=output, attributes={"dsn": dsn})
    folder = str(resources.files("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
