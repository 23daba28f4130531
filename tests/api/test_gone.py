"""Callers that go away, on a server as the daemon runs it: aiohttp's test server cancels handlers
then, the daemon's does not, so that no statement is cut off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from api.app import build_app
from api.holding import HOLDING
from core.runtime.settings import Settings
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import Hand, create_job, digest


@pytest.fixture
async def app(settings: Settings, store: Store) -> web.Application:
    return build_app(settings, store)


@pytest.fixture
async def address(app: web.Application) -> AsyncIterator[tuple[str, int]]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, auto_decompress=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0]
    finally:
        await runner.cleanup()


@pytest.fixture
async def session(address: tuple[str, int]) -> AsyncIterator[ClientSession]:
    async with ClientSession("http://{}:{}".format(*address)) as session:
        yield session


@pytest.fixture
async def api(session: ClientSession, store: Store) -> Api:
    return Api(session, await a_token(store, "admin", name="root"), store)  # type: ignore[arg-type]


async def until_held(app: web.Application, api: Api, count: int) -> None:
    async with asyncio.timeout(10):
        while len(app[HOLDING]) != count:
            await api.get("/healthz")


async def test_a_held_create_is_let_go_when_its_caller_is_gone(
    app: web.Application, api: Api, store: Store
) -> None:
    project = await api.a_project()
    create = api.post(f"{project}/scans/create/", {"async_flag": False})
    waiting = asyncio.create_task(create)
    await until_held(app, api, 1)

    waiting.cancel()
    await until_held(app, api, 0)

    assert await store.db.fetchval("SELECT phase FROM jobs") == "waiting"


async def test_a_held_claim_is_let_go_when_its_worker_is_gone(
    app: web.Application, api: Api, session: ClientSession, store: Store
) -> None:
    hand = await Hand.register(session, store)  # type: ignore[arg-type]
    claim = asyncio.create_task(hand.claim())
    await until_held(app, api, 1)

    claim.cancel()
    await until_held(app, api, 0)


async def test_a_reader_of_a_log_that_goes_away_is_no_failure(
    address: tuple[str, int],
    api: Api,
    session: ClientSession,
    store: Store,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hand = await Hand.register(session, store)  # type: ignore[arg-type]
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    for part in range(8):
        assert (await hand.log(task, part * 1_000_000, b"x" * 1_000_000)).status == 202
    # A small window: most of the log is still to be sent when the reader goes.
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, address)
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    path = f"/api/v1/tasks/{task['task_id']}/log"
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {api.token}\r\n\r\n"
    writer.write(request.encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    writer.transport.abort()

    said = ""
    async with asyncio.timeout(10):
        while "tasks/{task_id}/log" not in said:
            await api.get("/healthz")
            said += capfd.readouterr().out
    assert "request.failed" not in said
    assert "request.refused" not in said


async def test_an_upload_that_breaks_off_is_no_failure(
    address: tuple[str, int],
    api: Api,
    session: ClientSession,
    store: Store,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hand = await Hand.register(session, store)  # type: ignore[arg-type]
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    _, writer = await asyncio.open_connection(*address)
    request = (
        f"PUT /worker/v1/attempts/{task['attempt_id']}/artifacts/a HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {hand.token}\r\nKennel-Lease: {task['lease_token']}\r\n"
        f"Content-Digest: {digest(b'x')}\r\nContent-Length: 1000000\r\n\r\n"
    )
    writer.write(request.encode() + b"x" * 100_000)
    await writer.drain()

    writer.transport.abort()

    said = ""
    async with asyncio.timeout(10):
        while "artifacts/{name}" not in said:
            await api.get("/healthz")
            said += capfd.readouterr().out
    assert "request.failed" not in said
    assert "request.refused" not in said
    assert await store.db.fetchval("SELECT count(*) FROM artifacts") == 0


async def test_a_body_that_breaks_off_is_no_failure(
    address: tuple[str, int], api: Api, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    path = f"{await api.a_project()}/scans/create/"
    _, writer = await asyncio.open_connection(*address)
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {api.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    writer.write(request.encode())
    await writer.drain()

    writer.transport.abort()

    said = ""
    async with asyncio.timeout(10):
        while "scans/create/" not in said:
            await api.get("/healthz")
            said += capfd.readouterr().out
    assert "request.failed" not in said
    assert "request.refused" not in said
    assert await store.db.fetchval("SELECT count(*) FROM jobs") == 0
