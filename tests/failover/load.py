"""Clients that create jobs all the while, and remember what they were promised."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.e2e.processes import Answer, Client, Daemon, Project, closed

#: How often a client asks again for what was not answered.
_PATIENCE_S = 0.1


@dataclass
class Load:
    """One client a project: a create under way at any time, repeated until it is answered.

    Creates as many jobs as are wanted, so that what is to be done stays in bounds.
    """

    clients: Sequence[Client]
    projects: Sequence[Project]
    #: Job and project of every create that was answered with success.
    promised: dict[int, Project] = field(default_factory=dict)
    #: What creates were answered otherwise.
    refusals: list[int | str] = field(default_factory=list)
    _wanted: int = 0
    _is_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _are_there: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Let the clients run; a defect one of them meets ends the block with its error."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._create_on(number, project))
                for number, project in enumerate(self.projects)
            ]
            yield self
            for task in tasks:
                task.cancel()

    def want(self, more: int) -> None:
        """Have *more* jobs created than now."""
        self._wanted = len(self.promised) + more
        self._are_there.clear()
        self._is_wanted.set()

    async def reached(self, *, within_s: float = 90) -> None:
        """Return when all that were wanted are promised."""
        async with asyncio.timeout(within_s):
            await self._are_there.wait()

    async def _create_on(self, number: int, project: Project) -> None:
        for job in itertools.count():
            await self._is_wanted.wait()
            answer = await self._answered(number, project, f"load-{number}-{job}")
            self.promised[answer.body["job"]["id"]] = project
            if len(self.promised) >= self._wanted:
                self._is_wanted.clear()
                self._are_there.set()

    async def _answered(self, number: int, project: Project, key: str) -> Answer:
        for client in itertools.islice(itertools.cycle(self.clients), number, None):
            answer = await self._ask(client, project, key)
            if answer is not None:
                return answer
            await self._pause()
        raise AssertionError("there are no clients")

    async def _ask(self, client: Client, project: Project, key: str) -> Answer | None:
        try:
            answer = await client.post(
                f"{project.path}/scans/create/",
                {"incr_scan": False, "force_create": True},
                headers={"Idempotency-Key": key},
                within_s=40,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            self.refusals.append(type(error).__name__)
            return None
        if answer.status == 200:
            return answer
        # Nothing else may come of an outage: a defect is no trouble of the database.
        assert answer.status in (502, 503, 504), (answer.status, answer.body)
        self.refusals.append(answer.status)
        return None

    async def _pause(self) -> None:
        # Nobody tells when the service is back.
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._are_there.wait()
        except TimeoutError:
            return


async def all_closed(api: Client, load: Load, *, within_s: float) -> list[Any]:
    """Return the details of all promised jobs, once each is closed."""
    async with asyncio.timeout(within_s):
        return [
            await closed(api, project, job_id, within_s=within_s)
            for job_id, project in load.promised.items()
        ]


def lines_of(daemon: Daemon) -> list[dict[str, Any]]:
    """Return what a process logged; a line that is none of its own fails."""
    text = Path(daemon.log_path).read_text(errors="replace")
    return [json.loads(line) for line in text.splitlines()]


def told(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(daemon) if line["event"] == event]
