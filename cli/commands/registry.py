"""`kennel orgs`, `repos`, `schemes`, `projects`: the registry by hand.

`kennel scan` makes what it needs by itself; this is for servers that others use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.exits import CommandError, Exit
from cli.options import AsJson, DataDir, Server, Token
from cli.output import note, print_facts, print_json, print_table, say
from cli.text import moment, printable

if TYPE_CHECKING:
    from pathlib import Path

    from cli.client import Client

orgs = typer.Typer(help="Organisations: list, create, share.", no_args_is_help=True)
repos = typer.Typer(help="Repositories: list, give credentials.", no_args_is_help=True)
schemes = typer.Typer(help="Scan schemes of a repository: list.", no_args_is_help=True)
projects = typer.Typer(
    help="Projects: list, create, show, close, reopen, share.", no_args_is_help=True
)

_STATUS = {1: "active", 2: "inactive", 3: "closed"}

Org = Annotated[str, typer.Option("--org", metavar="ORG", help="Organisation.")]
Team = Annotated[str, typer.Option("--team", metavar="TEAM", help="Team.")]
AnyOrg = Annotated[
    str | None,
    typer.Option("--org", metavar="ORG", help="Only of this organisation.", show_default=False),
]
RepoId = Annotated[int, typer.Argument(metavar="REPO", min=1, help="Id of the repository.")]
Which = Annotated[
    str, typer.Argument(metavar="PROJECT", help="Id of the project, or ORG/TEAM/REPO/PROJECT.")
]


@orgs.command("list")
def list_orgs(
    as_json: AsJson = False, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """List the organisations the token sees, and their teams."""
    from cli.client import path
    from cli.connection import call
    from cli.registration import ORGS

    async def ask(client: Client) -> list[dict[str, Any]]:
        found = await client.listed(path(*ORGS))
        return [
            {**one, "teams": await client.listed(path(*ORGS, one["org_sid"], "teams"))}
            for one in found
        ]

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("organisation", "name", "teams", "weight", "limit", "created"),
        (
            (
                one["org_sid"],
                one["name"],
                ", ".join(team["name"] for team in one["teams"]),
                one["weight"],
                "" if one["max_running"] is None else one["max_running"],
                moment(one["created_time"]),
            )
            for one in found
        ),
        empty="no organisations",
    )


@orgs.command("create")
def create_org(
    org: Annotated[str, typer.Argument(metavar="ORG", help="a-z, 0-9, - and _; never changes.")],
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name shown.", show_default=False)
    ] = None,
    team: Annotated[
        list[str] | None,
        typer.Option(metavar="TEAM", help="Team to make in it; once for each.", show_default=False),
    ] = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make an organisation, and teams in it. Making it again with a new team adds the team."""
    from cli.connection import call
    from cli.registration import ensure_org, ensure_team

    async def ask(client: Client) -> None:
        await ensure_org(client, org, name=name)
        for one in team or ():
            await ensure_team(client, org, one)

    call(ask, server, token, data_dir)
    say(f"organisation {printable(org)} is there")


@repos.command("list")
def list_repos(
    org: AnyOrg = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List repositories with their projects' branches and jobs counted."""
    from cli.connection import call
    from cli.lookup import all_repos

    async def ask(client: Client) -> list[dict[str, Any]]:
        return await all_repos(client, org=org)

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "place", "name", "url", "branches", "schemes", "jobs", "last active"),
        (
            (
                one["id"],
                f"{one['org_sid']}/{one['team_name']}",
                one["name"],
                one["scm_url"],
                one["branch_count"],
                one["scheme_count"],
                one["job_count"],
                moment(one["recent_active"]),
            )
            for one in found
        ),
        empty="no repositories",
    )


