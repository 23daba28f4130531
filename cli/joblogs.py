"""Print the logs of a job's tasks, and go on as they grow.

Logs are what engines print about strangers' files: made printable before they reach a terminal.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.client import Client
from cli.exits import CommandError, Exit
from cli.lookup import find_job
from cli.output import note, say
from cli.scan.following import CLOSED
from cli.text import printable, printable_lines

_POLL_S = 0.5


@dataclass(slots=True)
class _Log:
    """What was printed of one task's log."""

    task_id: int
    name: str
    position: int = 0
    #: Text after the last line end; printed once its line is whole, or the task has ended.
    rest: str = ""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    async def advance(self, client: Client, *, prefix: str) -> None:
        """Print what is new."""
        content = await client.content(
            f"/api/v1/tasks/{self.task_id}/log", first_byte=self.position
        )
        if not content:
            return
        self.position += len(content)
        lines = (self.rest + self.decoder.decode(content)).split("\n")
        self.rest = lines.pop()
        for line in lines:
            say(prefix + printable_lines(line.rstrip("\r")))

    def end(self, *, prefix: str) -> None:
        """Print what had no line end."""
        if self.rest:
            say(prefix + printable_lines(self.rest))
            self.rest = ""


async def print_logs(
    client: Client, job_id: int, project: str | None, *, task: str | None, is_followed: bool
) -> None:
    """Print the logs of a job, each line after its task's name where there are several.

    Raises:
        CommandError: no such job or task.
    """
    job, detail = await find_job(client, job_id, project)
    logs: dict[int, _Log] = {}
    while True:
        for entry in _wanted(detail, task):
            logs.setdefault(entry["id"], _Log(entry["id"], printable(entry["task_name"])))
        width = max((len(log.name) for log in logs.values()), default=0)
        for log in logs.values():
            prefix = f"{log.name:<{width}}  " if len(logs) > 1 else ""
            await log.advance(client, prefix=prefix)
            if detail["state"] == CLOSED:
                log.end(prefix=prefix)
        if detail["state"] == CLOSED or not is_followed:
            break
        await asyncio.sleep(_POLL_S)
        # First the state, then the logs: what a closed job logged has all been read.
        detail = await client.get(job.path("detail"))
    if not any(log.position for log in logs.values()):
        note("nothing was logged" if detail["state"] == CLOSED else "nothing is logged yet")


def _wanted(detail: Mapping[str, Any], task: str | None) -> list[Mapping[str, Any]]:
    tasks: list[Mapping[str, Any]] = detail["tasks"]
    if task is None:
        return tasks
    found = [one for one in tasks if task in (one["task_name"], str(one["id"]))]
    if not found and detail["state"] == CLOSED:
        raise CommandError(f"the job has no task {printable(task)}", Exit.REFUSED)
    return found
