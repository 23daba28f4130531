"""`kennel orgs share`, `projects share`, `engines`: who gets how much of the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.registry import Which, orgs, projects
from cli.exits import CommandError, Exit
from cli.options import AsJson, DataDir, Server, Token
from cli.output import print_json, print_table, say
from cli.text import printable

if TYPE_CHECKING:
    from cli.client import Client

engines = typer.Typer(help="Engines: list and set their limits.", no_args_is_help=True)

SHELF = "/api/v1/engines/"

Weight = Annotated[
    int | None,
    typer.Option(
        "--weight", metavar="N", min=1, max=100, help="2 gets twice of 1.", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=0,
        help="Tasks in the queue and on workers at the same time; 0: none starts.",
        show_default=False,
    ),
]
NoLimit = Annotated[
    bool, typer.Option("--no-limit", help="Take the limit away.", show_default=False)
]


@orgs.command("share")
def share_org(
    org: Annotated[str, typer.Argument(metavar="ORG", help="Organisation.")],
    weight: Weight = None,
    limit: Limit = None,
    no_limit: NoLimit = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Set an organisation's weight beside others, and its limit."""
    from cli.client import path
    from cli.connection import call
    from cli.registration import ORGS

    change = _change(weight, limit, no_limit=no_limit)

    async def ask(client: Client) -> Any:
        return await client.put(path(*ORGS, org), change)

    say(f"organisation {printable(org)} has {_told(call(ask, server, token, data_dir))}")


@projects.command("share")
def share_project(
    which: Which,
    weight: Weight = None,
    limit: Limit = None,
    no_limit: NoLimit = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Set a project's weight beside the others of its organisation, and its limit."""
    from cli.connection import call
    from cli.lookup import wanted_projects

    change = _change(weight, limit, no_limit=no_limit)

    async def ask(client: Client) -> tuple[Any, Any]:
        found = await wanted_projects(client, which)
        if not found:
            raise CommandError(f"there is no project {printable(which)}", Exit.REFUSED)
        return found[0], await client.put(found[0].path(), change)

    ref, entry = call(ask, server, token, data_dir)
    say(f"project {printable(ref)} has {_told(entry)}")


@engines.command("list")
def list_engines(
    as_json: AsJson = False, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """List the engines that have a limit."""
    from cli.connection import call

    async def ask(client: Client) -> list[dict[str, Any]]:
        return await client.listed(f"{SHELF}limits/")

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("engine", "limit"),
        ((one["engine"], one["max_running"]) for one in found),
        empty="no engine is limited",
    )


@engines.command("limit")
def limit_engine(
    engine: Annotated[
        str, typer.Argument(metavar="ENGINE", help="Its name; `prepare` for preparations.")
    ],
    limit: Limit = None,
    no_limit: NoLimit = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Limit how many tasks of an engine run at the same time, whosever they are."""
    from cli.client import path
    from cli.connection import call

    change = _change(None, limit, no_limit=no_limit)

    async def ask(client: Client) -> Any:
        return await client.put(path("api", "v1", "engines", engine, "limit"), change)

    found = call(ask, server, token, data_dir)
    say(f"engine {printable(engine)} has {_limit(found['max_running'])}")


def _change(weight: int | None, limit: int | None, *, no_limit: bool) -> dict[str, int | None]:
    if limit is not None and no_limit:
        raise CommandError("give --limit or --no-limit, not both")
    change: dict[str, int | None] = {} if weight is None else {"weight": weight}
    if limit is not None or no_limit:
        change["max_running"] = limit
    if not change:
        raise CommandError("say what to change: --limit, --no-limit or a weight")
    return change


def _told(entry: Any) -> str:
    return f"weight {entry['weight']} and {_limit(entry['max_running'])}"


def _limit(max_running: int | None) -> str:
    return "no limit" if max_running is None else f"a limit of {max_running}"