@repos.command("credentials")
def give_credentials(
    repo_id: RepoId,
    org: Org = "local",
    team: Team = "default",
    username: Annotated[
        str | None, typer.Option(metavar="NAME", help="For http(s).", show_default=False)
    ] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read the password or access token from standard input.",
            show_default=False,
        ),
    ] = False,
    key: Annotated[
        typer.FileText | None,
        typer.Option("--key", metavar="FILE", help="Deploy key, for ssh.", show_default=False),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Forget them.", show_default=False)
    ] = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Give a repository the credentials it is fetched with; they are stored sealed.

    A secret comes from a file or from standard input, never from the command line, which others can
    read.
    """
    import sys

    from cli.client import path
    from cli.connection import call
    from cli.registration import ORGS

    auth: dict[str, str] | None = None
    if not remove:
        auth = {} if username is None else {"scm_username": username}
        if password_stdin:
            auth["scm_password"] = sys.stdin.readline().rstrip("\n")
        if key is not None:
            auth["private_key"] = key.read()
        if not auth.keys() & {"scm_password", "private_key"}:
            raise CommandError("give --password-stdin, --key or --remove")

    async def ask(client: Client) -> Any:
        where = path(*ORGS, org, "teams", team, "repos", repo_id)
        return await client.put(where, {"scm_auth": auth})

    call(ask, server, token, data_dir)
    say(f"repository {repo_id} has {'no' if remove else 'new'} credentials")


@schemes.command("list")
def list_schemes(
    repo_id: RepoId,
    org: Org = "local",
    team: Team = "default",
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List the scan schemes of a repository."""
    from cli.client import path
    from cli.connection import call
    from cli.registration import ORGS

    async def ask(client: Client) -> list[dict[str, Any]]:
        return await client.listed(path(*ORGS, org, "teams", team, "repos", repo_id, "schemes"))

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "engines", "languages", "tag", "minutes", "status"),
        (
            (
                one["id"],
                one["name"] + (" (default)" if one["default_flag"] else ""),
                ", ".join(engine["name"] for engine in one["engines"] or ()) or "all that fit",
                ", ".join(one["languages"]) or "by the files",
                one["tag"] or "",
                one["job_runtime_limit"],
                "active" if one["status"] == 1 else "disused",
            )
            for one in found
        ),
        empty="no schemes",
    )


@projects.command("list")
def list_projects(
    org: AnyOrg = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List projects: what is scanned, and under which id."""
    from cli.connection import call
    from cli.lookup import all_projects

    async def ask(client: Client) -> list[dict[str, Any]]:
        found = await all_projects(client, org=org)
        return [{"project": str(one.ref), **one.entry} for one in found]

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    print_table(
        ("project", "url", "branch", "folder", "scheme", "status", "created"),
        (
            (
                one["project"],
                one["repo"]["scm_url"],
                one["branch"],
                one["scan_path"],
                one["scan_scheme"]["name"],
                _STATUS.get(one["status"], "?"),
                moment(one["created_time"]),
            )
            for one in found
        ),
        empty="no projects",
    )


@projects.command("create")
def create_project(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Repository; a folder only on a local server.")
    ],
    branch: Annotated[str, typer.Option(metavar="NAME", help="Branch to scan.")] = "main",
    org: Org = "local",
    team: Team = "default",
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Engine to run; once for each. Default: all that fit.",
            show_default=False,
        ),
    ] = None,
    scan_path: Annotated[
        str, typer.Option(metavar="FOLDER", help="Sub-folder to scan.", show_default=False)
    ] = "",
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a project, with its organisation, team, repository and scheme where they are missing."""
    from cli.connection import call
    from cli.registration import ProjectRef, Wanted, ensure_project

    wanted = Wanted(org, team, url, branch, scan_path, tuple(engine or ()))

    async def ask(client: Client) -> tuple[ProjectRef, Any]:
        ref = await ensure_project(client, wanted)
        return ref, await client.get(ref.path())

    ref, entry = call(ask, server, token, data_dir)
    if as_json:
        print_json({"project": str(ref), **entry})
    else:
        say(f"project {printable(ref)} is there; its API begins at {printable(ref.path())}")


@projects.command("show")
def show_project(
    which: Which,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Show a project and where its API begins."""
    from cli.connection import call
    from cli.lookup import wanted_projects

    async def ask(client: Client) -> tuple[Any, Any]:
        ref = (await wanted_projects(client, which))[0]
        return ref, await client.get(ref.path())

    ref, entry = call(ask, server, token, data_dir)
    if as_json:
        print_json({"project": str(ref), **entry})
        return
    print_facts(
        (
            ("project", ref),
            ("url", entry["repo"]["scm_url"]),
            ("branch", entry["branch"]),
            ("folder", entry["scan_path"] or "everything"),
            ("scheme", f"{entry['scan_scheme']['id']} {entry['scan_scheme']['name']}"),
            ("status", _STATUS.get(entry["status"], "?")),
            ("weight", entry["weight"]),
            ("limit", "none" if entry["max_running"] is None else entry["max_running"]),
            ("created", f"{moment(entry['created_time'])} by {entry['creator']}"),
            ("api", ref.path()),
        )
    )


@projects.command("close")
def close_project(
    which: Which, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Close a project: it refuses scans; what it has stays."""
    _set_status(which, 3, server, token, data_dir)


@projects.command("reopen")
def reopen_project(
    which: Which, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Let a closed project be scanned again."""
    _set_status(which, 1, server, token, data_dir)


def _set_status(
    which: str, status: int, server: str | None, token: str | None, data_dir: Path | None
) -> None:
    from cli.connection import call
    from cli.lookup import wanted_projects

    async def ask(client: Client) -> Any:
        found = await wanted_projects(client, which)
        if not found:
            raise CommandError(f"there is no project {printable(which)}", Exit.REFUSED)
        await client.put(found[0].path(), {"status": status})
        return found[0]

    note(f"project {printable(call(ask, server, token, data_dir))} is {_STATUS[status]}")
