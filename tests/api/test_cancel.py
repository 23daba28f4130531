"""Cancelling over HTTP: as the reference server answers, but it really ends the job."""

from __future__ import annotations

from typing import Any

import pytest

from api.operations import ORGS, ORGS_V3
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.api.work import create_job

CANCELLED = {"data": {"msg": "取消成功"}, "code": 0, "msg": "取消成功", "status_code": 200}


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


async def ending(store: Store, job_id: int) -> tuple[Any, ...]:
    row = await store.db.fetchrow(
        "SELECT phase, result_code, result_msg, remarks, remarked_by FROM jobs WHERE id = $1",
        job_id,
    )
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize("prefix", [ORGS, ORGS_V3])
async def test_a_cancel_closes_the_job(api: Api, project: str, store: Store, prefix: str) -> None:
    job_id = await create_job(api, project)

    path = f"{project.replace(ORGS, prefix)}/jobs/{job_id}/cancel/"
    answer = await api.post(path, {"remarks": "not needed", "force": True})

    assert (answer.status, answer.body) == (200, CANCELLED)
    text = "User( root ) Canceled: not needed . "
    assert await ending(store, job_id) == ("closed", 301, text, "not needed", "root")


async def test_a_closed_job_stays_as_it_is_and_the_answer_is_the_same(
    api: Api, project: str, store: Store
) -> None:
    job_id = await create_job(api, project)
    await api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "first"})
    before = await ending(store, job_id)

    again = await api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "second"})

    assert (again.status, again.body) == (200, CANCELLED)
    assert await ending(store, job_id) == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"remarks": ""},
        {"remarks": None},
        {"remarks": "x" * 513},
        {"remarks": 5},
        {"remarks": "\x00"},
    ],
)
async def test_a_cancel_says_why(
    api: Api, project: str, store: Store, body: dict[str, Any]
) -> None:
    job_id = await create_job(api, project)

    answer = await api.post(f"{project}/jobs/{job_id}/cancel/", body)

    assert (answer.status, answer.fields) == (400, ["remarks"])
    assert (await ending(store, job_id))[0] == "waiting"


async def test_a_form_and_the_longest_reason_do(api: Api, project: str, store: Store) -> None:
    job_id = await create_job(api, project)

    answer = await api.post(f"{project}/jobs/{job_id}/cancel", data={"remarks": "原" * 512})

    assert answer.status == 200
    assert (await ending(store, job_id))[3] == "原" * 512


async def test_members_cancel_their_own_and_nobody_elses(
    api: Api, project: str, store: Store
) -> None:
    job_id = await create_job(api, project)
    other = await api.a_project("other")
    path = f"{project}/jobs/{job_id}/cancel/"
    viewer = api.with_token(await a_token(store, "viewer", org_sid="acme"))
    stranger = api.with_token(await a_token(store, "admin", org_sid="other"))
    member = api.with_token(await a_token(store, "member", name="mia", org_sid="acme"))
    body = {"remarks": "x"}

    assert (await viewer.post(path, body)).status == 403
    assert (await stranger.post(path, body)).status == 404
    assert (await stranger.post(f"{other}/jobs/{job_id}/cancel/", body)).status == 404
    assert (await api.with_token(None).post(path, body)).status == 401
    assert (await ending(store, job_id))[0] == "waiting"
    assert (await member.post(path, body)).status == 200
    assert (await ending(store, job_id))[4] == "mia"
