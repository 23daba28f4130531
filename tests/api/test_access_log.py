"""What a request leaves in the log: one event, without anything a caller would not want there."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from api.middlewares.access_log import access_log
from api.middlewares.errors import errors
from api.middlewares.request_id import request_id
from api.operations import ORGS
from tests.api.caller import Api


def answered(logs: list[Any]) -> list[Any]:
    return [event for event in logs if event["event"] == "request.answered"]


async def test_a_request_is_one_event_with_the_route_and_not_the_query(api: Api) -> None:
    await api.org("acme")

    with capture_logs() as logs:
        await api.get(f"{ORGS}/acme/teams/?limit=5&password=hunter2")

    (event,) = answered(logs)
    assert event["route"] == f"{ORGS}/{{org_sid}}/teams/"
    assert (event["method"], event["status"]) == ("GET", 200)
    assert event["duration_ms"] > 0
    assert "hunter2" not in str(logs)


async def test_an_unknown_path_is_not_written_to_the_log(api: Api) -> None:
    with capture_logs() as logs:
        await api.get("/%0d%0aforged-line?x=1")

    (event,) = answered(logs)
    assert (event["route"], event["status"]) == (None, 404)
    assert "forged" not in str(logs)


async def test_what_every_worker_asks_every_few_seconds_is_told_only_when_it_fails() -> None:
    async def heartbeat(request: web.Request) -> web.Response:
        return web.Response(status=int(request.query["status"]))

    app = web.Application(middlewares=[access_log])
    for path in ("/healthz", "/worker/v1/claim", "/worker/v1/heartbeat"):
        app.router.add_post(path, heartbeat)
    with capture_logs() as logs:
        async with TestClient(TestServer(app)) as client:
            for path in ("/healthz", "/worker/v1/claim", "/worker/v1/heartbeat"):
                for status in (200, 204, 401, 503):
                    await client.post(f"{path}?status={status}")

    told = [(event["status"], event["log_level"]) for event in answered(logs)]
    assert told == [(200, "debug"), (204, "debug"), (401, "info"), (503, "info")] * 3


async def test_neither_tokens_nor_credentials_are_logged(api: Api) -> None:
    team = await api.team(await api.org())

    with capture_logs() as logs:
        made = await api.made("/api/v1/tokens/", {"name": "ci", "role": "viewer"})
        await api.repo(team, scm_auth={"scm_password": "hunter2-hunter2"})
        await api.post(
            f"{team}/repos/", {"scm_url": 7, "scm_auth": {"scm_password": ["hunter2-hunter2"]}}
        )

    assert api.token is not None
    for secret in (api.token, made["token"], "hunter2"):
        assert secret not in str(logs)


async def test_a_defect_is_logged_once_with_its_trace_and_the_id_the_caller_got() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise ZeroDivisionError

    app = web.Application(middlewares=[request_id, access_log, errors])
    app.router.add_get("/", handler)
    with capture_logs() as logs:
        async with (
            TestClient(TestServer(app)) as client,
            client.get("/", headers={"X-Request-Id": "r-1"}) as response,
        ):
            assert response.status == 500

    failed = [event for event in logs if event["event"] == "request.failed"]
    assert len(failed) == 1
    assert failed[0]["exc_info"]
    assert answered(logs)[0]["status"] == 500
