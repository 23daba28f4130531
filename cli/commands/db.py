"""`kennel db`: the schema of the database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.exits import CommandError, Exit
from cli.options import AsJson, DataDir
from cli.output import print_json, say

app = typer.Typer(
    help="The database's schema: which one it has, upgrade, downgrade.\n\n"
    "The database is that of KENNEL_DATABASE_URL, else the data directory's own, which is started "
    "meanwhile.",
    no_args_is_help=True,
)


@app.command()
def upgrade(
    revision: Annotated[
        str, typer.Argument(metavar="[REVISION]", help="Schema to come to.")
    ] = "head",
    sql: Annotated[
        bool,
        typer.Option("--sql", help="Print the SQL and change nothing.", show_default=False),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the database to the schema of this version. Nothing to do is fine.

    Waits for another upgrade, takes short locks only, and gives up rather than holding others up.
    """
    from cli.running import run
    from core.store import schema

    _check_revision(revision, "head")
    if sql:
        say(run(schema.upgrade_sql(revision)))
        return

    async def move(url: str) -> tuple[str | None, str | None]:
        before = await schema.current(url)
        await schema.upgrade(url, revision)
        return before, await schema.current(url)

    before, after = _with_database(move, data_dir)
    say(_moved(before, after))


@app.command()
def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="Schema to go back to; base: none at all.")
    ],
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Lose what the older schema cannot hold.", show_default=False),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take the database back to an older schema. Loses what that one cannot hold."""
    from core.store import schema

    _check_revision(revision, "base")
    if not yes:
        raise CommandError("a downgrade loses what the older schema cannot hold: add --yes")

    async def move(url: str) -> tuple[str | None, str | None]:
        before = await schema.current(url)
        await schema.downgrade(url, revision)
        return before, await schema.current(url)

    before, after = _with_database(move, data_dir)
    say(_moved(before, after))


@app.command()
def current(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say which schema the database has, and which this version knows."""
    from core.store import schema

    found = _with_database(schema.current, data_dir)
    newest = schema.known_revisions()[-1]
    if as_json:
        print_json({"current": found, "newest": newest})
    else:
        say(f"schema {found or 'none'}; the newest this version knows is {newest}")


def _check_revision(revision: str, end: str) -> None:
    from core.store import schema

    known = (*schema.known_revisions(), end)
    if revision not in known:
        raise CommandError(f"there is no schema {revision!r}: known are {', '.join(known)}")


def _moved(before: str | None, after: str | None) -> str:
    if before == after:
        return f"schema {after or 'none'}: nothing to do"
    return f"schema {before or 'none'} → {after or 'none'}"


def _with_database(work: Callable[[str], Coroutine[Any, Any, Any]], data_dir: Path | None) -> Any:
    """Run *work* with the address of the database; what it fails with becomes one sentence."""
    from cli.local.database import borrow_database
    from cli.running import be_quiet, read_settings, run
    from core.domain.errors import KennelError

    settings = read_settings(data_dir=data_dir)

    async def main() -> Any:
        be_quiet(settings)
        async with borrow_database(settings) as url:
            try:
                return await work(url)
            except KennelError:
                raise
            except OSError as error:
                raise CommandError(
                    f"the database cannot be reached: {error}", Exit.UNREACHABLE
                ) from error

    return run(main())
