"""Held claims where no notification comes: the safety net asks for them only if tasks are ready."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from api import claims
from core.runtime.settings import SchedulerSettings, Settings
from core.store import attempts, ready
from core.store.store import Store
from tests.api.caller import Api
from tests.api.work import Hand, create_job, queue_preparation

TICK_S = 0.05


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", scheduler=SchedulerSettings(tick_s=TICK_S))


class Asked:
    """How often the database was asked what, by an api that works as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.claims = 0
        self.looks = asyncio.Semaphore(0)
        really_claim, really_look = attempts.claim_many, ready.any_ready

        async def claim_many(*arguments: object, **options: object) -> object:
            self.claims += 1
            return await really_claim(*arguments, **options)  # type: ignore[arg-type]  # passed on

        async def any_ready(store: Store) -> bool:
            found = await really_look(store)
            self.looks.release()
            return found

        monkeypatch.setattr(attempts, "claim_many", claim_many)
        monkeypatch.setattr(claims, "any_ready", any_ready)


async def test_while_nothing_is_ready_no_claim_is_asked_for_again(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    hand = await Hand.register(client, store)
    held = asyncio.create_task(hand.call("claim", {"claim_id": str(uuid.uuid4()), "slots": 1}))

    async with asyncio.timeout(20):
        for _ in range(20):
            await asked.looks.acquire()
    # One when it came, one when the head starts of others were over.
    assert asked.claims == 2

    held.cancel()


async def test_a_task_that_became_ready_unheard_is_offered_to_who_waits(
    client: TestClient, api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    hand = await Hand.register(client, store)
    job_id = await create_job(api, await api.a_project())
    await queue_preparation(store, job_id)
    aside = await store.db.fetchval("SELECT jsonb_agg(r) FROM task_ready AS r")
    await store.db.execute("DELETE FROM task_ready")
    held = asyncio.create_task(hand.call("claim", {"claim_id": str(uuid.uuid4()), "slots": 1}))
    async with asyncio.timeout(20):
        for _ in range(20):
            await asked.looks.acquire()
        assert not held.done()

        await store.db.execute(
            "INSERT INTO task_ready SELECT * FROM jsonb_populate_recordset(null::task_ready, $1)",
            aside,
        )
        answer = await held

    assert [task["job_id"] for task in answer.body["tasks"]] == [job_id]
