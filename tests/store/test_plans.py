"""No statement of the hot path gets dearer with history, whatever the statistics say.

Beside finished rows by the hundred thousand (a million in the long form) the store's own functions
run, and every plan the server makes for them is read: which indexes it uses, and that no node
touches more rows than the batch accounts for.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from core.domain.ids import AttemptId, JobId, ProjectId, WorkerId
from core.domain.outcomes import Outcome
from core.domain.states import ActiveJobPolicy
from core.store import (
    admissions,
    attempts,
    beats,
    classes,
    deadlines,
    jobs,
    listing,
    maintenance,
    reaping,
    settling,
)
from core.store.attempts import AttemptProof, Claim, Finished
from core.store.listing import JobFilter
from core.store.pool import Database
from core.store.store import Store
from tests.store import lifecycle as life
from tests.store.history import add_project
from tests.store.plans import BACKLOG, FILL, FILLS, FLOOD, Explained, Node, Plan

#: Tasks one call of the hot path is about.
BATCH = 10
#: Projects with a job each that is under way.
OPEN = 40
#: Tasks that are ready, delayed and running beside.
BACKLOG_TASKS = 20_000
#: A node may touch this many rows: what is open, by some factor, and nothing of what is finished.
MOST_ROWS = 3_000
#: A table may be read from end to end when that is less than this: it is empty, or nearly.
SMALL_ROWS = 1_000
#: Tables whose size history or a backlog decides.
GROWING = frozenset(
    {
        "jobs", "scans", "tasks", "task_outcomes", "task_attempts", "events", "blobs", "artifacts",
        "findings", "idempotency_keys", "task_ready", "task_leases", "task_pending",
    }
)  # fmt: skip

#: What reads a table of open things from end to end, since it is about all of them.
ABOUT_ALL = frozenset({("attempts/expire_offers", "task_leases")})
#: The index by which the hot path finds its rows, whatever the statistics say.
BY_INDEX: Mapping[str, str] = {
    "attempts/claim": "task_ready_claim_idx",
    "attempts/start": "task_leases_pkey",
    "attempts/finish": "task_leases_pkey",
    "jobs/overdue": "jobs_expires_at_idx",
}
#: Not part of the hot path: one look at the leftovers a rest, which walks a window of each of the
#: queue's tables; with statistics of empty tables the planner takes the tables whole.
TOLERATED = frozenset({"tasks/leftovers"})


async def filled(
    db: Database, store: Store, finished: int, *, knows_history: bool = False
) -> tuple[int, list[int]]:
    """Fill history and queue behind the statistics' back; return the projects of both.

    With *knows_history* the statistics know what is closed, and that nothing is open.
    """
    history = await add_project(db)
    projects = [await add_project(db) for _ in range(OPEN)]
    class_id = await classes.ensure_class(store, classes.Requirement("lines"))
    await _without_autovacuum(db)
    await db.execute("ANALYZE")
    await db.execute(FILL, history, finished)
    await db.execute(
        "SELECT setval('jobs_id_seq', $1), setval('tasks_id_seq', $1), setval('attempt_ids', $1)",
        finished,
    )
    await db.execute("SELECT ensure_partitions()")
    for fill in FILLS:
        await db.execute(fill, history, finished)
    # What a scheduler would have counted long ago.
    await db.execute("DELETE FROM uncounted_jobs")
    if knows_history:
        await db.execute("ANALYZE")
    await db.execute(BACKLOG, history, BACKLOG_TASKS, class_id)
    return history, projects


async def empty_the_queue(db: Database) -> None:
    """Let the statistics tell of a long queue that is not there any more."""
    await db.execute("ANALYZE")
    await db.execute(
        "UPDATE jobs SET phase = 'closed', result_code = 301, result_msg = '', open_tasks = 0,"
        " ended_at = now() WHERE phase = 'running'"
    )
    for table in ("task_ready", "task_pending", "task_leases"):
        await db.execute(f"DELETE FROM {table}")


async def _without_autovacuum(db: Database) -> None:
    """Keep the server from learning what the tables hold."""
    for row in await db.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ):
        await db.execute(f"ALTER TABLE {row['name']} SET (autovacuum_enabled = off)")


async def hot_path(store: Store, history: int, projects: list[int]) -> None:
    """Every call that happens all the time, once, on what is open."""
    worker = await life.add_worker(store)
    for project in projects:
        await jobs.create(store, life.new_job(project))
    (first, *_) = projects
    await jobs.create(store, life.new_job(history, policy=ActiveJobPolicy.JOIN))
    await jobs.create(store, life.new_job(first, policy=ActiveJobPolicy.JOIN))
    token = uuid.uuid4()
    admitted = await admissions.admit(store, token, lease_s=60, limit=BATCH)
    await admissions.load(store, admitted)
    for job_id in admitted:
        await life.prepare(store, token, job_id)
    await _work(store, worker)
    for prepared in await admissions.prepared(store, limit=BATCH):
        await life.plan(store, prepared.job_id)
    await _work(store, worker)
    await settling.failing(store, limit=BATCH)
    for job in await settling.settleable(store, limit=BATCH):
        await settling.outcomes(store, job.job_id)
        await settling.save(store, job.job_id, superseded_msg="")
    for job_id, scan_id in await settling.saving(store, limit=BATCH):
        await settling.ingest(store, job_id, scan_id, findings=[], lines=None, engines={})
    await _decide(store)
    await jobs.closed(store, admitted)
    await listing.list_jobs(store, ProjectId(first), JobFilter(), limit=10, offset=0)


async def _work(store: Store, worker: WorkerId) -> None:
    """Claim, start, beat and finish a batch, one claim of it twice, one result twice."""
    claim = Claim(worker, uuid.uuid4(), [secrets.token_bytes(32) for _ in range(BATCH)])
    (offers,) = await attempts.claim_many(store, [claim], head_start_s=0)
    assert offers
    await attempts.claim_many(store, [claim], head_start_s=0)
    proofs = [AttemptProof(offer.attempt_id, offer.token_hash) for offer in offers]
    await attempts.start(store, worker, proofs)
    for proof in proofs:
        await attempts.held(store, worker, proof)
    progress = [beats.ProgressBeat(proof.attempt_id, "running", 1, 2) for proof in proofs]
    gone = beats.ProgressBeat(AttemptId(1), "running", 1, 2)
    await beats.beat(store, worker, [*progress, gone], is_draining=False, lease_s=30)
    results = [(worker, _result(proof)) for proof in proofs]
    await attempts.finish_many(store, results, retry=life.RETRY)
    await attempts.finish_many(store, results[:1], retry=life.RETRY)


def _result(proof: AttemptProof) -> Finished:
    return Finished(
        attempt_id=proof.attempt_id,
        token_hash=proof.token_hash,
        outcome=Outcome.SUCCEEDED,
        reason=None,
        message="",
        exit_code=0,
        signal=None,
        result={"coverage": {"planned": 1}},
        body_hash=secrets.token_bytes(32),
    )


async def _decide(store: Store) -> None:
    """What the scheduler does by itself: reap, expire, promote, sweep, cancel."""
    worker = await life.add_worker(store)
    token = uuid.uuid4()
    admitted = await admissions.admit(store, token, lease_s=60, limit=BATCH)
    for job_id in admitted:
        await life.prepare(store, token, job_id)
    running, *offered = await life.claim(store, worker, 5)
    assert await life.start(store, running)
    await store.db.execute(
        "UPDATE worker_beats SET seen_at = now() - interval '1 day' WHERE worker_id = $1", worker
    )
    await store.db.execute(
        "UPDATE task_leases SET offered_at = now() - interval '1 day' WHERE attempt_id = $1",
        offered[0].offer.attempt_id,
    )
    assert await reaping.expire_offers(store, start_s=30) == 1
    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) >= 1
    await reaping.promote(store)
    await reaping.sweep_leftovers(store)
    await deadlines.overdue(store, limit=BATCH)
    await deadlines.overdue_saving(store, limit_s=30, limit=BATCH)
    assert await jobs.cancel(store, JobId(admitted[0]), remarks="", by="ann")
    await maintenance.forget_expired(store)


def wrong(plans: list[Plan]) -> dict[str, list[str]]:
    """Return what no plan of the hot path may do, by statement."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        complaints = [
            f"{plan.mode}: {node} {what}" for node in plan.nodes for what in _wrong(plan, node)
        ]
        index = BY_INDEX.get(plan.statement)
        if index and index not in plan.indexes:
            complaints.append(f"{plan.mode}: {index} is not used, but {sorted(plan.indexes)}")
        if complaints:
            found.setdefault(plan.statement, []).extend(complaints)
    return found


