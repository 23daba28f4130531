"""The api as a daemon: it listens, answers garbage politely, and stops without cutting anybody off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from pydantic import SecretStr

from api.service import run_api
from core.domain.errors import SettingError
from core.runtime.settings import Settings
from core.store.store import Store, open_store
from tests.store.ficklepath import fickle_path

SECRET = "correct-horse-battery-staple-4711"


def some_settings(tmp_path: Path, **api: object) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path, "bootstrap_token": SECRET, "api": {"port": 0, **api}}
    )


@asynccontextmanager
async def running(settings: Settings, store: Store) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The daemon, its address, and what stops it; it must end within the time-out."""
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run_api(settings, store, stop=stop, on_ready=address.set_result))
        try:
            yield await address, stop
        finally:
            stop.set()


async def raw(address: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, return what comes back until the connection ends."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.read()
    writer.close()
    first, *lines = head.splitlines()
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)
    }
    return int(first.split()[1]), headers, body


async def test_it_starts_although_each_of_its_first_statements_loses_its_connection(
    database_url: str, tmp_path: Path
) -> None:
    losing = ("pg_backend_pid", "schema_info", "INSERT INTO tokens")
    async with fickle_path(database_url, *losing) as path:
        settings = some_settings(tmp_path).model_copy(update={"database_url": SecretStr(path.url)})
        async with (
            open_store(settings, application_name="t", pool_size=2, statement_timeout_s=5) as store,
            running(settings, store) as (address, _),
            aiohttp.ClientSession() as session,
            session.get(f"{address}/healthz") as answer,
        ):
            assert answer.status == 200

    assert path.losing == []


async def test_it_serves_with_the_bootstrap_token_and_ends_when_told(
    store: Store, tmp_path: Path
) -> None:
    async with (
        running(some_settings(tmp_path), store) as (address, stop),
        aiohttp.ClientSession() as http,
    ):
        response = await http.get(
            f"{address}/server/main/api/orgs/", headers={"Authorization": f"Token {SECRET}"}
        )
        assert response.status == 200
        stop.set()

    with pytest.raises(aiohttp.ClientConnectorError):
        async with aiohttp.ClientSession() as http:
            await http.get(f"{address}/healthz")


async def test_an_address_in_use_is_named(store: Store, tmp_path: Path) -> None:
    async with running(some_settings(tmp_path), store) as (address, _):
        taken = some_settings(tmp_path, port=urlsplit(address).port)
        with pytest.raises(SettingError, match="KENNEL_API__PORT"):
            await run_api(taken, store, stop=asyncio.Event())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_our_shape(
    store: Store, tmp_path: Path, request_bytes: bytes
) -> None:
    async with running(some_settings(tmp_path), store) as (address, _):
        status, headers, body = await raw(address, request_bytes)

    assert status == 400
    assert headers["content-type"].startswith("application/json")
    assert json.loads(body) == {
        "status_code": 400,
        "code": 1000,
        "msg": "the request cannot be read as HTTP",
    }


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    store: Store, tmp_path: Path
) -> None:
    head = (
        "POST /server/main/api/orgs/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Token {SECRET}\r\nConnection: close\r\nExpect: 100-continue\r\n"
    )
    async with running(some_settings(tmp_path), store) as (address, _):
        status, _, body = await raw(address, f"{head}Content-Length: 99999999\r\n\r\n".encode())
        odd, _, _ = await raw(
            address,
            head.replace("100-continue", "miracles").encode() + b"Content-Length: 2\r\n\r\n{}",
        )

    assert (status, json.loads(body)["status_code"]) == (413, 413)
    assert odd == 417


async def test_a_request_under_way_is_answered_when_it_stops(store: Store, tmp_path: Path) -> None:
    body = b'{"org_sid": "acme"}'
    head = (
        "POST /server/main/api/orgs/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Token {SECRET}\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    async with running(some_settings(tmp_path), store) as (address, stop):
        parts = urlsplit(address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head.encode())
        async with asyncio.timeout(20):
            # The server has the request in hand and waits for its body.
            await reader.readuntil(b"100 Continue\r\n\r\n")
            stop.set()
            writer.write(body)
            answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 201")
