"""Logs and artifacts over HTTP: offsets, digests, bounds, leases."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from pydantic import ByteSize

from api.routes.worker_uploads import whole
from core.runtime.settings import LeaseSettings, LimitSettings, Settings
from core.store import jobs
from core.store.store import Store
from tests.api.caller import Api
from tests.api.work import Hand, create_job, digest, queue_preparation

LOG_CAP = 2_000_000
ARTIFACT_CAP = 3_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    limits = LimitSettings(
        log_bytes=ByteSize(LOG_CAP), artifact_bytes=ByteSize(ARTIFACT_CAP), artifacts=2
    )
    return Settings(data_dir=tmp_path / "data", limits=limits, lease=LeaseSettings(claim_s=1))


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


@pytest.fixture
async def task(hand: Hand, api: Api, store: Store) -> dict[str, Any]:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    return await hand.claim_and_start()


async def test_a_log_grows_by_offset_and_says_what_is_there(
    hand: Hand, task: dict[str, Any]
) -> None:
    first = await hand.log(task, 0, b"one\n")
    wrong = await hand.log(task, 2, b"two\n")
    again = await hand.log(task, 0, b"one\n")
    next_one = await hand.log(task, 4, b"two\n")

    assert (first.status, first.headers["Range"]) == (202, "bytes=0-3")
    assert (wrong.status, wrong.headers["Range"]) == (416, "bytes=0-3")
    assert (again.status, again.headers["Range"]) == (416, "bytes=0-3")
    assert (next_one.status, next_one.headers["Range"]) == (202, "bytes=0-7")


async def test_a_log_that_has_nothing_yet_has_no_range(hand: Hand, task: dict[str, Any]) -> None:
    answer = await hand.log(task, 5, b"x")

    assert answer.status == 416
    assert "Range" not in answer.headers


async def test_a_log_has_a_cap_and_so_has_a_call(hand: Hand, task: dict[str, Any]) -> None:
    million = b"x" * 1_000_000
    assert [(await hand.log(task, at, million)).status for at in (0, 1_000_000)] == [202, 202]

    assert (await hand.log(task, LOG_CAP, b"y")).status == 413
    assert (await hand.log(task, LOG_CAP, b"y" * 1_100_000)).status == 413


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-0/*", "bytes 0-9/*", "bytes 3-1/*", "bytes=0-3", "bytes 0-3/4", "bytes a-b/*"],
)
async def test_a_range_that_does_not_describe_the_body_is_refused(
    hand: Hand, task: dict[str, Any], store: Store, content_range: str
) -> None:
    answer = await hand.log(task, 0, b"four", **{"Content-Range": content_range})

    assert answer.status == 400
    assert await store.db.fetchval("SELECT count(*) FROM blobs") == 0


async def test_an_artifact_is_stored_when_it_is_what_it_says(
    hand: Hand, task: dict[str, Any], store: Store
) -> None:
    content = bytes(range(256)) * 10_000

    assert (await hand.upload(task, content, "report.bin")).status == 204

    stored = await store.db.fetchval("SELECT string_agg(content, '' ORDER BY position) FROM blobs")
    assert stored == content


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Digest": digest(b"other")}, 400),
        ({"Content-Digest": "sha-256=:AAAA:"}, 400),
        ({"Content-Digest": "md5=:AAAA:"}, 400),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Kennel-Lease": "x" * 43}, 409),
        ({"Kennel-Lease": ""}, 400),
    ],
)
async def test_an_artifact_that_is_not_what_it_says_is_refused(
    hand: Hand, task: dict[str, Any], store: Store, headers: dict[str, str], status: int
) -> None:
    assert (await hand.upload(task, b"content", **headers)).status == status

    assert await store.db.fetchval("SELECT count(*) FROM artifacts") == 0


@pytest.mark.parametrize("name", [".hidden", "..", "a%2Fb", "a b", "x" * 129, "%00", "%ff"])
async def test_an_artifact_needs_a_plain_name(hand: Hand, task: dict[str, Any], name: str) -> None:
    assert (await hand.upload(task, b"x", name)).status in (400, 404)


async def test_an_artifact_without_a_length_is_refused(hand: Hand, task: dict[str, Any]) -> None:
    async def stream() -> Any:
        yield b"x"

    answer = await hand.request(
        "PUT",
        f"/worker/v1/attempts/{task['attempt_id']}/artifacts/a",
        data=stream(),
        headers={"Kennel-Lease": task["lease_token"], "Content-Digest": digest(b"x")},
    )

    assert (answer.status, answer.fields) == (400, ["Content-Length"])


async def test_an_artifact_has_a_largest_size_and_an_attempt_a_largest_number(
    hand: Hand, task: dict[str, Any]
) -> None:
    assert (await hand.upload(task, b"x" * (ARTIFACT_CAP + 1))).status == 413
    names = ("a", "b", "c", "a")
    assert [(await hand.upload(task, b"x", name)).status for name in names] == [204, 204, 413, 204]


async def test_a_large_artifact_may_be_announced_first(hand: Hand, task: dict[str, Any]) -> None:
    answer = await hand.upload(task, b"x" * ARTIFACT_CAP, Expect="100-continue")

    assert answer.status == 204


async def test_an_upload_that_breaks_off_leaves_nothing(
    hand: Hand, task: dict[str, Any], store: Store, client: TestClient
) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    request = (
        f"PUT /worker/v1/attempts/{task['attempt_id']}/artifacts/a HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {hand.token}\r\nKennel-Lease: {task['lease_token']}\r\n"
        f"Content-Digest: {digest(b'xx')}\r\nContent-Length: 2000000\r\n\r\n"
    )
    writer.write(request.encode() + b"x" * 1_500_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""

    assert (await hand.upload(task, b"x", "a")).status == 204
    assert await store.db.fetchval("SELECT count(*) FROM blobs") == 1
    assert not list(Path(tempfile.gettempdir()).glob("SpooledTemporary*"))


async def test_a_cancelled_write_is_seen_to_its_end_before_its_file_is_closed() -> None:
    begun, released = threading.Event(), threading.Event()
    ended: list[bool] = []

    def write() -> None:
        begun.set()
        ended.append(released.wait(10))

    writing = asyncio.create_task(whole(write))
    await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    await asyncio.wait({writing}, timeout=0.05)
    assert not writing.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert ended == [True]


async def test_the_uploads_of_a_cancelled_job_are_refused(
    hand: Hand, task: dict[str, Any], store: Store
) -> None:
    await jobs.cancel(store, task["job_id"], remarks="x", by="ann")

    for answer in (await hand.log(task, 0, b"late"), await hand.upload(task, b"late")):
        assert (answer.status, answer.body["code"]) == (409, "lease_lost")


async def test_another_worker_writes_nothing_with_a_lease_it_saw(
    hand: Hand, task: dict[str, Any], client: TestClient, store: Store
) -> None:
    thief = await Hand.register(client, store)

    assert (await thief.log(task, 0, b"x")).status == 409
    assert (await thief.upload(task, b"x")).status == 409
    assert await store.db.fetchval("SELECT count(*) FROM blobs") == 0


@pytest.mark.parametrize("attempt_id", ["0", "-1", "x", "9" * 30, "9" * 18])
async def test_an_attempt_that_is_none_is_not_found_or_lost(
    hand: Hand, task: dict[str, Any], attempt_id: str
) -> None:
    answer = await hand.log(task | {"attempt_id": attempt_id}, 0, b"x")

    assert answer.status in (404, 409)
