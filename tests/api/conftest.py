"""The real application on a real server socket and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from core.runtime.settings import Settings
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.api.caller import Api, a_token


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What the api runs with; a test overrides the fixture to change it."""
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


@pytest.fixture
async def client(settings: Settings, store: Store) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(build_app(settings, store))) as running:
        yield running


@pytest.fixture
async def api(client: TestClient, store: Store) -> Api:
    """The server, called by an admin of all organisations."""
    return Api(client, await a_token(store, "admin", name="root"), store)
