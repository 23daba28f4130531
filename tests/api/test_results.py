"""What tasks and jobs leave behind, over HTTP: results, logs with ranges, workers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient

from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import REPORT, Hand, create_job

LOG = b"one\ntwo\n\xff\x1b[31mthree</script>\n"


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


@pytest.fixture
async def task(api: Api, project: str, hand: Hand, store: Store) -> dict[str, Any]:
    """A running engine task."""
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id)
    return await hand.claim_and_start()


async def raw(api: Api, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    headers["Authorization"] = f"Token {api.token}"
    async with api.client.get(path, headers=headers) as response:
        return response.status, dict(response.headers), await response.read()


async def test_the_result_of_a_task_is_what_its_worker_uploaded(
    api: Api, hand: Hand, task: dict[str, Any]
) -> None:
    path = f"/api/v1/tasks/{task['task_id']}/result"
    early = await api.get(path)
    await hand.upload(task, REPORT)
    uploaded = await api.get(path)
    await hand.run(task)

    status, headers, content = await raw(api, path)

    assert (early.status, uploaded.status, status) == (404, 404, 200)
    assert content == REPORT
    assert headers["Content-Type"].startswith("application/json")


async def test_a_log_can_be_read_while_it_grows(api: Api, hand: Hand, task: dict[str, Any]) -> None:
    path = f"/api/v1/tasks/{task['task_id']}/log"
    empty = await raw(api, path)
    await hand.log(task, 0, LOG[:4])
    some = await raw(api, path)
    await hand.log(task, 4, LOG[4:])
    rest = await raw(api, path, Range="bytes=4-")
    nothing = await raw(api, path, Range=f"bytes={len(LOG)}-")

    assert (empty[0], empty[2]) == (200, b"")
    assert (some[0], some[2]) == (200, LOG[:4])
    assert (rest[0], rest[2]) == (206, LOG[4:])
    assert rest[1]["Content-Range"] == f"bytes 4-{len(LOG) - 1}/{len(LOG)}"
    assert nothing[0] == 416
    assert nothing[1]["Content-Range"] == f"bytes */{len(LOG)}"


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-2", 206, 0, 3),
        ("bytes=2-2", 206, 2, 3),
        ("bytes=5-", 206, 5, None),
        ("bytes=-3", 206, -3, None),
        ("bytes=-9999", 206, 0, None),
        ("bytes=5-9999", 206, 5, None),
        ("bytes=9999-", 416, 0, 0),
        ("bytes=3-1", 416, 0, 0),
        ("bytes=a-b", 416, 0, 0),
        ("bytes=0-1,3-4", 416, 0, 0),
        ("lines=1-2", 416, 0, 0),
    ],
)
async def test_a_range_of_a_log(
    api: Api, hand: Hand, task: dict[str, Any], asked: str, status: int, start: int, end: int | None
) -> None:
    await hand.log(task, 0, LOG[:7])
    await hand.log(task, 7, LOG[7:])

    found, _, content = await raw(api, f"/api/v1/tasks/{task['task_id']}/log", Range=asked)

    assert found == status
    if status == 206:
        assert content == LOG[start:end]


async def test_a_log_is_text_that_no_browser_runs(
    api: Api, hand: Hand, task: dict[str, Any]
) -> None:
    await hand.log(task, 0, LOG)

    _, headers, content = await raw(api, f"/api/v1/tasks/{task['task_id']}/log")

    assert content == LOG
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Disposition"].startswith("attachment")


async def test_head_tells_the_size_and_sends_nothing(
    api: Api, hand: Hand, task: dict[str, Any], client: TestClient
) -> None:
    await hand.log(task, 0, LOG)
    headers = {"Authorization": f"Token {api.token}"}

    async with client.head(f"/api/v1/tasks/{task['task_id']}/log", headers=headers) as response:
        assert (response.status, response.content_length) == (200, len(LOG))
        assert await response.read() == b""
    assert (await api.get("/healthz")).status == 200


async def test_each_attempt_has_its_own_log(
    api: Api, hand: Hand, task: dict[str, Any], store: Store
) -> None:
    await hand.log(task, 0, b"first")
    await hand.finish(task, outcome="failed", reason="worker_error")
    await store.db.execute(
        "WITH due AS (DELETE FROM task_pending RETURNING *) INSERT INTO task_ready"
        " (task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets)"
        " SELECT task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets"
        " FROM due"
    )
    second = await hand.claim_and_start()
    await hand.log(second, 0, b"second")
    path = f"/api/v1/tasks/{task['task_id']}/log"

    assert (await raw(api, path))[2] == b"second"
    assert (await raw(api, f"{path}?attempt=1"))[2] == b"first"
    assert (await raw(api, f"{path}?attempt=2"))[2] == b"second"
    assert (await api.get(f"{path}?attempt=3")).status == 404
    for junk in ("0", "x", "99999999999"):
        assert (await api.get(f"{path}?attempt={junk}")).status == 400


async def test_results_and_logs_of_another_organisation_do_not_exist(
    api: Api, hand: Hand, task: dict[str, Any], store: Store
) -> None:
    await hand.log(task, 0, LOG)
    await hand.run(task)
    await api.org("other")
    await api.post(
        f"/server/main/api/orgs/acme/teams/core/repos/1/projects/1/jobs/{task['job_id']}/cancel/",
        {"remarks": "x"},
    )
    paths = [
        f"/api/v1/tasks/{task['task_id']}/log",
        f"/api/v1/tasks/{task['task_id']}/result",
        f"/api/v1/jobs/{task['job_id']}/result",
    ]
    viewer = api.with_token(await a_token(store, "viewer", org_sid="acme"))
    stranger = api.with_token(await a_token(store, "admin", org_sid="other"))

    for path in paths:
        assert (await raw(viewer, path))[0] == 200, path
        assert (await stranger.get(path)).status == 404, path
        assert (await api.with_token(None).get(path)).status == 401, path
    for junk in ("0", "x", "9" * 40):
        assert (await api.get(f"/api/v1/tasks/{junk}/log")).status == 404


async def test_the_result_of_a_closed_job_gathers_scan_tasks_and_findings(
    api: Api, project: str, hand: Hand, task: dict[str, Any]
) -> None:
    path = f"/api/v1/jobs/{task['job_id']}/result"
    await hand.run(task, findings={"error": 2, "warning": 1}, engine_version="1.0")
    early = await api.get(path)
    await api.post(f"{project}/jobs/{task['job_id']}/cancel/", {"remarks": "enough"})

    answer = await api.get(path)

    assert (early.status, answer.status) == (404, 200)
    assert answer.body["job"]["result_code"] == 301
    assert answer.body["scan"]["revision"] == "a" * 40
    assert [shown["task_name"] for shown in answer.body["tasks"]] == ["todo"]
    assert answer.body["findings"] == {"todo": {"error": 2, "warning": 1}}


async def test_workers_are_listed_with_what_they_do(
    api: Api, hand: Hand, task: dict[str, Any], store: Store
) -> None:
    answer = await api.get("/api/v1/workers/")

    (worker,) = answer.data["results"]
    assert answer.data["count"] == 1
    assert (worker["id"], worker["name"], worker["state"]) == (hand.worker_id, "rex", "live")
    assert worker["engines"] == [
        {"name": "todo", "version": "1.0", "module": "codelint", "languages": []}
    ]
    assert (worker["slots"], worker["slots_used"]) == (2, 1)
    assert worker["attempts"] == [task["attempt_id"]]
    assert worker["last_seen"] is not None


async def test_only_an_admin_of_everything_directs_workers(
    api: Api, hand: Hand, store: Store
) -> None:
    await api.org("acme")
    local = api.with_token(await a_token(store, "admin", org_sid="acme"))
    path = f"/api/v1/workers/{hand.worker_id}"

    assert (await local.post(f"{path}/drain/")).status == 403
    for verb, state in (("pause", "paused"), ("drain", "draining"), ("resume", "live")):
        answer = await api.post(f"{path}/{verb}/")
        assert answer.data["id"] == hand.worker_id
        (worker,) = (await api.get("/api/v1/workers/")).data["results"]
        assert worker["state"] == state
    assert (await api.post("/api/v1/workers/999/drain/")).status == 404


async def test_a_result_document_is_served_as_json(
    api: Api, hand: Hand, task: dict[str, Any]
) -> None:
    await hand.run(task)

    answer = await api.get(f"/api/v1/tasks/{task['task_id']}/result/")

    assert answer.body == orjson.loads(REPORT)
