"""`kennel tokens`: who may do what."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.exits import CommandError
from cli.options import AsJson, DataDir, Server, Token
from cli.output import note, print_json, print_table, say
from cli.text import moment

if TYPE_CHECKING:
    from pathlib import Path

    from cli.client import Client

app = typer.Typer(help="Tokens of users and workers: create, list, revoke.", no_args_is_help=True)

SHELF = "/api/v1/tokens/"
_DAY_S = 86_400


class RoleName(StrEnum):
    """What a user token may do."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its owner: the creator of what is made with it.")
    ],
    role: Annotated[
        RoleName,
        typer.Option(help="viewer reads, member also scans and cancels, admin does the rest."),
    ] = RoleName.MEMBER,
    org: Annotated[
        str | None,
        typer.Option(
            metavar="ORG", help="The only organisation it sees. Default: all.", show_default=False
        ),
    ] = None,
    enrolment: Annotated[
        bool,
        typer.Option(
            "--enrolment",
            help="An enrolment token: registers one worker, or, with --days, any number meanwhile.",
            show_default=False,
        ),
    ] = False,
    days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS",
            min=1 / _DAY_S,
            max=3650,
            help="How long it is good. Default: until it is revoked.",
            show_default=False,
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Write it to the database (KENNEL_DATABASE_URL, else the data directory's), "
            "without a server: for a first admin, or a lost one.",
            show_default=False,
        ),
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a token. Its text is printed this once: only its hash is kept."""
    from cli.connection import call

    if enrolment and org:
        raise CommandError("--enrolment goes without --org: a worker serves every organisation")
    if local:
        if org:
            raise CommandError("--local goes without --org: make that token with a server")
        made = _create_locally(name, None if enrolment else role, days, data_dir)
    else:
        body: dict[str, Any] = {"name": name, "kind": "enrolment" if enrolment else "user"}
        if not enrolment:
            body |= {"role": role.value, "org_sid": org}
        if days is not None:
            body["expires_in_s"] = max(1, round(days * _DAY_S))

        async def ask(client: Client) -> Any:
            return await client.post(SHELF, body)

        made = call(ask, server, token, data_dir)
    if as_json:
        print_json(made)
    else:
        note("shown this once, keep it:")
        say(made["token"])


@app.command("list")
def list_tokens(
    every: Annotated[
        bool,
        typer.Option("--all", "-a", help="Revoked, expired and used ones too.", show_default=False),
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List tokens, newest first; their texts are stored nowhere."""
    from cli.connection import call

    async def ask(client: Client) -> list[dict[str, Any]]:
        found = await client.listed(SHELF)
        return [one for one in found if every or _is_good(one)]

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "kind", "name", "role", "organisation", "created", "expires", "used", "revoked"),
        (
            (
                one["id"],
                one["kind"],
                one["name"],
                one["role"] or "",
                one["org_sid"] or ("all" if one["kind"] == "user" else ""),
                moment(one["created_time"]),
                moment(one["expire_time"]),
                moment(one["used_time"]),
                moment(one["revoked_time"]),
            )
            for one in found
        ),
        empty="no tokens",
    )


@app.command()
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="TOKEN", min=1, help="Id of the token.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a token: it works no more from the next request on."""
    from cli.connection import call

    async def ask(client: Client) -> Any:
        return await client.delete(f"{SHELF}{token_id}/")

    call(ask, server, token, data_dir)
    say(f"token {token_id} is revoked")


def _is_good(one: dict[str, Any]) -> bool:
    from datetime import UTC, datetime

    is_spent = one["single_use"] and one["used_time"] is not None
    expires = one["expire_time"]
    is_over = expires is not None and datetime.fromisoformat(expires) < datetime.now(UTC)
    return one["revoked_time"] is None and not is_spent and not is_over


def _create_locally(
    name: str, role: RoleName | None, days: float | None, data_dir: Path | None
) -> dict[str, Any]:
    from cli.local.database import borrow_database
    from cli.local.tokens import create_token
    from cli.running import read_settings, run
    from core.domain.states import Role
    from core.store.store import open_store

    settings = read_settings(data_dir=data_dir)

    async def main() -> dict[str, Any]:
        async with (
            borrow_database(settings) as url,
            open_store(
                settings,
                application_name="kennel-tokens",
                pool_size=1,
                statement_timeout_s=30.0,
                database_url=url,
            ) as store,
        ):
            lifetime_s = None if days is None else days * _DAY_S
            made = await create_token(
                store, name, Role(role.value) if role else None, lifetime_s=lifetime_s
            )
            return {
                "id": made.id,
                "kind": made.kind,
                "name": name,
                "role": role,
                "token": made.text,
            }

    return run(main())
