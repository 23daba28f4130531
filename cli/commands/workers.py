"""`kennel workers`: who is there, and what they are asked to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson, DataDir, Server, Token
from cli.output import print_json, print_table, say
from cli.text import moment, printable

if TYPE_CHECKING:
    from pathlib import Path

    from cli.client import Client

app = typer.Typer(help="Workers: list them, drain, pause and resume one.", no_args_is_help=True)

SHELF = "/api/v1/workers/"

Which = Annotated[str, typer.Argument(metavar="WORKER", help="Name or id of the worker.")]


@app.command("list")
def list_workers(
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Lost ones too.", show_default=False)
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List workers: their state, slots and engines, and when they were last heard of."""
    from cli.connection import call

    async def ask(client: Client) -> list[dict[str, Any]]:
        found = await client.listed(SHELF)
        return [one for one in found if every or one["state"] != "lost"]

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "state", "slots", "engines", "isolation", "tags", "last seen"),
        (
            (
                one["id"],
                one["name"],
                _state(one),
                f"{one['slots_used']}/{one['slots']}",
                ", ".join(f"{engine['name']} {engine['version']}" for engine in one["engines"]),
                one["isolation"],
                ", ".join(one["tags"]),
                moment(one["last_seen"]),
            )
            for one in found
        ),
        empty="no workers",
    )


@app.command()
def drain(
    which: Which, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Ask a worker to take nothing more, finish what it has, and end."""
    _direct("drain", which, server, token, data_dir)


@app.command()
def pause(
    which: Which, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Offer a worker nothing more until it is resumed."""
    _direct("pause", which, server, token, data_dir)


@app.command()
def resume(
    which: Which, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Offer a worker tasks again; also ends its quarantine."""
    _direct("resume", which, server, token, data_dir)


def _state(worker: dict[str, Any]) -> str:
    quarantine = worker.get("quarantine")
    if worker["state"] != "quarantined" or quarantine is None:
        return str(worker["state"])
    return f"quarantined until {moment(quarantine['until'])} ({printable(quarantine['reason'])})"


def _direct(
    verb: str, which: str, server: str | None, token: str | None, data_dir: Path | None
) -> None:
    from cli.connection import call

    async def ask(client: Client) -> dict[str, Any]:
        worker = await _find(client, which)
        await client.post(f"{SHELF}{worker['id']}/{verb}/")
        return worker

    worker = call(ask, server, token, data_dir)
    say(f"worker {worker['id']} ({printable(worker['name'])}) was asked to {verb}")


async def _find(client: Client, which: str) -> dict[str, Any]:
    from cli.exits import CommandError, Exit

    found = [one for one in await client.listed(SHELF) if which in (str(one["id"]), one["name"])]
    there = [one for one in found if one["state"] != "lost"] or found
    if not there:
        raise CommandError(f"there is no worker {printable(which)}", Exit.REFUSED)
    if len(there) > 1:
        ids = ", ".join(str(one["id"]) for one in there)
        raise CommandError(f"several workers are called {printable(which)}: name its id ({ids})")
    worker: dict[str, Any] = there[0]
    return worker
