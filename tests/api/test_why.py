"""Why a job is where it is, over HTTP: one reason at every step of its life."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from core.domain.ids import JobId
from core.domain.waiting import WaitReason
from core.store import reaping, settling
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import Hand, create_job, queue_engines, queue_preparation


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


async def why(api: Api, project: str, job_id: int) -> dict[str, Any]:
    """The answer under both addresses, which must agree."""
    below = await api.get(f"{project}/jobs/{job_id}/why/")
    alone = await api.get(f"/api/v1/jobs/{job_id}/why")
    assert (below.status, alone.status) == (200, 200), below.text
    data: dict[str, Any] = below.data
    assert [data[name] for name in ("id", "reason", "task_id")] == [
        alone.body[name] for name in ("id", "reason", "task_id")
    ]
    return data


async def test_a_job_says_its_reason_at_every_step(
    api: Api, project: str, client: TestClient, store: Store
) -> None:
    job_id = await create_job(api, project)
    seen = []

    async def look() -> dict[str, Any]:
        found = await why(api, project, job_id)
        seen.append(found["reason"])
        return found

    await look()
    await queue_preparation(store, job_id)
    await look()
    hand = await Hand.register(client, store)
    await look()
    (task,) = await hand.claim()
    await look()
    await hand.start(task)
    await hand.beat(task, files_done=1, files_planned=2)
    await look()
    await hand.finish(task, prepare={"files": 1, "languages": {}})
    await look()
    await queue_engines(store, job_id)
    task = await hand.claim_and_start()
    await hand.finish(task, outcome="failed", reason="checkout_failed")
    await look()
    await store.db.execute("UPDATE task_pending SET not_before = now()")
    await reaping.promote(store)
    assert await hand.run(await hand.claim_and_start()) == "accepted"
    await look()
    await settling.save(store, JobId(job_id), superseded_msg="{}")
    await look()
    ((_, scan_id),) = await settling.saving(store, limit=1)
    await settling.ingest(store, JobId(job_id), scan_id, findings=[], lines=None, engines={})
    closed = await look()

    assert seen == [
        "admission_due",
        "no_worker_fits",
        "claim_due",
        "offered",
        "running",
        "planning_due",
        "retry_delayed",
        "settling_due",
        "saving",
        "closed",
    ]
    assert closed["facts"] == {"result_code": 0, "result_msg": "success"}
    assert closed["text"] == "is closed with 0: success"


async def test_a_reason_comes_with_its_facts_and_moments(
    api: Api, project: str, hand: Hand, store: Store
) -> None:
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    await hand.beat(task, files_done=3, files_planned=9)

    found = await why(api, project, job_id)

    assert found["facts"] == {
        "worker_id": hand.worker_id,
        "worker": "rex",
        "step": "running",
        "files_done": 3,
        "files_planned": 9,
    }
    assert found["phase"] == "running"
    assert found["task_id"] == task["task_id"]
    assert found["since"].endswith("+08:00")
    at, since, expires = (
        datetime.fromisoformat(found[name]) for name in ("as_of", "since", "expire_time")
    )
    assert since <= at < expires
    preparation, engine = found["tasks"]
    assert (preparation["kind"], preparation["reason"]) == ("prepare", "closed")
    assert (engine["task_name"], engine["reason"], engine["estimate"]) == ("todo", "running", None)


async def test_what_stands_before_a_job_is_named(api: Api, project: str) -> None:
    first = await api.post(f"{project}/scans/create/", {})
    job_id = await create_job(api, project)

    found = await why(api, project, job_id)

    assert found["reason"] == "job_ahead"
    assert found["facts"] == {
        "job_id": first.body["job"]["id"],
        "scan_id": first.body["scan"]["id"],
        "jobs_ahead": 1,
    }
    assert f"waits for job {first.body['job']['id']}" in found["text"]


async def test_what_the_nearest_workers_lack_is_a_list(
    api: Api, project: str, hand: Hand, store: Store
) -> None:
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id, engines=("absent",))

    found = await why(api, project, job_id)

    assert found["facts"] == {
        "engine": "absent",
        "version_range": "",
        "tag": "",
        "isolation": "group",
        "workers": 1,
        "nearest": [{"lacks": ["engine"], "version": "", "workers": 1}],
    }


async def test_whoever_sees_the_job_may_ask_and_nobody_else(
    api: Api, project: str, store: Store
) -> None:
    job_id = await create_job(api, project)
    elsewhere = await api.a_project("umbrella")
    paths = [f"{project}/jobs/{job_id}/why/", f"/api/v1/jobs/{job_id}/why"]
    viewer = api.with_token(await a_token(store, "viewer", org_sid="acme"))
    stranger = api.with_token(await a_token(store, "admin", org_sid="umbrella"))

    assert [(await viewer.get(path)).status for path in paths] == [200, 200]
    assert [(await stranger.get(path)).status for path in paths] == [404, 404]
    assert [(await api.with_token(None).get(path)).status for path in paths] == [401, 401]
    assert (await api.get(f"{elsewhere}/jobs/{job_id}/why/")).status == 404
    assert (await api.get(f"{project}/jobs/999/why/")).status == 404
    assert (await api.get("/api/v1/jobs/999/why")).status == 404
    assert (await api.get("/api/v1/jobs/none/why")).status == 404


async def test_the_document_has_every_reason(api: Api) -> None:
    document = (await api.get("/openapi.json")).body

    assert set(document["components"]["schemas"]["WaitReason"]["enum"]) == set(WaitReason)
