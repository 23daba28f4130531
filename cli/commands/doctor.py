"""`kennel doctor`: what works on this machine and what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.exits import Exit
from cli.options import AsJson, DataDir
from cli.output import print_json, say


def doctor(
    as_json: AsJson = False,
    data_dir: DataDir = None,
    no_database: Annotated[
        bool,
        typer.Option("--no-database", help="Leave the database alone.", show_default=False),
    ] = False,
) -> None:
    """Check this machine: Python, settings, Git, isolation, engines, database.

    Green (exit status 0) when Kennel can scan here; what is missing beyond that is named, with what
    to do about it.
    """
    from cli.examination import LEVELS, examine
    from cli.running import run

    checks = run(examine(data_dir, with_database=not no_database))
    is_green = all(check.level != "bad" for check in checks)
    if as_json:
        document = {"ok": is_green, "checks": [check.document() for check in checks]}
        print_json(document)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            say(f"{LEVELS[check.level]}  {check.name:<{width}}  {check.text}")
        say()
        say("Kennel can scan on this machine." if is_green else "Kennel cannot scan here yet.")
    raise typer.Exit(Exit.OK if is_green else Exit.FAILED)
