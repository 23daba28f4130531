"""Workers that speak the protocol and run nothing: many in one process, to load an api.

`python -m bench.harness.simulated` reads its configuration from standard input, says `ready` when
all are registered, works until `tasks` are done or standard input ends, and prints what it saw.
It is a client like any other: registers, claims with held requests, starts, beats, reports.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from bench.harness.http import Connection

ENGINE = "bench"
#: Longest a call is tried again, seconds.
_PATIENCE_S = 30.0
_REPORT = orjson.dumps(
    {"engine": ENGINE, "engine_version": "1.0", "revision": "0" * 40, "coverage": {}}
)
_DIGEST = base64.b64encode(hashlib.sha256(_REPORT).digest())
_ARTIFACT = {
    "name": "result.json",
    "size_bytes": len(_REPORT),
    "sha256": hashlib.sha256(_REPORT).hexdigest(),
}
_PREPARED = {"files": 1, "languages": {"python": 1}}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the simulated workers are to do."""

    urls: list[str]
    enrolment_token: str
    workers: int
    slots: int
    #: How long an attempt runs, seconds.
    service_s: float = 0.0
    #: Ends by itself after so many; 0: at the end of standard input.
    tasks: int = 0
    #: Success with a report uploaded first; else the engine fails, which closes a task as well.
    with_report: bool = False
    #: Keep when each task arrived.
    with_arrivals: bool = False
    engine: str = ENGINE


@dataclass(slots=True)
class Seen:
    """What they saw."""

    finished: int = 0
    refused: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    #: (job id, kind, wall clock): the database runs on the same machine, by the same clock.
    arrivals: list[tuple[int, str, float]] = field(default_factory=list)
    #: Finished so far, once a second.
    seconds: list[int] = field(default_factory=list)


