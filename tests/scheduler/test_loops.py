"""The loops, one iteration at a time, and all of them together as a daemon."""

from __future__ import annotations

import asyncio
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from core.domain.ids import JobId, WorkerId
from core.domain.outcomes import Reason
from core.protocol.messages import Coverage, EngineReport, Finding, LineCount
from core.runtime.settings import LeaseSettings, SchedulerSettings, Settings
from core.store import blobs, jobs
from core.store.notify import Signals
from core.store.store import Store
from scheduler.expirer import Expirer
from scheduler.planner import Planner
from scheduler.promoter import Promoter
from scheduler.pruner import SELDOM, Pruner
from scheduler.reaper import Reaper
from scheduler.service import run_scheduler
from scheduler.settler import Settler
from tests.store import lifecycle as life

PREPARED: dict[str, Any] = {"prepare": {"files": 2, "languages": {"python": 2}}}


async def ended(store: Store, job_id: JobId) -> tuple[int, str] | None:
    job = (await jobs.closed(store, [job_id])).get(job_id)
    return None if job is None else (job.result_code, job.result_msg)


async def preparing(store: Store, project_id: int, worker: WorkerId) -> tuple[JobId, life.Claimed]:
    created = await jobs.create(store, life.new_job(project_id))
    token, _ = await life.admit(store)
    assert await life.prepare(store, token, created.job_id)
    return created.job_id, await life.claim_and_start(store, worker)


async def upload(store: Store, claimed: life.Claimed, report: EngineReport) -> None:
    content = report.model_dump_json().encode()
    artifact = blobs.Artifact("result.json", len(content), hashlib.sha256(content).digest())
    lease = blobs.Lease(
        worker_id=claimed.worker_id,
        attempt_id=claimed.offer.attempt_id,
        token_hash=claimed.offer.token_hash,
    )
    placed = await blobs.place_artifact(store, lease, artifact, io.BytesIO(content), at_most=9)
    assert placed is blobs.Placed.PLACED


def report_of(engine: str, **fields: Any) -> EngineReport:
    return EngineReport(
        engine=engine, engine_version="1.2", revision=life.REVISION, coverage=Coverage(), **fields
    )


