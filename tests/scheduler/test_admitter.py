"""Admitting and resolving: against real repositories, without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.domain.ids import JobId
from core.domain.states import FullReason
from core.runtime.git import Git
from core.runtime.sealing import Sealer, make_key
from core.runtime.settings import SchedulerSettings
from core.store import jobs
from core.store.pool import create_pool
from core.store.store import Store
from scheduler.admitter import NOTHING_CHANGED, Admitter, choose_base
from scheduler.specs import config_hash
from tests.scheduler.conftest import Repository
from tests.scheduler.plans import BASE, job_plan
from tests.store import lifecycle as life

SETTINGS = SchedulerSettings(scm_timeout_s=5, scm_total_s=5, resolvers=4)


@pytest.fixture
async def admitter(store: Store) -> AsyncIterator[Admitter]:
    with store.signals.subscribe("jobs") as waker:
        async with Admitter(
            store,
            SETTINGS,
            git=Git(allow_local=True),
            sealer=Sealer([make_key()]),
            waker=waker,
        ) as running:
            yield running


async def admit_all(admitter: Admitter) -> int:
    admitted = await admitter.tick()
    async with asyncio.timeout(30):
        await admitter.idle()
    return admitted


async def ended(store: Store, job_id: JobId) -> tuple[int, str]:
    job = (await jobs.closed(store, [job_id]))[job_id]
    return job.result_code, job.result_msg


async def scan_of(store: Store, job_id: JobId) -> Any:
    row = await store.db.fetchrow("SELECT * FROM scans WHERE job_id = $1", job_id)
    assert row is not None
    return row


async def test_a_job_is_resolved_to_the_branchs_head_and_prepared(
    store: Store, admitter: Admitter, project_id: int, repository: Repository
) -> None:
    created = await jobs.create(store, life.new_job(project_id))

    assert await admit_all(admitter) == 1

    scan = await scan_of(store, created.job_id)
    assert scan["revision"] == repository.git("rev-parse", "HEAD")
    assert scan["full_reason"] == FullReason.NO_BASE
    worker = await life.add_worker(store)
    (claimed,) = await life.claim(store, worker)
    assert claimed.offer.kind == "prepare"
    source = claimed.offer.spec["source"]
    assert (source["branch"], source["is_local"]) == ("main", True)


async def test_a_job_that_met_the_databases_trouble_is_taken_up_again_soon(
    store: Store, database_url: str, project_id: int
) -> None:
    created = await jobs.create(store, life.new_job(project_id))
    async with await create_pool(
        database_url, size=4, application_name="kennel-test", lock_timeout_s=0.1
    ) as impatient:
        hasty = Store(impatient, store.signals)
        with store.signals.subscribe("jobs") as waker:
            async with Admitter(
                hasty, SETTINGS, git=Git(allow_local=True), sealer=Sealer([make_key()]), waker=waker
            ) as admitter:
                async with store.db.transaction() as connection:
                    await connection.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
                    assert await admit_all(admitter) == 1

                # Not only when the admission's own lease has ended.
                assert await admit_all(admitter) == 1

    phase = await store.db.fetchval("SELECT phase FROM jobs WHERE id = $1", created.job_id)
    assert phase == "preparing"


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("branch", "no-such-branch", 112),
        ("branch", "--upload-pack=touch pwned", 115),
        ("scm_url", "/nonexistent/repository", 112),
        ("scm_url", "--upload-pack=touch pwned", 115),
        ("scm_url", "ext::sh -c 'touch pwned'", 115),
        ("scm_url", "http://127.0.0.1:1/x.git", 110),
    ],
)
async def test_a_repository_that_cannot_be_used_closes_the_job_with_its_code(
    store: Store, admitter: Admitter, project_id: int, column: str, value: str, code: int
) -> None:
    table = "projects" if column == "branch" else "repos"
    await store.db.execute(f"UPDATE {table} SET {column} = $1", value)
    created = await jobs.create(store, life.new_job(project_id))

    await admit_all(admitter)

    result_code, message = await ended(store, created.job_id)
    assert result_code == code
    assert len(message) > 10


async def test_an_empty_repository_closes_the_job_with_112(
    store: Store, admitter: Admitter, project_id: int, repository: Repository
) -> None:
    repository.git("update-ref", "-d", "HEAD")
    created = await jobs.create(store, life.new_job(project_id))

    await admit_all(admitter)

    assert (await ended(store, created.job_id))[0] == 112


async def test_a_head_that_is_the_base_closes_the_job_with_its_line_counts(
    store: Store, admitter: Admitter, project_id: int, repository: Repository
) -> None:
    first = await jobs.create(store, life.new_job(project_id))
    await admit_all(admitter)
    scan = await scan_of(store, first.job_id)
    await store.db.execute(
        "UPDATE scans SET code_line_num = 5, comment_line_num = 1, blank_line_num = 2,"
        " total_line_num = 8"
    )
    await store.db.execute(
        "UPDATE projects SET base_job_id = $1, base_scan_id = $2, base_revision = $3,"
        " base_config_hash = $4, base_engines = $5",
        first.job_id,
        scan["id"],
        scan["revision"],
        scan["config_hash"],
        {"lines": "1"},
    )
    await jobs.cancel(store, first.job_id, remarks="", by="ann")
    second = await jobs.create(store, life.new_job(project_id))
    full = await jobs.create(store, life.new_job(project_id, is_incremental=False))

    await admit_all(admitter)
    assert await ended(store, second.job_id) == (1, NOTHING_CHANGED)
    copied = await scan_of(store, second.job_id)
    assert (copied["total_line_num"], copied["revision"]) == (8, scan["revision"])
    await admit_all(admitter)
    assert (await scan_of(store, full.job_id))["full_reason"] == FullReason.REQUESTED


async def test_a_scheduler_that_stops_hands_over_what_it_was_resolving(
    store: Store, project_id: int
) -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        finally:
            writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await store.db.execute("UPDATE repos SET scm_url = $1", f"http://127.0.0.1:{port}/x.git")
    created = await jobs.create(store, life.new_job(project_id))

    async def run() -> None:
        with store.signals.subscribe("jobs") as waker:
            async with Admitter(
                store, SETTINGS, git=Git(), sealer=Sealer([make_key()]), waker=waker
            ) as admitter:
                await admitter.tick()
                admitted.set()
                await asyncio.wait_for(asyncio.Event().wait(), 60)

    admitted = asyncio.Event()
    scheduler = asyncio.create_task(run())
    await asyncio.wait_for(admitted.wait(), 10)
    scheduler.cancel()
    await asyncio.gather(scheduler, return_exceptions=True)
    server.close()

    _, taken_over = await life.admit(store)
    assert taken_over == [created.job_id]


async def test_an_admission_is_kept_while_the_repository_takes_its_time(
    store: Store, project_id: int
) -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        finally:
            writer.close()

    async def expires_at() -> datetime:
        found: datetime = await store.db.fetchval("SELECT admission_expires_at FROM jobs")
        return found

    async def resolve() -> None:
        with store.signals.subscribe("jobs") as waker:
            async with Admitter(
                store, SETTINGS, git=Git(), sealer=Sealer([make_key()]), waker=waker, lease_s=0.6
            ) as admitter:
                assert await admitter.tick() == 1
                admitted.set()
                await asyncio.wait_for(asyncio.Event().wait(), 60)

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await store.db.execute("UPDATE repos SET scm_url = $1", f"http://127.0.0.1:{port}/x.git")
    await jobs.create(store, life.new_job(project_id))
    admitted = asyncio.Event()
    scheduler = asyncio.create_task(resolve())
    try:
        await asyncio.wait_for(admitted.wait(), 10)
        first = await expires_at()
        async with asyncio.timeout(4):
            # Well beyond the end of the lease it began with.
            while await expires_at() < first + timedelta(seconds=1):
                assert (await life.admit(store))[1] == []
    finally:
        scheduler.cancel()
        await asyncio.gather(scheduler, return_exceptions=True)
        server.close()


def test_the_base_is_used_only_while_scheme_and_engines_are_the_same() -> None:
    job = job_plan(base=BASE)
    same = config_hash(job)
    good = {"lines": [{"version": "1"}]}
    base = job_plan(base=BASE, config_hash=same).base

    def choose(**changes: Any) -> Any:
        plan = job_plan(config_hash=same, **({"base": BASE} | changes.pop("job", {})))
        arguments = {"config_hash": same, "offers": good} | changes
        return choose_base(plan, **arguments)

    assert choose() == (base, None)
    assert choose(offers={}) == (base, None)
    assert choose(job={"is_incremental": False}) == (None, FullReason.REQUESTED)
    assert choose(job={"base": None}) == (None, FullReason.NO_BASE)
    assert choose(config_hash="other") == (None, FullReason.CONFIG_CHANGED)
    changed = {"lines": [{"version": "2"}]}
    assert choose(offers=changed) == (None, FullReason.ENGINE_CHANGED)


def test_the_config_hash_sees_all_that_changes_results_and_nothing_else() -> None:
    plain = config_hash(job_plan())
    assert config_hash(job_plan(priority=5, branch="other")) == plain
    hashes = {
        config_hash(job_plan(**change))
        for change in (
            {"engines": [{"name": "lines"}]},
            {"languages": ["python"]},
            {"inclusion": ["src/**"]},
            {"exclusion": ["src/**"]},
            {"scan_path": "src"},
            {"allow_repo_config": True},
        )
    }
    assert len(hashes | {plain}) == 7