class Worker:
    """One of them: a claim always under way while a slot is free, a beat always under way."""

    def __init__(self, plan: Plan, number: int, seen: Seen, done: asyncio.Event) -> None:
        self._plan = plan
        self._number = number
        self._seen = seen
        self._done = done
        self._url = plan.urls[number % len(plan.urls)]
        self._token = ""
        self._busy: set[int] = set()
        self._room = asyncio.Event()
        #: Idle connections for starts and results.
        self._idle: list[Connection] = []

    async def register(self) -> None:
        connection = Connection(self._url, f"Bearer {self._plan.enrolment_token}")
        try:
            status, answer = await connection.post(
                "/worker/v1/register",
                {
                    "name": f"simulated-{self._number}",
                    "instance_key": secrets.token_urlsafe(24),
                    "engines": [{"name": self._plan.engine, "version": "1.0"}],
                    "slots": self._plan.slots,
                    "isolation": "bwrap",
                },
            )
        finally:
            connection.close()
        if status != 200:
            raise RuntimeError(f"register answered {status}: {answer}")
        self._token = answer["token"]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat())
            claiming = group.create_task(self._claim(group))
            await self._done.wait()
            beating.cancel()
            claiming.cancel()
        for connection in self._idle:
            connection.close()

    async def _beat(self) -> None:
        async with Connection(self._url, f"Bearer {self._token}") as connection:
            while True:
                beats = [{"attempt_id": attempt_id} for attempt_id in self._busy]
                await self._good(connection, "heartbeat", {"attempts": beats})

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        async with Connection(self._url, f"Bearer {self._token}") as connection:
            while True:
                while (free := self._plan.slots - len(self._busy)) <= 0:
                    self._room.clear()
                    await self._room.wait()
                claim = {"claim_id": str(uuid.uuid4()), "slots": free}
                answer = await self._good(connection, "claim", claim)
                if not answer:
                    continue
                now = time.time()
                self._seen.started_at = self._seen.started_at or now
                tasks = answer["tasks"]
                if self._plan.with_arrivals:
                    self._seen.arrivals += [(t["job_id"], t["kind"], now) for t in tasks]
                self._busy.update(task["attempt_id"] for task in tasks)
                group.create_task(self._work(tasks))

    async def _work(self, tasks: list[dict[str, Any]]) -> None:
        connection = self._connection()
        proofs = [
            {"attempt_id": task["attempt_id"], "lease_token": task["lease_token"]} for task in tasks
        ]
        started = await self._good(connection, "start", {"attempts": proofs})
        running = {v["attempt_id"] for v in started["attempts"] if v["verdict"] == "running"}
        if self._plan.service_s:
            await asyncio.sleep(self._plan.service_s)
        made = await asyncio.gather(
            *(self._result(task) for task in tasks if task["attempt_id"] in running)
        )
        results = [result for result in made if result is not None]
        verdicts = []
        if results:
            verdicts = (await self._good(connection, "results", {"results": results}))["results"]
        accepted = sum(verdict["verdict"] == "accepted" for verdict in verdicts)
        self._seen.refused += len(tasks) - accepted
        self._seen.finished += accepted
        self._seen.ended_at = time.time()
        self._busy.difference_update(task["attempt_id"] for task in tasks)
        self._room.set()
        self._idle.append(connection)
        if 0 < self._plan.tasks <= self._seen.finished:
            self._done.set()

    def _connection(self) -> Connection:
        """Return a connection nobody uses; who took it appends it to the idle ones."""
        return self._idle.pop() if self._idle else Connection(self._url, f"Bearer {self._token}")

    async def _result(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Return what is to be reported of a task; None: its lease is lost."""
        proof = {"attempt_id": task["attempt_id"], "lease_token": task["lease_token"]}
        if task["kind"] == "prepare":
            return proof | {"outcome": "succeeded", "prepare": _PREPARED}
        if not self._plan.with_report:
            return proof | {"outcome": "failed", "reason": "engine_failed", "message": "simulated"}
        # Attempts run side by side, and so do their uploads.
        connection = self._connection()
        status, _ = await connection.request(
            "PUT",
            f"/worker/v1/attempts/{task['attempt_id']}/artifacts/result.json",
            _REPORT,
            b"Content-Type: application/octet-stream\r\nKennel-Lease: %s\r\n"
            b"Content-Digest: sha-256=:%s:\r\n" % (task["lease_token"].encode(), _DIGEST),
        )
        self._idle.append(connection)
        if status == 409:
            return None
        if status != 204:
            raise RuntimeError(f"an artifact was answered {status}")
        return proof | {"outcome": "succeeded", "artifacts": [_ARTIFACT]}

    async def _good(self, connection: Connection, name: str, body: Any) -> Any:
        """Call; try again, for a while, where the server says later or is away."""
        pause_s, deadline = 0.05, time.monotonic() + _PATIENCE_S
        while True:
            try:
                status, answer = await connection.post(f"/worker/v1/{name}", body)
            except OSError:
                status, answer = 503, None
            if status in (200, 204):
                return answer
            if (status < 500 and status != 429) or time.monotonic() > deadline:
                raise RuntimeError(f"{name} answered {status}: {answer}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)


async def _until_input_ends(done: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    done.set()


async def _count_seconds(seen: Seen) -> None:
    while True:
        await asyncio.sleep(1.0)
        seen.seconds.append(seen.finished)


async def main(plan: Plan) -> None:
    seen, done = Seen(), asyncio.Event()
    workers = [Worker(plan, number, seen, done) for number in range(plan.workers)]
    # A wave at a time, as hosts would come up; not a thousand in one millisecond.
    for first in range(0, len(workers), 20):
        await asyncio.gather(*(worker.register() for worker in workers[first : first + 20]))
    print("ready", flush=True)
    async with asyncio.TaskGroup() as group:
        counting = group.create_task(_count_seconds(seen))
        ending = group.create_task(_until_input_ends(done))
        working = [group.create_task(worker.run()) for worker in workers]
        await asyncio.gather(*working)
        counting.cancel()
        ending.cancel()
    sys.stdout.buffer.write(orjson.dumps(seen) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Plan(**orjson.loads(sys.stdin.buffer.readline()))))
