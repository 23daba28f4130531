"""Starting a scan over HTTP: bodies of every encoding, policies, repeats, synchronous answers."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient, TestServer

from api.app import build_app
from api.holding import HOLDING
from api.keys import STOPPING
from api.operations import ORGS, ORGS_V3
from core.domain.ids import JobId
from core.domain.states import ActiveJobPolicy
from core.runtime.settings import ApiSettings, SchedulerSettings, Settings
from core.store import jobs
from core.store.notify import Signals
from core.store.pool import Connection, Database
from core.store.store import Store
from tests.api.caller import Answered, Api, a_token

DEFAULTS = (True, False, "api", None)


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    policy = getattr(request, "param", ActiveJobPolicy.QUEUE)
    return Settings(
        data_dir=tmp_path / "data",
        api=ApiSettings(sync_wait_s=3, active_job_policy=policy),
        scheduler=SchedulerSettings(tick_s=0.2),
    )


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


async def create(api: Api, project: str, body: Any = None, **options: Any) -> Answered:
    return await api.post(f"{project}/scans/create/", body, **options)


async def asked(store: Store) -> tuple[Any, ...]:
    """What the newest job was asked to do."""
    row = await store.db.fetchrow(
        "SELECT is_incremental, is_forced, created_from, revision FROM jobs ORDER BY id DESC LIMIT 1"
    )
    assert row is not None
    return tuple(row)


async def jobs_made(store: Store) -> int:
    count: int = await store.db.fetchval("SELECT count(*) FROM jobs")
    return count


async def until_held(client: TestClient, count: int) -> None:
    async with asyncio.timeout(5):
        while len(client.app[HOLDING]) != count:
            await client.get("/healthz")


# --- the answer and the body ----------------------------------------------------------------------


async def test_a_create_answers_the_two_ids_and_nothing_around_them(
    api: Api, project: str, store: Store
) -> None:
    answer = await create(api, project, {})

    scan_id = await store.db.fetchval("SELECT id FROM scans")
    job_id = await store.db.fetchval("SELECT id FROM jobs")
    assert (answer.status, answer.body) == (200, {"job": {"id": job_id}, "scan": {"id": scan_id}})


async def test_the_other_address_answers_the_same_in_the_envelope(api: Api, project: str) -> None:
    answer = await api.post(f"{project.replace(ORGS, ORGS_V3)}/scans/", {})

    assert answer.status == 200
    assert set(answer.body) == {"data", "code", "msg", "status_code"}
    assert (answer.body["code"], answer.body["msg"]) == (0, "请求成功")
    assert set(answer.data) == {"job", "scan"}
    assert set(answer.data["job"]) == {"id"}


async def test_the_slash_at_the_end_may_be_missing(api: Api, project: str) -> None:
    assert (await api.post(f"{project}/scans/create", {"incr_scan": False})).status == 200


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"json": {}},
        {"data": b""},
        {"data": {"unknown": "1"}},
        {"data": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"json": {"unknown": {"deep": [1]}, "tag": None}},
    ],
)
async def test_an_absent_field_has_its_default_whatever_the_encoding(
    api: Api, project: str, store: Store, options: dict[str, Any]
) -> None:
    answer = await api.request("POST", f"{project}/scans/create/", **options)

    assert answer.status == 200, answer.text
    assert await asked(store) == DEFAULTS


async def test_a_multipart_form_is_a_body_too(api: Api, project: str, store: Store) -> None:
    form = FormData(default_to_multipart=True)
    form.add_field("incr_scan", "off")

    assert (await create(api, project, data=form)).status == 200
    assert await asked(store) == (False, False, "api", None)


@pytest.mark.parametrize(
    ("word", "meant"),
    [(word, True) for word in (True, 1, "true", "True", "TRUE", "1", "yes", "on", " Yes ")]
    + [(word, False) for word in (False, 0, "false", "0", "no", "off", "OFF")],
)
async def test_words_for_true_and_false_mean_the_same_in_json_and_in_forms(
    api: Api, project: str, store: Store, word: Any, meant: bool
) -> None:
    assert (await create(api, project, {"incr_scan": word, "force_create": True})).status == 200
    assert (await asked(store))[0] is meant

    assert (
        await create(api, project, data={"incr_scan": str(word), "force_create": "1"})
    ).status == 200
    assert (await asked(store))[0] is meant


async def test_every_field_reaches_the_job(api: Api, project: str, store: Store) -> None:
    body = {
        "incr_scan": False,
        "async_flag": True,
        "force_create": True,
        "created_from": "jenkins 流水线",
        "revision": "ABCDEF0123" * 4,
    }

    assert (await create(api, project, body)).status == 200
    assert await asked(store) == (False, True, "jenkins 流水线", "abcdef0123" * 4)
    assert await store.db.fetchval("SELECT creator FROM jobs") == "root"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"incr_scan": "maybe"}, "incr_scan"),
        ({"incr_scan": None}, "incr_scan"),
        ({"incr_scan": 2}, "incr_scan"),
        ({"async_flag": []}, "async_flag"),
        ({"force_create": ""}, "force_create"),
        ({"created_from": ""}, "created_from"),
        ({"created_from": "x" * 33}, "created_from"),
        ({"created_from": "a\x00b"}, "created_from"),
        ({"created_from": 5}, "created_from"),
        ({"revision": "HEAD"}, "revision"),
        ({"revision": "a" * 39}, "revision"),
        ({"revision": "--upload-pack=touch x" + "a" * 19}, "revision"),
        ([], "non_field_errors"),
        ("x", "non_field_errors"),
    ],
)
async def test_a_field_that_cannot_be_used_is_named_and_nothing_is_created(
    api: Api, project: str, store: Store, body: Any, field: str
) -> None:
    answer = await create(api, project, body)

    assert (answer.status, answer.body["code"], answer.fields) == (400, 1000, [field])
    assert await jobs_made(store) == 0


async def test_a_wrong_boolean_is_refused_in_the_reference_servers_words(
    api: Api, project: str
) -> None:
    answer = await create(api, project, {"incr_scan": "x"})

    assert answer.body["msg"] == "incr_scan Must be a valid boolean."


@pytest.mark.parametrize(
    ("body", "msg"),
    [
        ({"created_from": "x" * 33}, "created_from must have 32 characters or fewer"),
        ({"created_from": ""}, "created_from must not be empty"),
        ([], "non_field_errors must be an object"),
    ],
)
async def test_a_refusal_speaks_of_the_request_and_not_of_what_reads_it(
    api: Api, project: str, body: Any, msg: str
) -> None:
    answer = await create(api, project, body)

    assert answer.body["msg"] == msg


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"created_from": "\\ud800"}', "application/json", 400),
        (b'{"incr_scan": true, "incr_scan": false}', "application/json", 400),
        (b"created_from=%ff", "application/x-www-form-urlencoded", 400),
        (b"<a/>", "application/xml", 415),
        (b"x" * (2**20 + 1), "application/json", 413),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    api: Api, project: str, store: Store, data: bytes, content_type: str, status: int
) -> None:
    answer = await create(
        api, project, data=io.BytesIO(data), headers={"Content-Type": content_type}
    )

    assert answer.status == status
    assert await jobs_made(store) == 0


# --- who and where --------------------------------------------------------------------------------


async def test_a_member_scans_and_a_viewer_does_not(api: Api, project: str, store: Store) -> None:
    member = api.with_token(await a_token(store, "member", org_sid="acme"))
    viewer = api.with_token(await a_token(store, "viewer", org_sid="acme"))

    assert (await create(member, project)).status == 200
    assert (await create(viewer, project)).status == 403
    assert (await create(api.with_token(None), project)).status == 401
    assert await jobs_made(store) == 1


async def test_a_project_of_another_organisation_or_parent_does_not_exist(
    api: Api, project: str, store: Store
) -> None:
    await api.org("other")
    stranger = api.with_token(await a_token(store, "admin", org_sid="other"))

    assert (await create(stranger, project)).status == 404
    for path in (
        project.replace("/acme/", "/other/"),
        project.replace("/core/", "/else/"),
        project.replace("/repos/1/", "/repos/2/"),
        project.replace("/projects/1", "/projects/2"),
        project.replace("/projects/1", "/projects/x"),
    ):
        assert (await create(api, path)).status == 404, path


@pytest.mark.parametrize("status", [2, 3])
async def test_a_project_that_is_not_active_takes_no_scans(
    api: Api, project: str, store: Store, status: int
) -> None:
    await store.db.execute("UPDATE projects SET status = $1", status)

    answer = await create(api, project)

    assert (answer.status, answer.fields) == (400, ["project"])
    assert await jobs_made(store) == 0


async def test_a_disused_scheme_takes_no_scans(api: Api, project: str, store: Store) -> None:
    await store.db.execute("UPDATE schemes SET status = 2")

    assert (await create(api, project)).status == 400
    assert await jobs_made(store) == 0


# --- policies and repeats -------------------------------------------------------------------------


async def test_by_default_a_second_scan_waits(api: Api, project: str, store: Store) -> None:
    answers = await asyncio.gather(*(create(api, project) for _ in range(5)))

    assert len({answer.body["job"]["id"] for answer in answers}) == 5


async def test_the_scheme_may_refuse_a_second_scan_in_the_reference_servers_words(
    api: Api, project: str, store: Store
) -> None:
    await store.db.execute("UPDATE schemes SET active_job_policy = 'reject'")
    first = await create(api, project)

    second = await create(api, project)
    forced = await create(api, project, {"force_create": True})

    scan_id = first.body["scan"]["id"]
    assert second.status == 400
    assert second.body == {
        "status_code": 400,
        "code": 300,
        "msg": f"当前项目分支[1]main还有未完成任务，编号为: [{scan_id}]",
    }
    assert forced.status == 200


async def test_the_scheme_may_join_scans_that_ask_the_same(
    api: Api, project: str, store: Store
) -> None:
    await store.db.execute("UPDATE schemes SET active_job_policy = 'join'")
    first = await create(api, project)

    same = await create(api, project)
    other = await create(api, project, {"incr_scan": False})

    assert same.body == first.body
    assert other.body != first.body
    assert await jobs_made(store) == 2


@pytest.mark.parametrize("settings", [ActiveJobPolicy.REJECT], indirect=True)
async def test_the_server_decides_where_the_scheme_does_not(api: Api, project: str) -> None:
    assert [(await create(api, project)).status for _ in range(2)] == [200, 400]


async def test_a_repeated_create_answers_the_first_ones_ids(
    api: Api, project: str, store: Store
) -> None:
    key = {"Idempotency-Key": "build 42"}

    answers = await asyncio.gather(*(create(api, project, {}, headers=key) for _ in range(5)))
    other = await create(api, project, {"incr_scan": False}, headers=key)
    somebody = api.with_token(await a_token(store, "member"))

    assert len({answer.text for answer in answers}) == 1
    assert (other.status, other.fields) == (400, ["Idempotency-Key"])
    assert (await create(somebody, project, {}, headers=key)).text != answers[0].text
    assert await jobs_made(store) == 2


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "schlüssel"])
async def test_a_key_that_is_none_is_refused(
    api: Api, project: str, store: Store, key: str
) -> None:
    answer = await create(api, project, {}, headers={"Idempotency-Key": key})

    assert answer.status == 400
    assert await jobs_made(store) == 0


# --- synchronous ----------------------------------------------------------------------------------


async def test_a_synchronous_create_is_answered_when_its_job_is_closed(
    api: Api, project: str, store: Store, client: TestClient
) -> None:
    waiting = asyncio.create_task(create(api, project, {"async_flag": False}))
    await until_held(client, 1)
    job_id = await store.db.fetchval("SELECT id FROM jobs")
    began = time.monotonic()

    await jobs.cancel(store, job_id, remarks="never mind", by="ann")
    answer = await waiting

    assert time.monotonic() - began < 1.0
    assert answer.status == 200
    assert answer.body["job"] == {
        "id": job_id,
        "state": 2,
        "result_code": 301,
        "result_msg": "User( ann ) Canceled: never mind . ",
    }
    assert set(answer.body["scan"]) == {"id"}


async def test_a_synchronous_create_hears_of_the_end_though_no_notification_comes(
    api: Api, project: str, store: Store, client: TestClient
) -> None:
    waiting = asyncio.create_task(create(api, project, {"async_flag": False}))
    await until_held(client, 1)

    await store.db.execute(
        "UPDATE jobs SET phase = 'closed', result_code = 0, result_msg = 'success', ended_at = now()"
    )

    assert (await waiting).body["job"]["result_msg"] == "success"


async def test_many_synchronous_creates_are_answered_each_with_its_own(
    api: Api, project: str, store: Store, client: TestClient
) -> None:
    waiting = [
        asyncio.create_task(create(api, project, {"async_flag": False, "force_create": True}))
        for _ in range(20)
    ]
    await until_held(client, 20)
    ids = [row["id"] for row in await store.db.fetch("SELECT id FROM jobs")]

    for job_id in ids:
        await jobs.cancel(store, JobId(job_id), remarks=f"n{job_id}", by="ann")

    answers = [(await one).body["job"] for one in waiting]
    assert sorted(answer["id"] for answer in answers) == sorted(ids)
    assert all(answer["result_msg"].endswith(f"n{answer['id']} . ") for answer in answers)
    assert len(client.app[HOLDING]) == 0


class Counting(Database):
    """The same database, which counts how often a connection is taken."""

    taken = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.taken += 1
        async with super().connection() as connection:
            yield connection


async def test_held_creates_look_at_the_database_together(
    settings: Settings, db: Database, signals: Signals
) -> None:
    counting = Counting(db._pool)
    store = Store(counting, signals)
    async with TestClient(TestServer(build_app(settings, store))) as client:
        api = Api(client, await a_token(store, "admin", name="root"), store)
        body = {"async_flag": False, "force_create": True}
        project = await api.a_project()
        waiting = [asyncio.create_task(create(api, project, body)) for _ in range(30)]
        await until_held(client, 30)
        counting.taken = 0

        await asyncio.wait(waiting, timeout=2.0)

        # Ten safety ticks in that time; thirty requests that asked would be three hundred.
        assert counting.taken <= 15
        assert len(client.app[HOLDING]) == 30
        await client.server.close()
        assert {(await one).status for one in waiting} == {202}


async def test_a_synchronous_create_that_waits_too_long_answers_202_with_the_ids(
    api: Api, project: str
) -> None:
    answer = await create(api, project, {"async_flag": False})

    assert answer.status == 202
    assert set(answer.body["job"]) == {"id"}


async def test_a_synchronous_create_answers_202_when_the_server_stops(
    api: Api, project: str, client: TestClient
) -> None:
    waiting = asyncio.create_task(
        api.post(f"{project.replace(ORGS, ORGS_V3)}/scans/", {"async_flag": False})
    )
    await until_held(client, 1)
    began = time.monotonic()

    client.app[STOPPING].set()
    answer = await waiting

    assert time.monotonic() - began < 1.0
    assert (answer.status, answer.body["status_code"]) == (202, 202)
    assert set(answer.data["job"]) == {"id"}


async def test_a_server_that_is_closed_answers_what_it_holds_before_it_goes(
    api: Api, project: str, client: TestClient
) -> None:
    waiting = asyncio.create_task(create(api, project, {"async_flag": False}))
    await until_held(client, 1)
    began = time.monotonic()

    await client.server.close()

    assert (await waiting).status == 202
    assert time.monotonic() - began < 2.0


async def test_a_caller_that_goes_away_costs_nothing_and_cancels_nothing(
    api: Api, project: str, store: Store, client: TestClient
) -> None:
    waiting = asyncio.create_task(create(api, project, {"async_flag": False}))
    await until_held(client, 1)

    waiting.cancel()
    await until_held(client, 0)

    assert await store.db.fetchval("SELECT phase FROM jobs") == "waiting"
