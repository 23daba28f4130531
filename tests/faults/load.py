"""A steady stream of jobs, by clients that write down every promise they were given.

Each lane has one job open at a time, so the stream is as fast as Kennel is. A create whose answer
got lost is asked for again with the same key, at any api, until it is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import aiohttp

from tests.e2e.processes import Answer, Client, Project, register
from tests.e2e.repositories import new_repository
from tests.faults.engine import NAMES
from tests.faults.waiting import within

#: So many that every slot has a task waiting for it: two clients a project, eight tasks a job.
PROJECTS = 16
LANES = 32
_LOOK_S = 1.0
_PATIENCE_S = 45.0
#: Answers that ask to come again.
_LATER = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Wish:
    """One create, as long as it takes to be answered."""

    key: str
    project: Project
    body: dict[str, Any]
    cancel_after_s: float | None


class Load:
    """The clients. `run` keeps them busy until `enough` is set."""

    def __init__(self, folder: Path, clients: Sequence[Client], seed: int) -> None:
        self.enough = asyncio.Event()
        self.created = 0
        self._folder = folder
        self._clients = clients
        self._seed = seed
        self._projects: list[Project] = []
        self._revision = ""
        self._stack = ExitStack()
        self._log: IO[str]

    def __enter__(self) -> Self:
        self._log = self._stack.enter_context((self._folder / "clients.jsonl").open("a"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def prepare(self) -> None:
        """Register what is scanned."""
        files = {"a.py": "A = 1\n", "b.py": "B = 2\n"}
        repository = new_repository(self._folder / "repository", files)
        self._revision = repository.git("rev-parse", "HEAD")
        for _ in range(PROJECTS):
            project = await register(self._clients[0], repository.url, engines=list(NAMES))
            self._projects.append(project)

    async def run(self) -> None:
        """Work until it is enough and everything asked for is answered."""
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(self._lane(lane), name=f"lane-{lane}")

    async def _lane(self, lane: int) -> None:
        chance = random.Random(f"{self._seed} lane {lane}")
        number = 0
        while not self.enough.is_set():
            number += 1
            await self._grant(self._wish(f"{lane}-{number}", lane, chance), chance)

    def _wish(self, key: str, lane: int, chance: random.Random) -> Wish:
        body = {
            "incr_scan": chance.random() < 0.1,
            "async_flag": chance.random() < 0.3,
            "force_create": chance.random() < 0.2,
            "created_from": key,
        }
        if chance.random() < 0.9:
            body["revision"] = self._revision
        cancel_after_s = chance.uniform(0.0, 1.5) if chance.random() < 0.06 else None
        return Wish(key, self._projects[lane % PROJECTS], body, cancel_after_s)

    async def _grant(self, wish: Wish, chance: random.Random) -> None:
        answer = await self._insist(
            "create",
            wish,
            chance,
            "POST",
            f"{wish.project.path}/scans/create/",
            json=wish.body,
            headers={"Idempotency-Key": wish.key},
        )
        if answer is None:
            return
        self.created += 1
        job = answer.body["job"]
        cancelling = wish.cancel_after_s is not None and job.get("state") != 2
        if cancelling and wish.cancel_after_s is not None:
            await within(self.enough, wish.cancel_after_s)
            path = f"{wish.project.v3}/jobs/{job['id']}/cancel/"
            await self._insist(
                "cancel", wish, chance, "POST", path, job_id=job["id"], json={"remarks": "chaos"}
            )
        if job.get("state") != 2:
            await self._until_closed(wish, job["id"], chance)

    async def _until_closed(self, wish: Wish, job_id: int, chance: random.Random) -> None:
        ends_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < ends_at and not self.enough.is_set():
            path = f"{wish.project.path}/jobs/{job_id}/detail/"
            answer = await self._insist("look", wish, chance, "GET", path, job_id=job_id)
            if answer is None or answer.body["data"]["state"] == 2:
                return
            await within(self.enough, _LOOK_S)

    async def _insist(
        self,
        call: str,
        wish: Wish,
        chance: random.Random,
        method: str,
        path: str,
        *,
        job_id: int | None = None,
        **arguments: Any,
    ) -> Answer | None:
        """Ask until there is an answer that is one; None: it is refused, which is written down."""
        never = asyncio.Event()
        while True:
            client = chance.choice(self._clients)
            try:
                answer = await client(method, path, within_s=_PATIENCE_S, **arguments)
            except (aiohttp.ClientError, TimeoutError, OSError):
                await within(never, chance.uniform(0.05, 0.3))
                continue
            if answer.status in _LATER:
                await within(never, chance.uniform(0.05, 0.3))
                continue
            self._note(call, wish, answer, job_id)
            return answer if answer.status in {200, 202} else None

    def _note(self, call: str, wish: Wish, answer: Answer, job_id: int | None) -> None:
        line: dict[str, Any] = {"at": time.time(), "call": call, "key": wish.key}
        line |= {"status": answer.status, "is_forced": wish.body["force_create"]}
        if answer.status in {200, 202}:
            said = answer.body["job"] if call == "create" else answer.body["data"]
            line["job_id"] = said["id"] if call == "create" else job_id
            if call != "cancel" and said.get("state") == 2:
                line["result_code"] = said["result_code"]
        else:
            line |= {"job_id": job_id, "body": str(answer.body)[:500]}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