async def test_a_finished_preparation_becomes_engine_tasks(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id, preparation = await preparing(store, project_id, worker)
    assert await Planner(store).tick() == 0
    await life.finish(store, preparation, result=PREPARED)

    done = await asyncio.gather(Planner(store).tick(), Planner(store).tick())

    assert sum(done) == 1
    engines = [claimed.offer.engine for claimed in await life.claim(store, worker, 9)]
    assert engines == ["lines", "ruff"]
    row = await store.db.fetchrow("SELECT phase, task_num FROM jobs WHERE id = $1", job_id)
    assert row is not None
    assert tuple(row) == ("queued", 2)


async def test_a_failed_preparation_closes_the_job_with_its_code(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id, preparation = await preparing(store, project_id, worker)
    await life.finish(store, preparation, reason=Reason.SCM_NOT_FOUND)

    assert await Planner(store).tick() == 1
    assert await ended(store, job_id) == (112, "it broke")


async def test_a_job_whose_tasks_succeed_is_saved_with_findings_and_lines(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "ruff"))
    reports = {
        "lines": report_of("lines", lines=[LineCount(language="c", code=3, comment=1, blank=2)]),
        "ruff": report_of(
            "ruff",
            findings=[
                Finding(path="a.py", line=n, rule="F401", severity="warning", message="unused")
                for n in range(3)
            ],
        ),
    }
    for _ in range(2):
        task = await life.claim_and_start(store, worker)
        await upload(store, task, reports[task.offer.engine])
        await life.finish(store, task)

    done = await asyncio.gather(Settler(store).tick(), Settler(store).tick())

    assert sum(done) >= 2
    assert await ended(store, job_id) == (0, "success")
    scan = await store.db.fetchrow("SELECT * FROM scans WHERE job_id = $1", job_id)
    assert scan is not None
    assert (scan["code_line_num"], scan["total_line_num"]) == (3, 6)
    assert scan["engines"] == {"lines": "1.2", "ruff": "1.2"}
    assert await store.db.fetchval("SELECT count(*) FROM findings") == 3


async def test_a_report_that_is_missing_fails_the_job_and_not_the_loop(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await life.finish(store, task)

    await Settler(store).tick()

    found = await ended(store, job_id)
    assert found is not None
    assert found[0] == 100
    assert "report" in found[1]


async def test_a_job_that_cannot_be_planned_or_saved_holds_up_no_other(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    broken, preparation = await preparing(store, project_id, worker)
    await life.finish(store, preparation, result={"prepare": {"files": "many"}})
    assert await Planner(store).tick() == 0
    job_id, preparation = await preparing(store, project_id, worker)
    await life.finish(store, preparation, result=PREPARED)
    assert await Planner(store).tick() == 1
    # More lines than a column holds: an error that no check of ours foresees.
    huge = [LineCount(language="c", code=2**53, comment=2**53, blank=0) for _ in range(1000)]
    for _ in range(2):
        task = await life.claim_and_start(store, worker)
        lines = huge if task.offer.engine == "lines" else None
        await upload(store, task, report_of(task.offer.engine, lines=lines))
        await life.finish(store, task)

    await Settler(store).tick()

    codes = [
        found and found[0] for found in [await ended(store, broken), await ended(store, job_id)]
    ]
    assert codes == [121, 100]
    assert await store.db.fetchval("SELECT count(*) FROM findings") == 0


async def test_a_failed_task_fails_the_job_once_its_siblings_are_done(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "ruff"))
    first, second = await life.claim(store, worker, 2)
    for task in (first, second):
        await life.start(store, task)
    await life.finish(store, first, reason=Reason.ENGINE_FAILED)
    assert await Settler(store).tick() == 0
    assert await ended(store, job_id) is None

    await life.finish(store, second)
    await Settler(store).tick()

    assert await ended(store, job_id) == (211, f"lines (task {first.offer.task_id}): it broke")


async def test_a_scheme_may_cancel_the_siblings_of_a_failed_task(
    store: Store, project_id: int
) -> None:
    await store.db.execute("UPDATE schemes SET cancel_siblings = true")
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "ruff"))
    first, second = await life.claim(store, worker, 2)
    for task in (first, second):
        await life.start(store, task)
    await life.finish(store, first, reason=Reason.ENGINE_FAILED)

    await Settler(store).tick()

    found = await ended(store, job_id)
    assert found is not None
    assert found[0] == 211
    code = await store.db.fetchval(
        "SELECT result_code FROM task_outcomes WHERE task_id = $1", second.offer.task_id
    )
    assert code == 299


