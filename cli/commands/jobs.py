"""`kennel jobs`: what runs and what ran."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson, DataDir, Limit, Project, Server, Token
from cli.output import note, print_json, print_table, say
from cli.text import moment, number, printable

if TYPE_CHECKING:
    from cli.client import Client

app = typer.Typer(
    help="Jobs: list, show, follow, cancel; their logs and findings.", no_args_is_help=True
)

JobId = Annotated[int, typer.Argument(metavar="JOB", min=1, help="Id of the job.")]


@app.command("list")
def list_jobs(
    project: Project = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATES",
            help="0 waiting, 1 running, 2 closed, 3 saving; several with commas between.",
            show_default=False,
        ),
    ] = None,
    create_time_gte: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Created then or later.", show_default=False),
    ] = None,
    create_time_lte: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Created then or earlier.", show_default=False
        ),
    ] = None,
    result_code_gte: Annotated[
        int | None,
        typer.Option(
            "--code-from",
            metavar="CODE",
            help="Result code at least: 100 for failures.",
            show_default=False,
        ),
    ] = None,
    result_code_lte: Annotated[
        int | None,
        typer.Option("--code-to", metavar="CODE", help="Result code at most.", show_default=False),
    ] = None,
    result_msg: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="Part of the message.", show_default=False),
    ] = None,
    created_from: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Part of the channel.", show_default=False),
    ] = None,
    creator: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Part of the creator's name.", show_default=False),
    ] = None,
    limit: Limit = 20,
    offset: Annotated[
        int, typer.Option(metavar="N", min=0, help="Jobs of each project to pass over.")
    ] = 0,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List jobs, newest first: those of --project, else of every project."""
    from cli.lookup import each, wanted_projects

    query = {
        "state": state,
        "create_time_gte": create_time_gte,
        "create_time_lte": create_time_lte,
        "result_code_gte": result_code_gte,
        "result_code_lte": result_code_lte,
        "result_msg": result_msg,
        "created_from": created_from,
        "creator": creator,
        "limit": limit,
        "offset": offset,
    }

    async def ask(client: Client) -> list[dict[str, Any]]:
        async def of_project(ref: Any) -> list[dict[str, Any]]:
            data = await client.get(ref.path("jobs"), query)
            return [{**one, "project": str(ref)} for one in data["results"]]

        found = await each(await wanted_projects(client, project), of_project)
        jobs = [one for jobs in found for one in jobs]
        return sorted(jobs, key=lambda one: -one["id"])[:limit]

    from cli.scan.following import STATE_WORDS

    jobs = _call(ask, server, token, data_dir)
    if as_json:
        print_json(jobs)
        return
    print_table(
        ("job", "project", "state", "code", "result", "created", "by", "from", "lines"),
        (
            (
                one["id"],
                one["project"],
                STATE_WORDS.get(one["state"], "?"),
                "" if one["result_code"] is None else one["result_code"],
                printable(one["result_msg"], longest=60),
                moment(one["create_time"]),
                one["creator"],
                one["created_from"],
                number(one["total_line_num"]),
            )
            for one in jobs
        ),
        empty="no jobs",
    )


@app.command()
def show(
    job_id: JobId,
    project: Project = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Follow it until it is closed.", show_default=False),
    ] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Show a job: its state, tasks, counts, and the first findings of a closed one."""
    from cli.lookup import find_job
    from cli.scan.display import open_display
    from cli.scan.following import CLOSED, Follower
    from cli.scan.summary import summarise

    async def ask(client: Client) -> Any:
        job, detail = await find_job(client, job_id, project)
        if follow and detail["state"] != CLOSED:
            with open_display() as display:
                async for detail in Follower(client, job).details(timeout_s=None):
                    display.show(detail)
        return await summarise(client, job, detail)

    summary = _call(ask, server, token, data_dir)
    if as_json:
        print_json(summary.detail)
    else:
        summary.print()


@app.command()
def cancel(
    job_id: JobId,
    remarks: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; kept with the job.")
    ] = "cancelled at the command line",
    project: Project = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Cancel a job; its processes are killed. A closed job stays as it is."""
    from cli.lookup import find_job
    from cli.scan.following import CLOSED, Follower

    async def ask(client: Client) -> tuple[bool, dict[str, Any]]:
        job, detail = await find_job(client, job_id, project)
        if detail["state"] == CLOSED:
            return False, detail
        follower = Follower(client, job)
        await follower.cancel(remarks)
        return True, await follower.end(timeout_s=30.0)

    was_open, detail = _call(ask, server, token, data_dir)
    how = f"{detail['result_code']}: {printable(detail['result_msg'], longest=200)}"
    say(f"job {job_id} {'is closed' if was_open else 'was closed already'} with {how}")


@app.command()
def logs(
    job_id: JobId,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="Only of this task: its engine or its id.", show_default=False
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until the job is closed.", show_default=False),
    ] = False,
    project: Project = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Print the logs of a job's tasks."""
    from cli.joblogs import print_logs

    async def ask(client: Client) -> None:
        await print_logs(client, job_id, project, task=task, is_followed=follow)

    _call(ask, server, token, data_dir)


@app.command()
def findings(
    job_id: JobId,
    severity: Annotated[
        str | None,
        typer.Option(metavar="SEVERITY", help="Only error, warning or info.", show_default=False),
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Print all findings of a job, the worst first: `path:line: severity rule message`."""
    from cli.lookup import find_job
    from cli.scan.summary import finding_line, findings_of

    async def ask(client: Client) -> list[dict[str, Any]]:
        _, detail = await find_job(client, job_id, project)
        found = await findings_of(client, detail)
        return [one for one in found if severity in (None, one["severity"])]

    found = _call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    for one in found:
        say(finding_line(one))
    if not found:
        note("no findings")


def _call(
    ask: Callable[[Client], Coroutine[Any, Any, Any]],
    server: str | None,
    token: str | None,
    data_dir: Any,
) -> Any:
    from cli.connection import call

    return call(ask, server, token, data_dir)
