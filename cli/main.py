"""The command `kennel`: what commands there are. Their work is imported when one is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.commands import (
    daemons,
    db,
    doctor,
    jobs,
    registry,
    scan,
    shares,
    tokens,
    up,
    why,
    workers,
)
from cli.exits import MEANINGS, Exit
from cli.running import guarded

_EPILOG = "\n\n".join(
    ["[bold]Exit status[/bold]", *(f"{code.value:>3}  {text}" for code, text in MEANINGS.items())]
)

app = typer.Typer(
    name="kennel",
    help="Kennel runs code scans: a scheduler, its API and its workers, in one command.\n\n"
    "kennel scan PATH_OR_URL scans now, with or without a server; kennel up keeps one running. "
    "Every setting is an environment variable (docs/settings.md).",
    epilog=_EPILOG,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_USE, _WATCH, _REGISTRY, _SERVE = "Scan", "Watch and steer", "Set up", "Serve"

app.command(rich_help_panel=_USE)(scan.scan)
app.command(rich_help_panel=_USE)(up.up)
app.command(rich_help_panel=_USE)(doctor.doctor)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_WATCH)
app.command(rich_help_panel=_WATCH)(why.why)
app.add_typer(workers.app, name="workers", rich_help_panel=_WATCH)
app.add_typer(registry.projects, name="projects", rich_help_panel=_REGISTRY)
app.add_typer(registry.repos, name="repos", rich_help_panel=_REGISTRY)
app.add_typer(registry.schemes, name="schemes", rich_help_panel=_REGISTRY)
app.add_typer(registry.orgs, name="orgs", rich_help_panel=_REGISTRY)
app.add_typer(shares.engines, name="engines", rich_help_panel=_REGISTRY)
app.add_typer(tokens.app, name="tokens", rich_help_panel=_REGISTRY)
app.command(rich_help_panel=_SERVE)(daemons.api)
app.command(rich_help_panel=_SERVE)(daemons.scheduler)
app.command(rich_help_panel=_SERVE)(daemons.worker)
app.add_typer(db.app, name="db", rich_help_panel=_SERVE)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, show_default=False),
    ] = False,
) -> None:
    if version:
        from importlib import metadata

        typer.echo(f"kennel {metadata.version('kennel')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(Exit.USAGE)


def main() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(guarded(app))
