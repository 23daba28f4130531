"""`kennel why`: what a job waits for, and each of its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson, DataDir, Server, Token
from cli.output import print_json, say
from cli.text import moment, printable, span

if TYPE_CHECKING:
    from cli.client import Client


def why(
    job_id: Annotated[int, typer.Argument(metavar="JOB", min=1, help="Id of the job.")],
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Say why a job is not closed yet, and each of its tasks: one reason each."""
    from cli.connection import call

    async def ask(client: Client) -> dict[str, Any]:
        found: dict[str, Any] = await client.get(f"/api/v1/jobs/{job_id}/why")
        return found

    found = call(ask, server, token, data_dir)
    if as_json:
        print_json(found)
        return
    for line in _lines(found):
        say(line)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    task = next((one for one in found["tasks"] if one["id"] == found["task_id"]), None)
    whose = "" if task is None else f"its task {task['id']} ({printable(task['task_name'])}) "
    yield f"job {found['id']}: {whose}{_told(found)}"
    for one in found["tasks"]:
        left = _estimate(one["estimate"])
        yield f"  task {one['id']} ({printable(one['task_name'])}): {_told(one)}{left}"
    if found["ends_in_s"] is not None:
        yield f"its tasks usually end in {span(found['ends_in_s'])}"
    if found["expire_time"] is not None:
        yield f"it is closed at {moment(found['expire_time'])} at the latest"


def _told(one: dict[str, Any]) -> str:
    return f"{printable(one['text'], longest=500)} [{printable(one['reason'])}]"


def _estimate(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    starts = estimate["starts_in_s"]
    begins = f"starts in about {span(starts)}, " if starts else ""
    return f" ({begins}ends in about {span(estimate['ends_in_s'])})"
