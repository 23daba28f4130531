"""Two api processes behind nginx: what is held is held, what is large passes, what dies is replaced."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from api import service
from core.runtime.settings import Settings
from core.store.pool import Database
from tests.e2e.processes import (
    ADMIN_TOKEN,
    FAST_LEASES,
    Client,
    Kennel,
    create,
    eventually,
    register,
)
from tests.e2e.repositories import new_repository
from tests.failover.load import Load, all_closed, told
from tests.failover.proxies import EXAMPLE, Proxy, new_proxy

pytestmark = [pytest.mark.needs("nginx"), pytest.mark.timeout(240)]

CREATE = "/server/main/api/orgs/o/teams/t/repos/1/projects/1/scans/create/"
MIB = 2**20


# --- the configuration alone, before servers that do as the test says ----------------------------

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """A process behind nginx that notes what it is asked, and answers as it is told."""

    answer: Answering
    asked: list[bytes] = field(default_factory=list)
    server: asyncio.Server | None = None

    async def listen(self) -> int:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def go_away(self) -> None:
        if self.server is not None:
            self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            self.asked.append(head + body)
            await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # nginx looked whether anybody is there, or went away
        finally:
            writer.close()


async def dies(writer: asyncio.StreamWriter) -> None:
    """Go without an answer, as a process that is killed over a request."""
    writer.transport.abort()


async def succeeds(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()


@asynccontextmanager
async def two(first: Answering, second: Answering) -> AsyncIterator[tuple[Proxy, list[Upstream]]]:
    upstreams = [Upstream(first), Upstream(second)]
    ports = [await upstream.listen() for upstream in upstreams]
    try:
        async with new_proxy(ports) as proxy:
            yield proxy, upstreams
    finally:
        for upstream in upstreams:
            upstream.go_away()


@asynccontextmanager
async def browser(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=proxy.trust, limit=0)
    async with aiohttp.ClientSession(connector=connector, base_url=proxy.url) as session:
        yield session


@pytest.mark.parametrize(
    ("method", "path", "headers", "times"),
    [
        ("POST", CREATE, {}, 1),
        ("POST", CREATE, {"Idempotency-Key": "k"}, 2),
        ("POST", "/api/v1/tokens/", {"Idempotency-Key": "k"}, 1),
        ("GET", "/api/v1/workers/", {}, 2),
        ("POST", "/worker/v1/claim", {}, 2),
        ("POST", "/worker/v1/results", {}, 2),
        ("POST", "/worker/v1/register", {}, 1),
        ("PATCH", "/worker/v1/attempts/7/log", {}, 2),
    ],
)
async def test_only_what_may_be_repeated_is_asked_of_the_other_process(
    method: str, path: str, headers: dict[str, str], times: int
) -> None:
    async with two(dies, dies) as (proxy, upstreams), browser(proxy) as session:
        body = None if method == "GET" else b'{"a": 1}'
        async with session.request(method, path, headers=headers, data=body) as response:
            answer = await response.json()

    asked = [request for upstream in upstreams for request in upstream.asked]
    assert len(asked) == times
    assert all(request.endswith(body or b"\r\n\r\n") for request in asked)
    assert (response.status, answer["status_code"]) == (502, 502)
    assert response.headers["Retry-After"] == "1"


async def test_a_create_with_a_key_that_its_process_died_over_is_answered_by_the_other() -> None:
    async with two(dies, succeeds) as (proxy, upstreams), browser(proxy) as session:
        statuses = set()
        while not upstreams[0].asked:
            async with session.post(CREATE, headers={"Idempotency-Key": "k"}, json={}) as response:
                statuses.add(response.status)

    assert statuses == {200}


async def test_a_process_that_is_away_costs_no_request_of_any_kind() -> None:
    async with two(succeeds, succeeds) as (proxy, upstreams), browser(proxy) as session:
        upstreams[0].go_away()
        for _ in range(20):
            async with session.post(CREATE, json={}) as response:
                assert response.status == 200


async def test_who_asked_and_by_which_name_is_passed_on() -> None:
    async with two(succeeds, succeeds) as (proxy, upstreams), browser(proxy) as session:
        ids = {"X-Request-Id": "trace-7", "X-Forwarded-Prefix": "/evil"}
        async with session.get("/api/v1/workers/", headers=ids) as response:
            assert response.status == 200
        async with session.get("/api/v1/workers/", headers={"X-Request-Id": "a b{"}) as response:
            assert response.status == 200

    first, second = (one.decode() for upstream in upstreams for one in upstream.asked)
    heads = sorted([first, second], key=lambda head: "trace-7" not in head)
    assert "X-Request-Id: trace-7\r\n" in heads[0]
    assert re.search(r"X-Request-Id: [0-9a-f]{32}\r\n", heads[1])
    for head in heads:
        assert "X-Forwarded-Proto: https\r\n" in head
        assert f"X-Forwarded-Host: localhost:{proxy.port}\r\n" in head
        assert "X-Forwarded-For: 127.0.0.1\r\n" in head
        assert "evil" not in head


async def test_an_event_arrives_before_the_next_one_is_sent() -> None:
    read = asyncio.Event()

    async def streams(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b"id: 1\ndata: first\n\n")
        await writer.drain()
        await read.wait()
        writer.write(b"id: 2\ndata: second\n\n")
        await writer.drain()

    async with (
        two(streams, streams) as (proxy, _),
        browser(proxy) as session,
        session.get("/api/v1/events") as response,
    ):
        async with asyncio.timeout(20):
            first = await response.content.readuntil(b"\n\n")
            read.set()
            second = await response.content.readuntil(b"\n\n")

    assert (first, second) == (b"id: 1\ndata: first\n\n", b"id: 2\ndata: second\n\n")


async def test_a_body_beyond_the_limit_is_refused_in_kennels_own_shape() -> None:
    async with two(succeeds, succeeds) as (proxy, upstreams), browser(proxy) as session:
        body = b"x" * (MIB + 1)
        async with session.post(CREATE, data=io.BytesIO(body), expect100=True) as response:
            answer = await response.json()
        assert response.headers["X-Request-Id"]

    assert (response.status, answer["status_code"], answer["code"]) == (413, 413, 1000)
    assert [upstream.asked for upstream in upstreams] == [[], []]


def test_sizes_and_times_are_in_step_with_the_settings() -> None:
    text, settings = EXAMPLE.read_text(), Settings()
    said = {
        name: re.findall(rf"^\s*{name} (\S+);", text, re.MULTILINE)
        for name in ("client_max_body_size", "proxy_read_timeout", "keepalive_timeout")
    }

    assert said["client_max_body_size"] == [
        f"{settings.api.max_body_bytes // MIB}m",
        f"{settings.limits.artifact_bytes // MIB}m",
    ]
    usual_s, *creates_s = (float(one.removesuffix("s")) for one in said["proxy_read_timeout"][:3])
    assert usual_s > max(settings.lease.claim_s, settings.lease.heartbeat_s) + 10
    assert min(creates_s) > settings.api.sync_wait_s + 10
    (keepalive,) = said["keepalive_timeout"]
    assert float(keepalive.removesuffix("s")) < service._KEEPALIVE_S


# --- before real processes ------------------------------------------------------------------------


@pytest.fixture
async def kennel(database_url: str, tmp_path: Path) -> AsyncIterator[Kennel]:
    trusting = {"KENNEL_API__TRUST_FORWARDED": "true"}
    # A worker by hand beats as often as it likes: never.
    leases = FAST_LEASES | {"KENNEL_LEASE__LEASE_S": "60", "KENNEL_LEASE__START_S": "60"}
    async with Kennel(database_url, tmp_path, leases | trusting) as found:
        yield found


@asynccontextmanager
async def behind_nginx(kennel: Kennel) -> AsyncIterator[tuple[Proxy, Client]]:
    apis = [await kennel.start_api() for _ in range(2)]
    ports = [int(api.url.rpartition(":")[2]) for api in apis]
    async with new_proxy(ports) as proxy:
        connector = aiohttp.TCPConnector(ssl=proxy.trust, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield proxy, Client(session, proxy.url, ADMIN_TOKEN)


@pytest.mark.slow
async def test_a_worker_by_hand_is_held_woken_and_rid_of_its_largest_artifact(
    kennel: Kennel, db: Database, tmp_path: Path
) -> None:
    async with behind_nginx(kennel) as (proxy, front):
        await kennel.start_scheduler()
        project = await register(front, new_repository(tmp_path / "repo").url, engines=["lines"])
        hand = await by_hand(front)

        held = asyncio.create_task(hand("claim", {"claim_id": str(uuid4()), "slots": 1}))
        await is_held(db)
        await create(front, project)
        (task,) = (await held)["tasks"]
        proof = {"attempt_id": task["attempt_id"], "lease_token": task["lease_token"]}
        assert (await hand("start", {"attempts": [proof]}))["attempts"][0]["verdict"] == "running"
        limit = int(Settings().limits.artifact_bytes)

        assert await upload(proxy, hand.token, task, size=limit) == 204
        assert await upload(proxy, hand.token, task, size=limit + 1) == 413


@dataclass
class Hand:
    """A worker whose every call the test makes."""

    front: Client
    token: str

    async def __call__(self, call: str, body: Any) -> Any:
        answer = await self.front.post(
            f"/worker/v1/{call}", body, headers={"Authorization": f"Bearer {self.token}"}
        )
        assert answer.status == 200, answer.body
        return answer.body


async def by_hand(front: Client) -> Hand:
    token = await front.post("/api/v1/tokens/", {"kind": "enrolment", "name": "hand"})
    registered = await Hand(front, token.data["token"])(
        "register",
        {
            "name": "hand",
            "instance_key": "a-key-of-my-own-0123456789",
            "slots": 1,
            "engines": [{"name": "lines", "version": "1.0"}],
        },
    )
    return Hand(front, registered["token"])


async def is_held(db: Database) -> None:
    """Wait until the worker has been heard of: its claim has arrived."""

    async def look() -> bool:
        return bool(await db.fetchval("SELECT count(*) FROM workers WHERE lost_at IS NULL"))

    await eventually(look, within_s=30, what="the worker has claimed")


async def upload(proxy: Proxy, token: str, task: Any, *, size: int) -> int:
    """Send an artifact as a careful client does: the body after `100 Continue`."""
    content = b"a" * size
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    async with (
        browser(proxy) as session,
        session.put(
            f"/worker/v1/attempts/{task['attempt_id']}/artifacts/large.bin",
            data=io.BytesIO(content),
            expect100=True,
            headers={
                "Authorization": f"Bearer {token}",
                "Kennel-Lease": task["lease_token"],
                "Content-Digest": f"sha-256=:{digest}:",
            },
            timeout=aiohttp.ClientTimeout(total=60),
        ) as response,
    ):
        await response.read()
        return response.status


async def again(kennel: Kennel, number: int, *, front: Client) -> None:
    """Start an api process at the address of one that ended; return when nginx uses it again."""
    port = kennel.clients[number].url.rpartition(":")[2]
    daemon = await kennel.spawn("api", "api", KENNEL_API__PORT=port)

    async def is_used() -> bool:
        assert (await front.get("/api/v1/workers/")).status == 200
        return any(line["route"] == "/api/v1/workers/" for line in told(daemon, "request.answered"))

    await eventually(is_used, within_s=60, what="nginx passes requests to the process again")


@pytest.mark.slow
async def test_a_killed_and_a_stopped_process_cost_nobody_an_answer(
    kennel: Kennel, tmp_path: Path
) -> None:
    async with behind_nginx(kennel) as (proxy, front):
        await kennel.start_scheduler()
        await kennel.start_worker("w", api=front, SSL_CERT_FILE=str(proxy.certificate))
        projects = [
            await register(front, new_repository(tmp_path / f"repo{n}").url, engines=["lines"])
            for n in range(3)
        ]
        load = Load([front], projects)
        async with load.running():
            load.want(3)
            await load.reached()
            first, second = (daemon for daemon in kennel.daemons if daemon.name == "api")

            load.want(12)
            first.kill()
            await load.reached()
            await again(kennel, 0, front=front)
            load.want(12)
            second.kill(signal.SIGTERM)
            await load.reached()
            assert await second.wait() == 0
        waiting = await front.post(
            f"{projects[0].path}/scans/create/",
            {"incr_scan": False, "force_create": True, "async_flag": False},
            within_s=120,
        )

        assert load.refusals == []
        assert waiting.status == 200, waiting.body
        assert waiting.body["job"]["state"] == 2
        assert len(await all_closed(front, load, within_s=120)) >= 27