def _wrong(plan: Plan, node: Node) -> Iterator[str]:
    touched = node.rows + node.removed
    if (plan.statement, node.relation) in ABOUT_ALL:
        return
    if node.kind == "Seq Scan" and node.relation in GROWING and touched > SMALL_ROWS:
        yield f"reads {touched:.0f} rows of a growing table from end to end"
    elif node.kind == "Sort" and touched > SMALL_ROWS:
        yield f"sorts {touched:.0f} rows"
    elif touched > MOST_ROWS:
        yield f"touches {touched:.0f} rows"


def unforeseen(found: Mapping[str, list[str]]) -> str:
    """Return what is wrong beyond what is known to be."""
    return "\n".join(
        f"{statement}: {complaint}"
        for statement, complaints in found.items()
        if statement not in TOLERATED
        for complaint in sorted(set(complaints))
    )


async def plans_of(store: Store, history: int, projects: list[int]) -> list[Plan]:
    explained = Explained(store.db)
    await hot_path(Store(cast("Any", explained), store.signals), history, projects)
    return explained.plans


@pytest.mark.timeout(600)
async def test_plans_hold_while_the_statistics_say_that_the_tables_are_empty(store: Store) -> None:
    found = wrong(await plans_of(store, *await filled(store.db, store, 100_000)))

    assert unforeseen(found) == ""


@pytest.mark.timeout(600)
async def test_plans_hold_when_an_idle_server_meets_a_flood(store: Store) -> None:
    projects = await filled(store.db, store, 20_000, knows_history=True)
    await store.db.execute(FLOOD, await add_project(store.db), 2 * MOST_ROWS)

    assert unforeseen(wrong(await plans_of(store, *projects))) == ""


@pytest.mark.timeout(600)
async def test_plans_hold_while_the_statistics_say_that_the_queue_is_long(store: Store) -> None:
    projects = await filled(store.db, store, 20_000)
    await empty_the_queue(store.db)

    assert unforeseen(wrong(await plans_of(store, *projects))) == ""


@pytest.mark.long
async def test_plans_hold_beside_a_million_finished_tasks(store: Store) -> None:
    history, projects = await filled(store.db, store, 1_000_000)
    plans = await plans_of(store, history, projects[: OPEN // 2])
    assert unforeseen(wrong(plans)) == ""

    await empty_the_queue(store.db)
    plans = await plans_of(store, history, projects[OPEN // 2 :])
    assert unforeseen(wrong(plans)) == ""
