"""The store under test: a fresh database, its pool and its wake-ups."""

from __future__ import annotations

import pytest

from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import add_project


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


@pytest.fixture
async def project_id(db: Database) -> int:
    return await add_project(db)