async def test_a_delayed_task_is_promoted_when_it_is_due(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await life.finish(store, task, reason=Reason.CHECKOUT_FAILED)
    with store.signals.subscribe("delayed") as wake:
        promoter = Promoter(store, wake)
        await store.db.execute("UPDATE task_pending SET not_before = now() + interval '1 s'")
        assert await promoter.tick() == 0
        async with asyncio.timeout(10):
            # Not a wake-up: the moment the task is due.
            assert not await promoter.wait(9)
        assert await promoter.tick() == 1


async def test_the_promoter_waits_while_the_database_is_away(store: Store, project_id: int) -> None:
    with store.signals.subscribe("delayed") as wake:
        promoter = Promoter(store, wake)
        assert await promoter.tick() == 0
        await store.db.close()

        # A wait that fails would end the loop, and with it the scheduler.
        assert not await promoter.wait(0.01)


async def test_jobs_past_their_deadline_are_closed(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    expirer = Expirer(store, SchedulerSettings())
    assert await expirer.tick() == 0
    await store.db.execute("UPDATE jobs SET expires_at = now() - interval '1 second'")

    assert await expirer.tick() == 1
    assert await ended(store, job_id) == (297, "Time out while Waiting")


async def test_a_job_saved_for_too_long_is_closed(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    await store.db.execute(
        "UPDATE jobs SET phase = 'saving', open_tasks = 0, saving_at = now() - interval '2 hours'"
    )

    assert await Expirer(store, SchedulerSettings()).tick() == 1
    assert await ended(store, job_id) == (199, "Time out while closing.")


async def test_partitions_are_made_before_they_are_needed(store: Store) -> None:
    await store.db.execute("SELECT setval('tasks_id_seq', 1000001)")

    await Pruner(store, SchedulerSettings()).tick()

    assert await store.db.fetchval("SELECT to_regclass('tasks_p2') IS NOT NULL")
    assert await store.db.fetchval("SELECT to_regclass('blobs_p2') IS NOT NULL")


async def test_what_is_old_is_looked_for_every_few_times(store: Store) -> None:
    worker = await life.add_worker(store)
    pruner = Pruner(store, SchedulerSettings())
    forgot = []
    for n in range(SELDOM + 1):
        await store.db.execute(
            "INSERT INTO worker_tokens (token_hash, worker_id, expires_at)"
            " VALUES ($1, $2, now() - interval '1 day')",
            b"%d" % n,
            worker,
        )
        await pruner.tick()
        forgot.append(not await store.db.fetchval("SELECT count(*) FROM worker_tokens"))

    assert forgot == [True, *[False] * (SELDOM - 1), True]


async def test_partitions_are_made_each_time(store: Store) -> None:
    pruner = Pruner(store, SchedulerSettings())
    await pruner.tick()
    await store.db.execute("SELECT setval('tasks_id_seq', 1000001)")

    await pruner.tick()

    assert await store.db.fetchval("SELECT to_regclass('tasks_p2') IS NOT NULL")


async def test_the_reaper_takes_what_a_silent_worker_held(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    await life.claim_and_start(store, worker)
    reaper = Reaper(store, Settings(data_dir=Path("/nonexistent")))
    assert await reaper.tick() == 0
    await store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '1 hour'")

    assert await reaper.tick() == 1
    assert await store.db.fetchval("SELECT count(*) FROM task_ready WHERE resets = 1") == 1
    assert await reaper.tick() == 0


@pytest.mark.parametrize("schedulers", [1, 3])
async def test_jobs_are_served_in_order_by_any_number_of_schedulers_without_notifications(
    store: Store, project_id: int, tmp_path: Path, schedulers: int
) -> None:
    """No listener runs: every wake-up between the parties is lost."""
    settings = Settings(
        data_dir=tmp_path,
        allow_local_repos=True,
        scheduler=SchedulerSettings(tick_s=0.05),
        lease=LeaseSettings(),
    )
    stop = asyncio.Event()
    deaf = [Store(store.db, Signals("postgresql://nowhere")) for _ in range(schedulers)]
    worker = await life.add_worker(store, engines=())
    # Nobody offers `lines`: every job of this test ends when its deadline is moved.
    created = [(await jobs.create(store, life.new_job(project_id))).job_id for _ in range(5)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for one in deaf:
            group.create_task(run_scheduler(settings, one, stop=stop))
        for job_id in created:
            preparation: list[life.Claimed] = []
            while not preparation:
                preparation = await life.claim(store, worker)
            assert preparation[0].offer.job_id == job_id
            await life.start(store, preparation[0])
            await life.finish(store, preparation[0], result=PREPARED)
            await store.db.execute(
                "UPDATE jobs SET expires_at = now() - interval '1 second' WHERE id = $1", job_id
            )
            while await ended(store, job_id) is None:
                pass
        stop.set()

    codes = [await ended(store, job_id) for job_id in created]
    assert {found[0] for found in codes if found} <= {297, 313}
