"""Both sides of a job that is being worked on: the decisions a scheduler would make, and a worker
that speaks the protocol over HTTP."""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from core.domain.ids import JobId
from core.domain.states import FullReason, ScanType
from core.domain.tokens import TokenKind, hash_token, make_token
from core.store import admissions, classes
from core.store.admissions import PlannedTask, Resolved
from core.store.store import Store
from tests.api.caller import Answered, Api, _read
from tests.store import lifecycle

REVISION = "a" * 40
LIMITS = {
    "wall_s": 60.0,
    "idle_s": 60.0,
    "output_bytes": 1 << 20,
    "file_bytes": 1 << 20,
    "memory_bytes": 1 << 30,
}
SPEC = {
    "source": {
        "scm_url": "https://git.example.org/acme/web.git",
        "branch": "main",
        "revision": REVISION,
        "cache_key": "repo-1",
    },
    "limits": LIMITS,
}
REPORT = b'{"engine":"todo","engine_version":"1","revision":"","coverage":{}}'


async def enrolment_token(
    store: Store, *, is_single_use: bool = False, expires: str = "1 hour"
) -> str:
    token = make_token(TokenKind.ENROLMENT)
    await store.db.execute(
        "INSERT INTO tokens (kind, name, token_hash, is_single_use, expires_at)"
        " VALUES ('enrolment', 'hosts', $1, $2, now() + $3::text::interval)",
        hash_token(token),
        is_single_use,
        expires,
    )
    return token


async def create_job(api: Api, project: str, **body: Any) -> int:
    answer = await api.post(f"{project}/scans/create/", body)
    assert answer.status == 200, answer.text
    return int(answer.body["job"]["id"])


async def queue_preparation(store: Store, job_id: int, spec: dict[str, Any] | None = None) -> None:
    """Admit a job and offer its preparation to workers."""
    token, admitted = await lifecycle.admit(store)
    assert job_id in admitted
    resolved = Resolved(
        revision=REVISION,
        base=None,
        config_hash="c",
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        class_id=await classes.ensure_class(store, classes.Requirement("prepare")),
        spec=spec or SPEC,
        sort_key=1,
    )
    assert await admissions.prepare(store, JobId(job_id), token, resolved)
    store.signals.publish("tasks")


async def queue_engines(store: Store, job_id: int, engines: tuple[str, ...] = ("todo",)) -> None:
    """Plan a prepared job's engine tasks."""
    tasks = [
        PlannedTask(
            engine=name,
            module="codelint",
            class_id=await classes.ensure_class(store, classes.Requirement(name)),
            spec=SPEC,
        )
        for name in engines
    ]
    assert await admissions.plan(
        store,
        JobId(job_id),
        tasks,
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        base_revision=None,
        sort_key=1,
        preferred_worker_id=None,
    )
    store.signals.publish("tasks")


@dataclass
class Hand:
    """A worker of a few lines."""

    client: TestClient
    token: str
    worker_id: int = 0
    registered: dict[str, Any] = field(default_factory=dict)

    @classmethod
    async def register(
        cls, client: TestClient, store: Store, *, engines: tuple[str, ...] = ("todo",)
    ) -> Hand:
        body = registration(engines=[{"name": name, "version": "1.0"} for name in engines])
        hand = cls(client, await enrolment_token(store))
        answer = await hand.call("register", body)
        assert answer.status == 200, answer.text
        return cls(client, answer.body["token"], answer.body["worker_id"], answer.body)

    async def request(self, method: str, path: str, **options: Any) -> Answered:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        async with self.client.request(method, path, headers=headers, **options) as response:
            return await self._read(method, path, response)

    async def _read(self, method: str, path: str, response: ClientResponse) -> Answered:
        return await _read(method, path, response)

    async def call(self, name: str, body: Any = None) -> Answered:
        return await self.request("POST", f"/worker/v1/{name}", json={} if body is None else body)

    async def claim(self, slots: int = 1, claim_id: str | None = None) -> list[dict[str, Any]]:
        answer = await self.call(
            "claim", {"claim_id": claim_id or str(uuid.uuid4()), "slots": slots}
        )
        assert answer.status in (200, 204), answer.text
        return answer.body["tasks"] if answer.status == 200 else []

    async def start(self, task: dict[str, Any]) -> str:
        answer = await self.call("start", {"attempts": [proof(task)]})
        assert answer.status == 200, answer.text
        return str(answer.body["attempts"][0]["verdict"])

    async def claim_and_start(self) -> dict[str, Any]:
        (task,) = await self.claim()
        assert await self.start(task) == "running"
        return task

    async def beat(self, *tasks: dict[str, Any], hold: bool = False, **fields: Any) -> Answered:
        beats = [{"attempt_id": task["attempt_id"], **fields} for task in tasks]
        return await self.call("heartbeat", {"attempts": beats, "hold": hold})

    async def log(
        self, task: dict[str, Any], offset: int, content: bytes, **headers: str
    ) -> Answered:
        return await self.request(
            "PATCH",
            f"/worker/v1/attempts/{task['attempt_id']}/log",
            data=io.BytesIO(content),
            headers={
                "Kennel-Lease": task["lease_token"],
                "Content-Range": f"bytes {offset}-{offset + len(content) - 1}/*",
            }
            | headers,
        )

    async def upload(
        self, task: dict[str, Any], content: bytes, name: str = "result.json", **headers: str
    ) -> Answered:
        return await self.request(
            "PUT",
            f"/worker/v1/attempts/{task['attempt_id']}/artifacts/{name}",
            data=io.BytesIO(content),
            headers={"Kennel-Lease": task["lease_token"], "Content-Digest": digest(content)}
            | headers,
        )

    async def results(self, *results: dict[str, Any]) -> Answered:
        return await self.call("results", {"results": list(results)})

    async def finish(self, task: dict[str, Any], **fields: Any) -> str:
        answer = await self.results(result(task, **fields))
        assert answer.status == 200, answer.text
        return str(answer.body["results"][0]["verdict"])

    async def prepare(
        self, store: Store, job_id: int, engines: tuple[str, ...] = ("todo",)
    ) -> None:
        """Bring a waiting job to ready engine tasks."""
        await queue_preparation(store, job_id)
        task = await self.claim_and_start()
        report = {"files": 1, "languages": {"python": 1}}
        assert await self.finish(task, prepare=report) == "accepted"
        await queue_engines(store, job_id, engines)

    async def run(self, task: dict[str, Any], **fields: Any) -> str:
        """Upload a report and finish with success."""
        assert (await self.upload(task, REPORT)).status == 204
        return await self.finish(task, artifacts=[artifact(REPORT)], **fields)


def registration(**changes: Any) -> dict[str, Any]:
    return {
        "name": "rex",
        "instance_key": secrets.token_urlsafe(24),
        "engines": [{"name": "todo", "version": "1.0"}],
        "slots": 2,
    } | changes


def proof(task: dict[str, Any]) -> dict[str, Any]:
    return {"attempt_id": task["attempt_id"], "lease_token": task["lease_token"]}


def result(task: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return proof(task) | {"outcome": "succeeded"} | fields


def artifact(content: bytes, name: str = "result.json") -> dict[str, Any]:
    return {
        "name": name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
