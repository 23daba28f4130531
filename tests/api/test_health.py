"""Health and readiness, with a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from api.operations import ORGS
from core.runtime.settings import Settings
from core.store.store import Store, open_store
from tests.api.caller import Api, a_token


class Relay:
    """A socket between the api and PostgreSQL that can be cut and mended."""

    def __init__(self, folder: Path, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self._host = query.get("host", parts.hostname or "localhost")
        self._port = int(query.get("port", parts.port or 5432))
        self._path = folder / f".s.PGSQL.{self._port}"
        ours = urlencode({**query, "host": str(folder), "port": str(self._port)})
        user = f"{parts.netloc.rpartition('@')[0]}@"
        self.url = urlunsplit(parts._replace(netloc=user, query=ours))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._relay, self._path)

    def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink()
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await self._connect()
        self._writers |= {writer, target_writer}
        try:
            await asyncio.gather(_pump(reader, target_writer), _pump(target_reader, writer))
        finally:
            self._writers -= {writer, target_writer}
            target_writer.close()
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        # Cut: the other end is told by its own socket.
        writer.transport.abort()


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    # The name of a socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="kennel-"))
    relay = Relay(folder, database_url)
    await relay.mend()
    yield relay
    relay.cut()
    shutil.rmtree(folder)


async def test_without_its_database_the_service_answers_503_and_recovers_by_itself(
    relay: Relay, tmp_path: Path
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "database_url": relay.url})
    async with (
        open_store(settings, application_name="test", pool_size=2, statement_timeout_s=5) as store,
        TestClient(TestServer(build_app(settings, store))) as client,
    ):
        api = Api(client, await a_token(store, "admin"), store)
        before = await api.get("/readyz")

        relay.cut()
        refused = await api.get(f"{ORGS}/")
        not_ready, health = await api.get("/readyz"), await api.get("/healthz")

        await relay.mend()
        assert await store.signals.wait_connected(30)
        after, again = await api.get("/readyz"), await api.get(f"{ORGS}/")

    assert (before.status, before.body) == (200, {"status": "ready", "reasons": []})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert (not_ready.status, not_ready.headers["Retry-After"]) == (503, "1")
    assert "the database is not available" in not_ready.body["reasons"]
    assert health.status == 200
    assert (after.status, again.status) == (200, 200)


async def test_a_schema_this_code_does_not_know_is_not_ready(api: Api) -> None:
    await api.store.db.execute("UPDATE schema_info SET oldest_code = 1000000")

    answer = await api.get("/readyz")

    assert answer.status == 503
    assert "schema" in answer.body["reasons"][0]


async def test_what_else_must_be_there_is_asked_and_named(store: Store, tmp_path: Path) -> None:
    reason: str | None = "no worker has registered yet"

    async def check() -> str | None:
        return reason

    app = build_app(Settings(data_dir=tmp_path), store, readiness_checks=[check])
    async with TestClient(TestServer(app)) as client:
        api = Api(client, None, store)
        without = await api.get("/readyz")
        reason = None
        with_it = await api.get("/readyz")

    assert (without.status, without.body["reasons"]) == (503, ["no worker has registered yet"])
    assert with_it.status == 200
