"""`kennel scan`: from a folder or URL to what was found, with or without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import AsJson, DataDir, Server, Token


def scan(
    where: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_URL",
            help="Folder of a git repository (or one inside it: then only that is scanned), or the "
            "URL of one.",
        ),
    ],
    branch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Branch to scan. Default: the one a folder is on, or the default branch of a URL.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="Commit to scan. Default: the head of the branch.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Scan everything, not only what changed since the last scan.",
            show_default=False,
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Start now, beside earlier jobs of the project that are open.",
            show_default=False,
        ),
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Engine to run; give it once for each. Default: all that fit.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Longest wait for the end of the job.",
            show_default=False,
        ),
    ] = None,
    findings: Annotated[
        int, typer.Option(metavar="N", min=0, max=10_000, help="Findings to show, the worst first.")
    ] = 10,
    org: Annotated[str, typer.Option(metavar="ORG", help="Organisation it is registered in.")] = (
        "local"
    ),
    team: Annotated[
        str, typer.Option(metavar="TEAM", help="Team it is registered in.")
    ] = "default",
    as_json: AsJson = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress.", show_default=False)
    ] = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Scan a repository: register what is missing, scan, follow, sum up.

    A folder is scanned at its last commit; what is not committed is not scanned, and it says so.
    Talks to --server, else to the server that runs on this machine; where there is none, it starts
    one for the run, on the same data as `kennel up`, and stops it again.

    Ctrl-C cancels the job; a second Ctrl-C does not wait for the end of that. The exit status says
    how the job closed (see `kennel --help`); findings are no failure.
    """
    from cli.connection import client_settings
    from cli.running import run
    from cli.scan.run import Order, scan_to_the_end

    order = Order(
        where=where,
        branch=branch,
        revision=revision,
        is_full=full,
        is_forced=force,
        engines=tuple(engine or ()),
        org=org,
        team=team,
        timeout_s=timeout,
        most_findings=findings,
        as_json=as_json,
        is_quiet=quiet,
    )
    code = run(scan_to_the_end(order, client_settings(server, token), data_dir), on_uvloop=True)
    raise typer.Exit(code)
