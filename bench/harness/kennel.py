"""Kennel's own store, driven as the api drives it: for figures below HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench.harness.seed import World, add_ready, add_world
from bench.harness.server import Server
from bench.harness.simulated import ENGINE
from core.domain.ids import WorkerId
from core.domain.outcomes import Outcome, Reason
from core.runtime.settings import SchedulerSettings
from core.store import attempts, classes, workers
from core.store.attempts import AttemptProof, Claim, Finished, FinishVerdict
from core.store.lowwater import LowWater
from core.store.notify import Signals
from core.store.pool import create_pool
from core.store.store import Store

_RETRY = SchedulerSettings()


@asynccontextmanager
async def open_store(server: Server, database: str, *, connections: int) -> AsyncIterator[Store]:
    """Lend a store with so many connections and its listener."""
    url = server.url(database)
    db = await create_pool(
        url, size=connections, application_name="kennel-bench", statement_timeout_s=300
    )
    async with db, Signals(url) as signals:
        yield Store(db, signals)


async def add_workers(store: Store, count: int) -> list[WorkerId]:
    """Register so many workers that fit every task of the bench."""
    found = []
    for number in range(count):
        registration = workers.Registration(
            name=f"bench-{number}",
            instance_hash=secrets.token_bytes(32),
            tags=[],
            engines=[
                {"name": ENGINE, "version": "1.0", "module": "codelint", "languages": []},
            ],
            slots=100,
            isolation="bwrap",
            version="1",
        )
        found.append(await workers.register(store, registration, retry=_RETRY))
    return found


async def add_tasks(server: Server, database: str, store: Store, count: int) -> World:
    """Make a world of a hundred projects with so many ready tasks."""
    class_id = await classes.ensure_class(store, classes.Requirement(ENGINE))
    async with server.connected(database) as connection:
        world = await add_world(connection, 100)
        await add_ready(connection, world, count, class_id)
        await connection.execute("VACUUM (ANALYZE) task_ready, tasks, jobs")
    return world


async def cycle(store: Store, worker_id: WorkerId, batch: int, low_water: LowWater) -> int:
    """Claim, start and finish up to *batch* tasks as the api does; return how many finished."""
    hashes = [secrets.token_bytes(32) for _ in range(batch)]
    claim = Claim(worker_id, uuid.uuid4(), hashes)
    (offers,) = await attempts.claim_many(store, [claim], head_start_s=0, low_water=low_water)
    if not offers:
        return 0
    proofs = [AttemptProof(offer.attempt_id, offer.token_hash) for offer in offers]
    running = await attempts.start(store, worker_id, proofs)
    finished = [(worker_id, _finished(proof)) for proof in proofs if proof.attempt_id in running]
    judged = await attempts.finish_many(store, finished, retry=_RETRY)
    return sum(one.verdict is FinishVerdict.ACCEPTED for one in judged)


def _finished(proof: AttemptProof) -> Finished:
    # A failure of the engine closes a task as a success does, and needs no uploaded report.
    return Finished(
        attempt_id=proof.attempt_id,
        token_hash=proof.token_hash,
        outcome=Outcome.FAILED,
        reason=Reason.ENGINE_FAILED,
        message="bench",
        exit_code=1,
        signal=None,
        result={"outcome": "failed", "coverage": {"planned": 1}},
        body_hash=hashlib.sha256(proof.token_hash).digest(),
    )


async def work_off(
    store: Store,
    worker_ids: Sequence[WorkerId],
    *,
    batch: int,
    stop: asyncio.Event | None = None,
    count: Counter[str] | None = None,
) -> tuple[int, float]:
    """Let workers work until nothing is ready, or until *stop*; return tasks and seconds.

    They share one low-water mark, as the claims of one api process do. *count* is kept up to
    date under `tasks`, for who looks on.
    """
    begun, low_water = time.perf_counter(), LowWater()
    count = Counter() if count is None else count

    async def work(worker_id: WorkerId) -> None:
        while stop is None or not stop.is_set():
            finished = await cycle(store, worker_id, batch, low_water)
            if not finished:
                break
            count["tasks"] += finished

    await asyncio.gather(*(work(worker_id) for worker_id in worker_ids))
    return count["tasks"], time.perf_counter() - begun


async def claim_rate(server: Server, *, tasks: int, batch: int, connections: int) -> float:
    """Return the tasks a second through the store, one worker a connection, in a new database."""
    async with (
        server.database("store") as database,
        open_store(server, database, connections=connections) as store,
    ):
        await add_tasks(server, database, store, tasks)
        worker_ids = await add_workers(store, connections)
        done, seconds = await work_off(store, worker_ids, batch=batch)
        closed = await store.db.fetchval("SELECT count(*) FROM task_outcomes")
    if done != tasks or closed != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks were finished, {closed} are closed")
    return done / seconds
