"""Follow a job to its end: ask for its detail, soon at first and then less often.

Knows nothing of terminals. A server that is away for a moment (a restart, a network's hiccup) is
asked again; the job goes on without us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from cli.client import CallRefused, Client, ServerUnreachable
from cli.exits import CommandError, Exit
from cli.registration import ProjectRef

#: Between two questions, seconds: the first, the longest, and by what it grows.
FIRST_S, LONGEST_S, GROWTH = 0.3, 1.0, 1.1
#: A server that does not answer for so long is given up, seconds.
AWAY_S = 60.0

WAITING, RUNNING, CLOSED, SAVING = 0, 1, 2, 3
STATE_WORDS = {WAITING: "waiting", RUNNING: "running", CLOSED: "closed", SAVING: "saving"}


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job's place."""

    project: ProjectRef
    job_id: int
    scan_id: int

    def path(self, *parts: str | int, is_v3: bool = False) -> str:
        """Return the path of something below the job."""
        return self.project.path("jobs", self.job_id, *parts, is_v3=is_v3)


class Overdue(CommandError):
    """The time the caller gave is over; the job goes on."""

    def __init__(self, job_id: int, timeout_s: float) -> None:
        super().__init__(
            f"job {job_id} is not closed after {timeout_s:g} s; it goes on "
            f"(kennel jobs show {job_id})",
            Exit.TIMEOUT,
        )


@dataclass(slots=True)
class Follower:
    """Asks how one job goes."""

    client: Client
    job: JobRef
    #: Set by whoever wants the next answer at once, and often.
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    async def details(self, *, timeout_s: float | None) -> AsyncIterator[dict[str, Any]]:
        """Yield the job's detail again and again; the last one is that of the closed job.

        Raises:
            Overdue: *timeout_s* seconds were not enough.
        """
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        pause_s = FIRST_S
        while True:
            detail = await self._detail()
            yield detail
            if detail["state"] == CLOSED:
                return
            left_s = LONGEST_S if end is None else end - loop.time()
            if timeout_s is not None and left_s <= 0:
                raise Overdue(self.job.job_id, timeout_s)
            await self._pause(min(pause_s, max(left_s, 0.01)))
            pause_s = min(pause_s * GROWTH, LONGEST_S)

    async def _pause(self, seconds: float) -> None:
        if self.hurry.is_set():
            await asyncio.sleep(min(seconds, FIRST_S))
            return
        try:
            async with asyncio.timeout(seconds):
                await self.hurry.wait()
        except TimeoutError:
            return

    async def _detail(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + AWAY_S
        while True:
            try:
                detail: dict[str, Any] = await self.client.get(self.job.path("detail"))
            except (ServerUnreachable, CallRefused) as error:
                if error.code is not Exit.UNREACHABLE or loop.time() > give_up_at:
                    raise
            else:
                return detail
            await asyncio.sleep(1.0)

    async def end(self, *, timeout_s: float | None) -> dict[str, Any]:
        """Return the detail of the closed job.

        Raises:
            Overdue: *timeout_s* seconds were not enough.
        """
        found: dict[str, Any] = {}
        async for detail in self.details(timeout_s=timeout_s):
            found = detail
        return found

    async def cancel(self, remarks: str) -> None:
        """Cancel the job; a closed one stays as it is."""
        await self.client.post(self.job.path("cancel", is_v3=True), {"remarks": remarks})
        self.hurry.set()


async def start_scan(
    client: Client,
    project: ProjectRef,
    *,
    is_full: bool,
    is_forced: bool,
    revision: str | None,
) -> JobRef:
    """Create a job; return where it is."""
    body: dict[str, Any] = {
        "incr_scan": not is_full,
        "force_create": is_forced,
        "created_from": "cli",
    }
    if revision is not None:
        body["revision"] = revision
    made = await client.post(project.path("scans", "create"), body)
    return JobRef(project, int(made["job"]["id"]), int(made["scan"]["id"]))
