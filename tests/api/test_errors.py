"""Refusals: one shape, JSON, whatever was sent and whatever is accepted; nothing is changed by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import ByteSize

from api.middlewares.errors import errors
from api.middlewares.limits import Limits, limiting
from api.operations import ORGS, ORGS_V3
from core.domain.errors import (
    ActiveJobExists,
    InvalidField,
    KennelError,
    LeaseLost,
    NotFound,
    ScmError,
    SettingError,
)
from core.runtime.settings import Settings
from core.store.pool import DatabaseUnavailable
from tests.api.caller import Answered, Api

JSON = {"Content-Type": "application/json"}


async def test_an_unknown_path_is_not_found(api: Api) -> None:
    for path in (
        "/",
        "/nowhere",
        "/server/main/api/orgs/acme/nowhere/",
        "/docs/static/../app.py",
        "/docs/static/nothing.js",
    ):
        assert (await api.get(path)).status == 404


@pytest.mark.parametrize("accept", ["text/html", "*/*", "image/png", ""])
async def test_errors_are_json_whatever_the_caller_accepts(api: Api, accept: str) -> None:
    answer = await api.get("/nowhere", headers={"Accept": accept})

    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_wrong_method_names_the_right_ones(api: Api) -> None:
    answer = await api.request("DELETE", f"{ORGS}/")

    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) >= {"GET", "POST"}


async def test_paths_answer_without_their_slash_and_never_redirect(api: Api) -> None:
    await api.org("acme")

    for path in (f"{ORGS}/acme", f"{ORGS}/acme/", f"{ORGS_V3}/acme", f"{ORGS_V3}/acme/"):
        answer = await api.get(path)
        assert (answer.status, answer.data["org_sid"]) == (200, "acme"), path
    made = await api.post(f"{ORGS}/acme/teams", {"name": "core"})
    assert made.status == 201
    assert (await api.get("/healthz/")).status == 200


async def test_head_answers_as_get_without_a_body(api: Api) -> None:
    await api.org("acme")

    for path, status in ((f"{ORGS}/acme/", 200), ("/healthz", 200), (f"{ORGS}/nowhere/", 404)):
        answer = await api.request("HEAD", path)
        assert (answer.status, answer.text) == (status, "")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"org_sid": NaN}',
        b'{"org_sid": Infinity}',
        b'{"org_sid": "a", "org_sid": "b"}',
        b'{"org_sid": "acme", "x": {"y": 1, "y": 2}}',
        b'{"org_sid": "\xff"}',
        b'{"org_sid": "\\ud800"}',
        b'{"org_sid": "\\u0000"}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"org_sid": ' + b"9" * 5000 + b"}",
        b'{"org_sid": 1e999}',
        b"[]",
        b"[1]",
        b"null",
        b'"text"',
        b"7",
        b"true",
        b'{"org_sid": null}',
        b'{"org_sid": ["a"]}',
        b'{"org_sid": {"a": "b"}}',
        b'{"org_sid": "' + b"x" * 1_000_000 + b'"}',
        b'{"org_sid": ""}',
        b'{"org_sid": "UPPER"}',
        b'{"org_sid": "a b"}',
        b'{"org_sid": "acme\\n"}',
        b"{}",
        b"",
        b"\xef\xbb\xbf{}",
        b'{"org_sid": "acme", "name": "a\\u202eb"}',
        json.dumps({"org_sid": "acme", "name": "\n"}).encode(),
    ],
)
async def test_a_body_of_junk_is_refused_and_creates_nothing(api: Api, body: bytes) -> None:
    answer = await api.post(f"{ORGS}/", data=body, headers=JSON)

    assert answer.status == 400
    assert answer.fields
    assert answer.body["msg"].startswith(answer.fields[0])
    assert (await api.get(f"{ORGS}/")).data["count"] == 0


@pytest.mark.parametrize(
    "form",
    [
        "org_sid=a&org_sid=b",
        "org_sid=%00",
        "org_sid=%ff",
        "org_sid=%ED%A0%80",
        "org_sid",
        "=x",
        "org_sid[]=a",
        "&".join(f"f{n}=1" for n in range(2000)),
        "org_sid=acme&name=%0a",
    ],
)
async def test_a_form_of_junk_is_refused_and_creates_nothing(api: Api, form: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = await api.post(f"{ORGS}/", data=form.encode(), headers=headers)

    assert (answer.status, bool(answer.fields)) == (400, True)
    assert (await api.get(f"{ORGS}/")).data["count"] == 0


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="org_sid"; filename="f"\r\n\r\nx\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="org_sid"\r\nContent-Type: text/plain; charset=klingon\r\n\r\nx\r\n--b--\r\n',
        ),
    ],
)
async def test_a_multipart_form_of_junk_is_refused(
    api: Api, content_type: str, body: bytes
) -> None:
    answer = await api.post(f"{ORGS}/", data=body, headers={"Content-Type": content_type})

    assert answer.status == 400


async def test_a_multipart_form_is_taken(api: Api) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="org_sid"\r\n\r\nacme\r\n--b--\r\n'

    answer = await api.post(
        f"{ORGS}/", data=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )

    assert (answer.status, answer.data["org_sid"]) == (201, "acme")


async def test_json_without_a_content_type_is_taken(api: Api) -> None:
    answer = await api.client.request(
        "POST",
        f"{ORGS}/",
        data=b'{"org_sid": "acme"}',
        headers={"Authorization": f"Token {api.token}"},
        skip_auto_headers=["Content-Type"],
    )

    assert answer.status == 201


async def test_other_types_and_encodings_of_a_body_are_refused(api: Api) -> None:
    plain = await api.post(
        f"{ORGS}/", data=b'{"org_sid": "a"}', headers={"Content-Type": "text/plain"}
    )
    packed = await api.post(f"{ORGS}/", data=b"x", headers={**JSON, "Content-Encoding": "gzip"})

    assert (plain.status, packed.status) == (415, 415)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=abc",
        "limit=1001",
        "limit=1.5",
        "limit=" + "9" * 500,
        "offset=-1",
        "offset=x",
        "offset=" + "9" * 30,
        "limit=%00",
        "limit=%ff",
        "limit=٣",
        "limit=1e2",
    ],
)
async def test_a_page_that_makes_no_sense_is_refused_by_its_name(api: Api, query: str) -> None:
    answer = await api.get(f"{ORGS}/?{query}")

    assert answer.status == 400
    assert answer.fields[0] in ("limit", "offset", "query")


async def test_an_empty_filter_is_none_and_the_last_of_several_counts(api: Api) -> None:
    await api.org("acme")

    assert (await api.get(f"{ORGS}/?limit=&offset=&unknown=1")).data["count"] == 1
    assert (await api.get(f"{ORGS}/?limit=junk&limit=5")).status == 200


class TestASmallLimit:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings.model_validate(
            {"data_dir": tmp_path, "api": {"max_body_bytes": ByteSize(1024)}}
        )

    async def test_a_larger_body_is_refused_in_our_shape(self, api: Api) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 100

        whole = await api.post(f"{ORGS}/", data=b"x" * 2000, headers=JSON)
        chunked = await api.post(f"{ORGS}/", data=chunks(), headers=JSON)
        form = await api.post(f"{ORGS}/", data={"org_sid": "x" * 2000})

        assert [answer.status for answer in (whole, chunked, form)] == [413, 413, 413]
        assert (await api.post(f"{ORGS}/", {"org_sid": "a" * 64})).status == 201


async def test_a_request_id_is_taken_over_or_made(api: Api) -> None:
    given = await api.get("/healthz", headers={"X-Request-Id": "ci-4711.a"})
    insane = await api.get("/healthz", headers={"X-Request-Id": "x" * 500})
    missing = await api.get("/nowhere")

    assert given.headers["X-Request-Id"] == "ci-4711.a"
    assert len(insane.headers["X-Request-Id"]) == 32
    assert len(missing.headers["X-Request-Id"]) == 32


async def test_answers_carry_the_headers_that_keep_browsers_in_check(api: Api) -> None:
    for path in ("/healthz", "/nowhere", f"{ORGS}/", "/docs/static/docs.js"):
        headers = (await api.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (NotFound("job 7"), 404, 1000),
        (InvalidField("x", "is wrong"), 400, 1000),
        (ActiveJobExists(1, "master", [5001]), 400, 300),
        (LeaseLost(3), 409, "lease_lost"),
        (ScmError("scm_refused", "no"), 400, 1000),
        (DatabaseUnavailable("gone"), 503, 1000),
        (ConnectionResetError("gone"), 503, 1000),
        (TimeoutError(), 503, 1000),
        (SettingError("KENNEL_SECRET_KEY: …"), 500, 1000),
        (KennelError("?"), 500, 1000),
        (RuntimeError("a bug with a secret"), 500, 1000),
        (RecursionError(), 500, 1000),
    ],
)
async def test_every_exception_has_its_answer(raised: Exception, status: int, code: object) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise raised

    async with serving(handler, errors) as client, client.get("/") as response:
        body = await response.json()

    assert (response.status, body["status_code"], body["code"]) == (status, status, code)
    assert ("Retry-After" in response.headers) == (status == 503)
    assert "secret" not in body["msg"]


def test_an_active_job_is_named_as_the_reference_server_does() -> None:
    assert (
        str(ActiveJobExists(1, "master", [5001]))
        == "当前项目分支[1]master还有未完成任务，编号为: [5001]"
    )


async def test_a_full_server_says_so_at_once_and_health_still_answers() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/held":
            entered.set()
            await asyncio.wait_for(leave.wait(), 10)
        return web.json_response({})

    async with serving(handler, errors, limiting(Limits(requests=2, requests_a_token=1))) as client:
        held = asyncio.create_task(client.get("/held", headers={"Authorization": "Token a"}))
        await asyncio.wait_for(entered.wait(), 10)
        same = await client.get("/", headers={"Authorization": "Token a"})
        other = await client.get("/", headers={"Authorization": "Token b"})
        entered.clear()
        second = asyncio.create_task(client.get("/held", headers={"Authorization": "Token c"}))
        await asyncio.wait_for(entered.wait(), 10)
        full = await client.get("/", headers={"Authorization": "Token b"})
        health = await client.get("/healthz")
        leave.set()
        await asyncio.gather(held, second)
        again = await client.get("/", headers={"Authorization": "Token a"})

    assert [r.status for r in (same, other, full, health, again)] == [429, 200, 503, 200, 200]
    assert same.headers["Retry-After"] == full.headers["Retry-After"] == "1"


def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], *middlewares: object
) -> TestClient:
    """A server with these middlewares around one handler."""
    app = web.Application(middlewares=middlewares)  # type: ignore[arg-type]  # aiohttp's own union
    app.router.add_route("*", "/{path:.*}", handler)
    return TestClient(TestServer(app))


def test_an_answer_without_an_envelope_is_noticed_by_the_tests() -> None:
    with pytest.raises(AssertionError):
        _ = Answered(200, {}, "{}", {}).data
