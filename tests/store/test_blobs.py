"""Logs and artifacts against a real server: offsets, caps, leases, ranges."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import replace

import pytest

from core.domain.ids import AttemptId, TaskId, WorkerId
from core.store import blobs
from core.store.blobs import Appended, Artifact, Lease, Placed
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import Held, add_job, add_project, add_task, close_task, hold

CAP = 1000


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


@pytest.fixture
async def held(store: Store) -> Held:
    job = await add_job(store.db, await add_project(store.db))
    return await hold(store.db, job, await add_task(store.db, job))


def lease_of(held: Held) -> Lease:
    return Lease(AttemptId(held.attempt_id), held.token_hash, WorkerId(held.worker_id))


async def append(store: Store, lease: Lease, offset: int, content: bytes) -> Appended | None:
    return await blobs.append_log(store, lease, offset=offset, content=content, cap=CAP)


async def content_of(
    store: Store, held: Held, name: str = blobs.LOG, *, start: int = 0, end: int = 10**9
) -> bytes:
    pieces = blobs.read(
        store, TaskId(held.task_id), AttemptId(held.attempt_id), name, start=start, end=end
    )
    return b"".join([piece async for piece in pieces])


def artifact(content: bytes, name: str = "result.json") -> Artifact:
    return Artifact(name, len(content), hashlib.sha256(content).digest())


async def place(store: Store, held: Held, content: bytes, name: str = "result.json") -> Placed:
    return await blobs.place_artifact(
        store, lease_of(held), artifact(content, name), io.BytesIO(content), at_most=2
    )


async def test_a_log_grows_where_it_ends(store: Store, held: Held) -> None:
    lease = lease_of(held)

    assert await append(store, lease, 0, b"one\n") == Appended(True, 4)
    assert await append(store, lease, 4, b"two\n") == Appended(True, 8)
    assert await content_of(store, held) == b"one\ntwo\n"
    assert await blobs.size(store, TaskId(held.task_id), AttemptId(held.attempt_id), blobs.LOG) == 8


@pytest.mark.parametrize("offset", [0, 3, 5, 10**12])
async def test_a_chunk_at_a_wrong_offset_is_not_written(
    store: Store, held: Held, offset: int
) -> None:
    await append(store, lease_of(held), 0, b"one\n")

    assert await append(store, lease_of(held), offset, b"two\n") == Appended(False, 4)
    assert await content_of(store, held) == b"one\n"


async def test_a_log_is_filled_to_its_cap_and_never_beyond(store: Store, held: Held) -> None:
    lease = lease_of(held)

    assert await append(store, lease, 0, b"x" * (CAP + 1)) == Appended(False, 0)
    assert await append(store, lease, 0, b"x" * CAP) == Appended(True, CAP)
    assert await append(store, lease, CAP, b"y") == Appended(False, CAP)


async def test_of_the_same_chunk_sent_twice_at_once_one_is_kept(store: Store, held: Held) -> None:
    answers = await asyncio.gather(*(append(store, lease_of(held), 0, b"one\n") for _ in range(8)))

    assert sum(answer is not None and answer.is_written for answer in answers) == 1
    assert await content_of(store, held) == b"one\n"


async def test_nothing_is_written_without_the_lease(store: Store, held: Held) -> None:
    lease = lease_of(held)

    assert await append(store, replace(lease, token_hash=b"\0" * 32), 0, b"x") is None
    assert await append(store, replace(lease, worker_id=WorkerId(0)), 0, b"x") is None
    assert await append(store, replace(lease, attempt_id=AttemptId(0)), 0, b"x") is None
    assert await content_of(store, held) == b""


async def test_an_attempt_that_was_only_offered_writes_nothing(store: Store) -> None:
    job = await add_job(store.db, await add_project(store.db))
    offered = await hold(store.db, job, await add_task(store.db, job), is_started=False)

    assert await append(store, lease_of(offered), 0, b"x") is None
    assert await place(store, offered, b"{}") is Placed.LEASE_LOST


async def test_a_closed_attempt_writes_nothing_more(store: Store, held: Held) -> None:
    job = await store.db.fetchval("SELECT job_id FROM tasks WHERE id = $1", held.task_id)
    await append(store, lease_of(held), 0, b"kept")
    await place(store, held, b"{}")
    await close_task(store.db, job, held)

    assert await append(store, lease_of(held), 4, b"late") is None
    assert await place(store, held, b"[]") is Placed.LEASE_LOST
    assert await content_of(store, held) == b"kept"
    assert await content_of(store, held, "artifact:result.json") == b"{}"


@pytest.mark.parametrize(("start", "end"), [(0, 10), (1, 9), (3, 4), (4, 8), (9, 10), (9, 99)])
async def test_any_range_of_a_log_of_many_chunks_is_read(
    store: Store, held: Held, start: int, end: int
) -> None:
    for offset, chunk in ((0, b"012"), (3, b"3"), (4, b"4567"), (8, b"89")):
        await append(store, lease_of(held), offset, chunk)

    assert await content_of(store, held, start=start, end=end) == b"0123456789"[start:end]


async def test_reading_past_the_end_or_nothing_ends(store: Store, held: Held) -> None:
    assert await content_of(store, held) == b""
    await append(store, lease_of(held), 0, b"one\n")
    assert await content_of(store, held, start=4, end=9) == b""


async def test_an_artifact_larger_than_a_read_comes_back_whole(store: Store, held: Held) -> None:
    content = bytes(range(256)) * 12_000 + b"end"  # 3 MB, no multiple of a chunk

    assert await place(store, held, content) is Placed.PLACED

    name = blobs.artifact_blob("result.json")
    assert await content_of(store, held, name) == content
    assert (
        await content_of(store, held, name, start=300_000, end=2_000_001)
        == content[300_000:2_000_001]
    )
    ids = TaskId(held.task_id), AttemptId(held.attempt_id)
    assert await blobs.artifacts_of(store, *ids) == [artifact(content)]


async def test_an_artifact_sent_again_takes_the_place_of_the_first(
    store: Store, held: Held
) -> None:
    await place(store, held, b"first and longer" * 50_000)

    assert await place(store, held, b"second") is Placed.PLACED

    assert await content_of(store, held, "artifact:result.json") == b"second"
    ids = TaskId(held.task_id), AttemptId(held.attempt_id)
    assert await blobs.artifacts_of(store, *ids) == [artifact(b"second")]


async def test_an_attempt_has_no_more_artifacts_than_it_may(store: Store, held: Held) -> None:
    answers = await asyncio.gather(*(place(store, held, b"x", f"a{n}") for n in range(5)))

    assert sorted(answer.value for answer in answers) == ["placed"] * 2 + ["too_many"] * 3
    assert await store.db.fetchval("SELECT count(*) FROM blobs") == 2


async def test_an_empty_artifact_is_one(store: Store, held: Held) -> None:
    assert await place(store, held, b"") is Placed.PLACED

    assert await content_of(store, held, "artifact:result.json") == b""
    (found,) = await blobs.artifacts_of(store, TaskId(held.task_id), AttemptId(held.attempt_id))
    assert found.size_bytes == 0


async def test_an_artifact_waits_for_nothing_when_its_lease_ends_first(
    store: Store, held: Held
) -> None:
    async with store.db.transaction() as connection:
        await connection.execute("DELETE FROM task_leases WHERE attempt_id = $1", held.attempt_id)
        late = asyncio.create_task(place(store, held, b"late"))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(10):
            while await store.db.fetchval(waiting) == 0:
                await asyncio.wait({late}, timeout=0.01)

    assert await late is Placed.LEASE_LOST
    assert await store.db.fetchval("SELECT count(*) FROM artifacts") == 0
