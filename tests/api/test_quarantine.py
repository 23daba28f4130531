"""A worker in quarantine, over HTTP: what it hears, what it is offered, what operators see and do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from core.runtime.settings import LeaseSettings, Settings
from core.store.store import Store
from tests.api.caller import Api
from tests.api.work import Hand, create_job


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", lease=LeaseSettings(claim_s=1.0))


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


@pytest.fixture
async def tasks(api: Api, client: TestClient, store: Store) -> None:
    """Six tasks in the queue, each of a job of its own."""
    preparer = await Hand.register(client, store, engines=("none",))
    project = await api.a_project()
    for _ in range(6):
        job_id = await create_job(api, project, force_create=True)
        await preparer.prepare(store, job_id)


async def fail(hand: Hand, times: int) -> None:
    for _ in range(times):
        task = await hand.claim_and_start()
        assert await hand.finish(task, outcome="failed", reason="worker_error") == "accepted"


async def shown(api: Api, hand: Hand) -> dict[str, Any]:
    listed = (await api.get("/api/v1/workers/")).data["results"]
    (worker,) = [one for one in listed if one["id"] == hand.worker_id]
    return dict(worker)


async def let_pass(store: Store) -> None:
    await store.db.execute(
        "UPDATE workers SET last_fault_at = last_fault_at - interval '61 s',"
        " quarantined_until = quarantined_until - interval '61 s'"
    )


@pytest.mark.usefixtures("tasks")
async def test_a_worker_hears_that_it_is_quarantined_and_is_offered_nothing(
    api: Api, hand: Hand
) -> None:
    await fail(hand, 3)

    quarantine = (await hand.beat()).body["quarantine"]

    assert quarantine["reason"] == "worker_error"
    assert 50 < quarantine["left_s"] <= 60
    worker = await shown(api, hand)
    assert worker["state"] == "quarantined"
    assert (worker["quarantine"]["reason"], worker["quarantine"]["faults"]) == ("worker_error", 3)
    assert await hand.claim() == []


@pytest.mark.usefixtures("tasks")
async def test_a_worker_on_probation_is_offered_one_task_until_it_has_ended(
    api: Api, hand: Hand, store: Store
) -> None:
    await fail(hand, 3)
    await let_pass(store)
    assert (await hand.beat()).body["quarantine"] is None

    (probe,) = await hand.claim(slots=2)
    assert (await shown(api, hand))["state"] == "quarantined"
    assert await hand.start(probe) == "running"
    assert await hand.run(probe) == "accepted"

    assert len(await hand.claim(slots=2)) == 2
    assert (await shown(api, hand))["quarantine"] is None


@pytest.mark.usefixtures("tasks")
async def test_resume_ends_a_quarantine(api: Api, hand: Hand) -> None:
    await fail(hand, 3)

    answer = await api.post(f"/api/v1/workers/{hand.worker_id}/resume/")

    assert answer.status == 200
    worker = await shown(api, hand)
    assert (worker["state"], worker["quarantine"]) == ("live", None)
    assert (await hand.beat()).body["quarantine"] is None
    assert len(await hand.claim(slots=2)) == 2
