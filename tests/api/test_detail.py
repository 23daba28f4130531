"""The detail of a job over HTTP, to the letter, in every state it can be in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from core.domain.ids import JobId
from core.domain.outcomes import Reason
from core.store import jobs
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import REPORT, Hand, artifact, create_job

#: The documented fields, in their order.
DOCUMENTED = [
    *("id", "scan_id", "create_time", "waiting_time", "start_time", "execute_time", "project"),
    *("end_time", "expire_time", "task_num", "task_done", "tasks", "co_jobs", "state"),
    *("result_code", "result_code_msg", "result_msg", "result_path", "remarks", "remarked_by"),
    *("code_line_num", "comment_line_num", "blank_line_num", "total_line_num"),
    *("created_from", "creator"),
]
TASK = [
    *("id", "module", "task_name", "progress_rate", "state"),
    *("result_code", "result_msg", "result_path"),
]


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


async def detail(api: Api, project: str, job_id: int) -> dict[str, Any]:
    answer = await api.get(f"{project}/jobs/{job_id}/detail/")
    assert answer.status == 200, answer.text
    data: dict[str, Any] = answer.data
    assert list(data)[: len(DOCUMENTED)] == DOCUMENTED
    for task in data["tasks"]:
        assert list(task)[: len(TASK)] == TASK
    return data


def at(text: str) -> datetime:
    assert text.endswith("+08:00"), text
    assert len(text) == len("2021-01-28T10:27:26.442961+08:00"), text
    return datetime.fromisoformat(text)


async def test_a_waiting_job(api: Api, project: str) -> None:
    job_id = await create_job(api, project, created_from="jenkins", incr_scan=False)

    job = await detail(api, project, job_id)

    assert (job["id"], job["state"]) == (job_id, 0)
    assert (job["created_from"], job["creator"]) == ("jenkins", "root")
    assert (datetime.now(UTC) - at(job["create_time"])).total_seconds() < 30
    assert float(job["waiting_time"]) >= 0
    assert (at(job["expire_time"]) - at(job["create_time"])).total_seconds() == 86_400
    absent = ("start_time", "execute_time", "end_time", "result_code", "result_code_msg")
    later = ("result_msg", "result_path", "remarks", "remarked_by")
    lines = ("code_line_num", "comment_line_num", "blank_line_num", "total_line_num")
    assert {job[name] for name in absent + later + lines} == {None}
    assert (job["task_num"], job["task_done"], job["tasks"], job["co_jobs"]) == (0, 0, [], [])
    assert job["project"] == {
        "id": 1,
        "branch": "main",
        "repo_id": 1,
        "scan_scheme": 1,
        "repo_scm_url": "https://git.example.org/acme/web.git",
    }
    assert (job["scan_type"], job["full_reason"]) == (2, "requested")


async def test_a_job_on_its_way_through_a_worker(
    api: Api, project: str, hand: Hand, store: Store
) -> None:
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id, engines=("todo", "todo"))

    queued = await detail(api, project, job_id)
    first, second = await hand.claim(slots=2)
    offered = await detail(api, project, job_id)
    await hand.start(first)
    await hand.beat(first, second, files_done=3, files_planned=7)
    running = await detail(api, project, job_id)
    await hand.run(first, findings={"error": 2, "info": 1}, coverage={"planned": 7, "analysed": 7})
    half = await detail(api, project, job_id)

    assert [queued["state"], offered["state"], running["state"], half["state"]] == [0, 0, 1, 1]
    assert [job["task_num"] for job in (queued, offered, running, half)] == [2] * 4
    assert [job["task_done"] for job in (queued, offered, running, half)] == [0, 0, 0, 1]
    assert [task["state"] for task in offered["tasks"]] == [0, 0]
    assert [task["state"] for task in running["tasks"]] == [1, 0]
    assert [task["progress_rate"] for task in running["tasks"]] == [42, 0]
    assert running["start_time"] is not None
    assert running["tasks"][0]["worker"] == "rex"
    assert running["result_path"] is None
    done, open_one = half["tasks"]
    assert (done["state"], done["progress_rate"], done["result_code"]) == (2, 100, 0)
    assert (done["result_msg"], done["result_code_msg"]) == ("success", "成功")
    assert done["result_path"] == f"/api/v1/tasks/{first['task_id']}/result"
    assert done["coverage"] == {"planned": 7, "analysed": 7, "skipped": 0, "failed": 0}
    assert half["findings"] == {"error": 2, "info": 1}
    assert (open_one["result_path"], open_one["result_code"]) == (None, None)
    assert (await api.get(done["result_path"])).status == 200


async def test_a_cancelled_job_ends_its_tasks_and_its_times_stand_still(
    api: Api, project: str, hand: Hand, store: Store
) -> None:
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id)
    await hand.claim_and_start()
    await api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "wrong branch"})

    job = await detail(api, project, job_id)
    again = await detail(api, project, job_id)

    assert job == again
    assert (job["state"], job["result_code"], job["result_code_msg"]) == (2, 301, "用户取消")
    assert job["result_msg"] == "User( root ) Canceled: wrong branch . "
    assert (job["remarks"], job["remarked_by"]) == ("wrong branch", "root")
    assert job["task_done"] == job["task_num"] == 1
    (task,) = job["tasks"]
    assert (task["state"], task["progress_rate"], task["result_code"]) == (2, 100, 301)
    waited = at(job["start_time"]) - at(job["create_time"])
    ran = at(job["end_time"]) - at(job["start_time"])
    assert float(job["waiting_time"]) == pytest.approx(waited.total_seconds(), abs=1e-9)
    assert float(job["execute_time"]) == pytest.approx(ran.total_seconds(), abs=1e-9)
    assert job["result_path"] == f"/api/v1/jobs/{job_id}/result"


async def test_a_job_cancelled_before_it_started_never_executed(api: Api, project: str) -> None:
    job_id = await create_job(api, project)
    await api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "x"})

    job = await detail(api, project, job_id)

    assert (job["start_time"], job["execute_time"]) == (None, None)
    waited = at(job["end_time"]) - at(job["create_time"])
    assert float(job["waiting_time"]) == pytest.approx(waited.total_seconds(), abs=1e-9)


async def test_a_superseded_job_says_so_in_its_code(api: Api, project: str, store: Store) -> None:
    job_id = await create_job(api, project)
    message = '{"job_id": 9, "scan_id": 9, "msg": "plz check the other job\'s result"}'
    await jobs.close(store, [JobId(job_id)], code=2, message=message, reason=Reason.SUPERSEDED)

    job = await detail(api, project, job_id)

    assert (job["result_code"], job["result_code_msg"]) == (2, "重定向到其他任务")
    assert job["result_msg"] == message


async def test_a_failed_task_names_its_reason(
    api: Api, project: str, hand: Hand, store: Store
) -> None:
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    await hand.upload(task, REPORT)
    fields = {"outcome": "failed", "reason": "engine_failed", "message": "todo: exit status 32"}
    assert await hand.finish(task, artifacts=[artifact(REPORT)], **fields) == "accepted"

    (shown,) = (await detail(api, project, job_id))["tasks"]

    assert (shown["result_code"], shown["result_msg"]) == (211, "todo: exit status 32")
    assert shown["reason"] == "engine_failed"
    assert shown["result_path"] is not None


async def test_the_projects_other_open_jobs_are_named(api: Api, project: str) -> None:
    first, second, third = [await create_job(api, project, force_create=True) for _ in range(3)]
    await api.post(f"{project}/jobs/{third}/cancel/", {"remarks": "x"})

    (other,) = (await detail(api, project, first))["co_jobs"]

    assert set(other) == {"id", "scan_id", "state"}
    assert (other["id"], other["state"]) == (second, 0)


async def test_a_job_is_shown_below_its_own_project_to_its_own_organisation_only(
    api: Api, project: str, store: Store
) -> None:
    job_id = await create_job(api, project)
    other = await api.a_project("other")
    stranger = api.with_token(await a_token(store, "admin", org_sid="other"))

    assert (await api.get(f"{other}/jobs/{job_id}/detail/")).status == 404
    assert (await stranger.get(f"{project}/jobs/{job_id}/detail/")).status == 404
    for junk in ("0", "-1", "x", "9" * 40, str(2**63), "%00", "1.0", "１"):
        assert (await api.get(f"{project}/jobs/{junk}/detail/")).status == 404, junk
