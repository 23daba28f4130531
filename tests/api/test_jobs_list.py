"""The list of jobs over HTTP: every filter, every kind of junk, pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient

from api.operations import ORGS, ORGS_V3
from core.store.store import Store
from tests.api.caller import Api, a_token
from tests.store.history import add_job, close_job

# 20:00:00.123456 in Shanghai
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


@pytest.fixture
async def project_id(project: str) -> int:
    return int(project.rpartition("/")[2])


async def ids(api: Api, project: str, query: str = "") -> list[int]:
    answer = await api.get(f"{project}/jobs/?{query}")
    assert answer.status == 200, answer.text
    return [job["id"] for job in answer.data["results"]]


async def test_the_list_has_the_documented_shape(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    job = await close_job(
        store.db,
        project_id,
        code_line_num=1000,
        comment_line_num=5,
        blank_line_num=395,
        total_line_num=1400,
    )

    answer = await api.get(f"{project}/jobs/")

    assert (answer.status, answer.body["code"], answer.body["msg"]) == (200, 0, "请求成功")
    assert answer.body["status_code"] == 200
    assert {name: answer.data[name] for name in ("count", "next", "previous")} == {
        "count": 1,
        "next": None,
        "previous": None,
    }
    (item,) = answer.data["results"]
    documented = {
        "id": job,
        "state": 2,
        "result_code": 0,
        "result_msg": "success",
        "code_line_num": 1000,
        "comment_line_num": 5,
        "blank_line_num": 395,
        "total_line_num": 1400,
    }
    assert {name: item[name] for name in documented} == documented
    assert list(item)[: len(documented)] == list(documented)
    assert item["create_time"] == "2026-11-22T20:00:00.123456+08:00"
    assert item["start_time"] == "2026-11-22T20:00:01.373456+08:00"
    assert item["end_time"] == "2026-11-22T20:00:03.873456+08:00"
    assert (item["creator"], item["created_from"]) == ("ann", "api")


async def test_pages_lead_to_one_another_and_keep_the_filters(
    api: Api, project: str, project_id: int, store: Store, client: TestClient
) -> None:
    jobs = [await add_job(store.db, project_id, creator="50%&=汪") for _ in range(5)][::-1]
    await add_job(store.db, project_id, creator="else")
    address, seen, counts = f"{project}/jobs/?limit=2&creator={quote('%&=汪')}", [], set()

    while address:
        answer = await api.get(address)
        seen += [job["id"] for job in answer.data["results"]]
        counts.add(answer.data["count"])
        address = answer.data["next"]
        if address:
            assert address.startswith(str(client.make_url("")))
            address = address.removeprefix(str(client.make_url("")).rstrip("/"))

    assert (seen, counts) == (jobs, {5})
    last = await api.get(f"{project}/jobs/?limit=2&offset=4")
    assert last.data["next"] is None
    assert "offset=2" in last.data["previous"]


@pytest.mark.parametrize(
    ("moment", "is_inside"),
    [
        ("2026-11-22T12:00:00.123456Z", True),
        ("2026-11-22T12:00:00.123457Z", False),
        ("2026-11-22T20:00:00.123456+08:00", True),
        ("2026-11-22T20:00:00.123456 08:00", True),
        ("2026-11-22T20:00:00.123456%2B0800", True),
        ("2026-11-22 20:00:00", True),
        ("2026-11-22 20:00", True),
        ("2026-11-22T20:00:01", False),
        ("2026-11-22", True),
        ("2026-11-23", False),
        ("2026-11-22T04:00:00-08", True),
    ],
)
async def test_a_time_is_read_as_written_or_in_the_servers_zone(
    api: Api, project: str, project_id: int, store: Store, moment: str, is_inside: bool
) -> None:
    job = await add_job(store.db, project_id)

    found = await ids(api, project, f"create_time_gte={moment}")

    assert found == ([job] if is_inside else [])


async def test_both_ends_of_a_range_are_inside(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    job = await add_job(store.db, project_id)
    await add_job(store.db, project_id, created_at=NOON + timedelta(seconds=1))
    at = "2026-11-22T12:00:00.123456Z"

    assert await ids(api, project, f"create_time_gte={at}&create_time_lte={at}") == [job]


async def test_states_are_a_list_with_commas(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    waiting = await add_job(store.db, project_id)
    closed = await close_job(store.db, project_id)

    assert await ids(api, project, "state=0,2") == [closed, waiting]
    assert await ids(api, project, "state=0, 3") == [waiting]
    assert await ids(api, project, "state=%201%20,2") == [closed]
    assert await ids(api, project, "state=3") == []
    assert await ids(api, project, "state=4,5") == []


async def test_codes_and_texts_are_found(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    good = await close_job(store.db, project_id, creator="Ann", created_from="Jenkins")
    bad = await close_job(store.db, project_id, code=211, msg="pylint: 100%_\\", creator="bob")

    assert await ids(api, project, "result_code_gte=1&result_code_lte=211") == [bad]
    assert await ids(api, project, "result_code_lte=0") == [good]
    assert await ids(api, project, f"result_msg={quote('%_' + chr(92))}") == [bad]
    assert await ids(api, project, "result_msg=%25") == [bad]
    assert await ids(api, project, "creator=AN") == [good]
    assert await ids(api, project, "created_from=jenk&creator=bob") == []


async def test_an_empty_or_unknown_filter_is_none_and_of_several_the_last_counts(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    waiting = await add_job(store.db, project_id)
    closed = await close_job(store.db, project_id)
    names = ("create_time_gte", "create_time_lte", "result_code_gte", "result_code_lte")
    texts = ("result_msg", "state", "created_from", "creator", "limit", "offset")

    for query in ("&".join(f"{name}=" for name in names + texts), "ordering=id&end_time_gte=junk"):
        assert await ids(api, project, query) == [closed, waiting]
    assert await ids(api, project, "state=0&state=2") == [closed]


_JUNK = [
    ("create_time_gte", "yesterday"),
    ("create_time_gte", "1700000000"),
    ("create_time_gte", "2026-02-30"),
    ("create_time_gte", "2026-11-22T25:00"),
    ("create_time_gte", "2026-11-22T10:00+99:00"),
    ("create_time_gte", "20261122"),
    ("create_time_lte", "0001-01-01"),
    ("create_time_lte", "9999-12-31T23:59:59-12:00"),
    ("create_time_lte", "2026-W47-7"),
    ("create_time_lte", "10000-01-01"),
    ("create_time_lte", "2026-11-22T10:00:00.1234567"),
    ("create_time_lte", "２０２６-11-22"),
    ("result_code_gte", "x"),
    ("result_code_gte", "1.5"),
    ("result_code_gte", "1e3"),
    ("result_code_gte", "NaN"),
    ("result_code_gte", str(2**31)),
    ("result_code_gte", "9" * 5000),
    ("result_code_lte", str(-(2**31) - 1)),
    ("result_code_lte", "0x10"),
    ("state", "abc"),
    ("state", "1,"),
    ("state", ","),
    ("state", "1;2"),
    ("state", "-1"),
    ("state", "6"),
    ("state", "9" * 100),
    ("state", "١"),
    ("state", ",".join(["1"] * 101)),
    ("result_msg", "a\x00b"),
    ("creator", "\x00"),
    ("created_from", "x" * 1001),
    ("limit", "0"),
    ("limit", "-1"),
    ("limit", "1001"),
    ("limit", "x"),
    ("offset", "-1"),
    ("offset", "9" * 30),
]


@pytest.mark.parametrize(("name", "value"), _JUNK, ids=[f"{n}-{v[:24]!r}" for n, v in _JUNK])
async def test_junk_in_a_filter_is_refused_by_its_name(
    api: Api, project: str, name: str, value: str
) -> None:
    answer = await api.get(f"{project}/jobs/?{name}={quote(value)}")

    assert (answer.status, answer.fields) == (400, [name])


@pytest.mark.parametrize(
    "query",
    [
        "creator=%FF%FE",
        "result_msg=%ED%A0%80",
        "%ff=1",
        "&".join(f"a{n}=1" for n in range(1001)),
    ],
)
async def test_a_query_that_is_no_text_is_refused(api: Api, project: str, query: str) -> None:
    assert (await api.get(f"{project}/jobs/?{query}")).status == 400


async def test_ten_megabytes_of_filter_are_refused(
    api: Api, project: str, client: TestClient
) -> None:
    url = client.make_url(f"{project}/jobs/?creator={'%25' * 3_500_000}")
    headers = {"Authorization": f"Token {api.token}"}

    async with client.session.get(url, headers=headers) as response:
        assert response.status in (400, 414, 431)


@pytest.mark.parametrize("offset", ["5", str(2**31), str(2**53)])
async def test_a_page_past_the_end_is_empty_and_counts(
    api: Api, project: str, project_id: int, store: Store, offset: str
) -> None:
    await add_job(store.db, project_id)

    answer = await api.get(f"{project}/jobs/?offset={offset}&limit=1000")

    assert (answer.data["count"], answer.data["results"], answer.data["next"]) == (1, [], None)


async def test_every_reader_of_the_organisation_sees_the_list_and_nobody_else(
    api: Api, project: str, store: Store
) -> None:
    await api.org("other")
    viewer = api.with_token(await a_token(store, "viewer", org_sid="acme"))
    stranger = api.with_token(await a_token(store, "admin", org_sid="other"))

    assert (await viewer.get(f"{project}/jobs/")).status == 200
    assert (await viewer.get(f"{project.replace(ORGS, ORGS_V3)}/jobs")).status == 200
    assert (await stranger.get(f"{project}/jobs/")).status == 404
    assert (await api.with_token(None).get(f"{project}/jobs/")).status == 401


async def test_no_filter_reaches_the_statement_as_sql(
    api: Api, project: str, project_id: int, store: Store
) -> None:
    await add_job(store.db, project_id)
    hostile: list[Any] = ["' OR 1=1 --", "'; DROP TABLE jobs; --", "$1", "%s", "\\", "/", "*/"]

    for name in ("creator", "created_from", "result_msg"):
        for value in hostile:
            assert await ids(api, project, f"{name}={quote(value)}") == []
