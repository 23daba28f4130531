"""A job's life through the store: each step once, in order, whoever tries again or too late."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Literal

import pytest

from core.domain.codes import ResultCode
from core.domain.errors import ActiveJobExists, InvalidField, NotFound
from core.domain.ids import JobId, TokenId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import ActiveJobPolicy, JobState
from core.store import (
    admissions,
    attempts,
    beats,
    classes,
    deadlines,
    jobs,
    reaping,
    settling,
    workers,
)
from core.store.attempts import FinishVerdict
from core.store.beats import ProgressBeat
from core.store.settling import FindingRow, Lines
from core.store.store import Store
from tests.store import lifecycle as life
from tests.store.history import add_project


async def phase_of(store: Store, job_id: JobId) -> str:
    phase: str = await store.db.fetchval("SELECT phase FROM jobs WHERE id = $1", job_id)
    return phase


async def settle(store: Store, job_id: JobId) -> None:
    assert await settling.save(store, job_id, superseded_msg=json.dumps({"job_id": job_id}))
    ((_, scan_id),) = [
        found for found in await settling.saving(store, limit=9) if found[0] == job_id
    ]
    assert await settling.ingest(
        store, job_id, scan_id, findings=[], lines=Lines(3, 2, 1), engines={"lines": "1"}
    )


async def test_a_job_goes_from_create_to_success(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    assert await phase_of(store, job_id) == "queued"

    task = await life.claim_and_start(store, worker)
    assert await phase_of(store, job_id) == "running"
    assert await life.finish(store, task) is FinishVerdict.ACCEPTED
    assert [job.job_id for job in await settling.settleable(store, limit=9)] == [job_id]
    await settle(store, job_id)

    ended = await jobs.closed(store, [job_id])
    assert ended[job_id] == jobs.ClosedJob(JobState.CLOSED, 0, "success")
    (end,) = await settling.outcomes(store, job_id)
    assert (end.result_code, end.result_msg) == (0, "success")
    row = await store.db.fetchrow("SELECT * FROM projects WHERE id = $1", project_id)
    assert row is not None
    assert (row["base_job_id"], row["base_revision"]) == (job_id, life.REVISION)
    scan = await store.db.fetchrow("SELECT * FROM scans WHERE job_id = $1", job_id)
    assert scan is not None
    assert scan["total_line_num"] == 6


async def test_findings_are_kept_with_the_scan(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await life.finish(store, task)
    await settling.save(store, job_id, superseded_msg="{}")
    ((_, scan_id),) = await settling.saving(store, limit=9)

    row = FindingRow(task.offer.task_id, 0, "ruff", "F401", "warning", "a.py", 1, 2, "unused")
    assert await settling.ingest(store, job_id, scan_id, findings=[row], lines=None, engines={})

    assert await store.db.fetchval("SELECT message FROM findings") == "unused"
    assert not await settling.ingest(store, job_id, scan_id, findings=[row], lines=None, engines={})


async def test_unforced_jobs_of_a_project_start_one_after_another(
    store: Store, project_id: int
) -> None:
    created = await asyncio.gather(
        *(jobs.create(store, life.new_job(project_id)) for _ in range(20))
    )
    ids = sorted(job.job_id for job in created)
    assert len(set(ids)) == 20

    for expected in ids:
        both = await asyncio.gather(life.admit(store), life.admit(store))
        assert [job for _, admitted in both for job in admitted] == [expected]
        await jobs.close(store, [expected], code=110, message="gone", reason=Reason.JOB_CLOSED)


async def test_forced_jobs_start_beside_what_runs(store: Store, project_id: int) -> None:
    first = await jobs.create(store, life.new_job(project_id))
    forced = await jobs.create(store, life.new_job(project_id, is_forced=True))
    later = await jobs.create(store, life.new_job(project_id))

    _, admitted = await life.admit(store)

    assert admitted == [first.job_id, forced.job_id]
    assert await phase_of(store, later.job_id) == "waiting"


async def test_the_database_holds_the_rule_of_one_started_job(
    store: Store, project_id: int
) -> None:
    first = await jobs.create(store, life.new_job(project_id))
    second = await jobs.create(store, life.new_job(project_id))
    await life.admit(store)

    with pytest.raises(Exception, match="jobs_one_started_a_project_idx"):
        await store.db.execute(
            "UPDATE jobs SET phase = 'resolving', admission_token = gen_random_uuid(),"
            " admission_expires_at = now() WHERE id = $1",
            second.job_id,
        )
    assert await phase_of(store, first.job_id) == "resolving"


async def test_reject_leaves_one_open_job_of_many_concurrent_creates(
    store: Store, project_id: int
) -> None:
    new = life.new_job(project_id, policy=ActiveJobPolicy.REJECT)
    results = await asyncio.gather(
        *(jobs.create(store, new) for _ in range(20)), return_exceptions=True
    )

    created = [result for result in results if isinstance(result, jobs.Created)]
    assert len(created) == 1
    refused = [result for result in results if isinstance(result, ActiveJobExists)]
    assert len(refused) == 19
    assert refused[0].scan_ids == [created[0].scan_id]
    assert "main还有未完成任务" in str(refused[0])


async def test_join_answers_the_waiting_job_with_the_same_arguments(
    store: Store, project_id: int
) -> None:
    first = await jobs.create(store, life.new_job(project_id))
    await life.admit(store)
    join = life.new_job(project_id, policy=ActiveJobPolicy.JOIN)

    results = await asyncio.gather(*(jobs.create(store, join) for _ in range(10)))
    full = await jobs.create(
        store, life.new_job(project_id, policy=ActiveJobPolicy.JOIN, is_incremental=False)
    )

    assert len({job.job_id for job in results}) == 1
    assert sum(job.is_new for job in results) == 1
    assert results[0].job_id != first.job_id
    assert full.is_new


async def test_join_finds_the_waiting_job_behind_any_number_of_forced_ones(
    store: Store, project_id: int
) -> None:
    join = life.new_job(project_id, policy=ActiveJobPolicy.JOIN)
    waiting = await jobs.create(store, join)
    for _ in range(101):
        await jobs.create(store, life.new_job(project_id, is_forced=True))

    joined = await jobs.create(store, join)

    assert (joined.job_id, joined.is_new) == (waiting.job_id, False)


async def a_token(store: Store) -> TokenId:
    return TokenId(
        await store.db.fetchval(
            "INSERT INTO tokens (kind, name, role, token_hash) VALUES ('user', 'a', 'member', '\\x01')"
            " RETURNING id"
        )
    )


async def test_a_repeated_key_answers_the_first_ids(store: Store, project_id: int) -> None:
    token = await a_token(store)
    key = jobs.Idempotency(token, "build-17")
    results = await asyncio.gather(
        *(jobs.create(store, life.new_job(project_id, idempotency=key)) for _ in range(10))
    )

    assert len({(job.job_id, job.scan_id) for job in results}) == 1
    assert sum(job.is_new for job in results) == 1
    with pytest.raises(InvalidField, match="other arguments"):
        await jobs.create(store, life.new_job(project_id, idempotency=key, is_incremental=False))


async def test_a_key_used_for_many_projects_at_once_serves_one(store: Store) -> None:
    token = await a_token(store)
    projects = [await add_project(store.db) for _ in range(5)]
    key = jobs.Idempotency(token, "build-17")

    results = await asyncio.gather(
        *(jobs.create(store, life.new_job(project, idempotency=key)) for project in projects),
        return_exceptions=True,
    )

    assert sum(isinstance(result, jobs.Created) for result in results) == 1
    assert sum(isinstance(result, InvalidField) for result in results) == 4
    assert await store.db.fetchval("SELECT count(*) FROM jobs") == 1


async def test_closed_projects_and_disused_schemes_take_no_jobs(
    store: Store, project_id: int
) -> None:
    await store.db.execute("UPDATE projects SET status = 3 WHERE id = $1", project_id)
    with pytest.raises(InvalidField, match="not active"):
        await jobs.create(store, life.new_job(project_id))
    await store.db.execute("UPDATE projects SET status = 1 WHERE id = $1", project_id)
    await store.db.execute("UPDATE schemes SET status = 2")
    with pytest.raises(InvalidField, match="disused"):
        await jobs.create(store, life.new_job(project_id))
    with pytest.raises(NotFound):
        await jobs.create(store, life.new_job(project_id + 1))


async def test_an_abandoned_admission_is_taken_over(store: Store, project_id: int) -> None:
    created = await jobs.create(store, life.new_job(project_id))
    token, _ = await life.admit(store)
    await store.db.execute("UPDATE jobs SET admission_expires_at = now() - interval '1 second'")

    other, admitted = await life.admit(store)

    assert admitted == [created.job_id]
    assert not await life.prepare(store, token, created.job_id)
    assert await life.prepare(store, other, created.job_id)


async def test_every_ready_task_is_offered_to_one_claim(store: Store, project_id: int) -> None:
    workers = [await life.add_worker(store) for _ in range(4)]
    names = tuple(f"e{n}" for n in range(30))
    workers += [await life.add_worker(store, engines=names)]
    await life.planned_job(store, project_id, workers[0], engines=names)

    claims = await asyncio.gather(*(life.claim(store, workers[-1], 4) for _ in range(12)))

    tasks = [claimed.offer.task_id for batch in claims for claimed in batch]
    assert len(tasks) == len(set(tasks)) == 30
    assert await life.claim(store, workers[0]) == []


async def test_a_repeated_claim_gets_the_same_answer(store: Store, project_id: int) -> None:
    import uuid

    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    claim_id = uuid.uuid4()
    hashes = [b"1" * 32, b"2" * 32]

    first, second = await asyncio.gather(
        *(
            attempts.claim(store, worker, claim_id=claim_id, token_hashes=hashes, head_start_s=0)
            for _ in range(2)
        )
    )
    third = await attempts.claim(
        store, worker, claim_id=claim_id, token_hashes=hashes, head_start_s=0
    )

    answers = [answer for answer in (first, second, third) if answer]
    assert len(answers) >= 2
    assert all(answer == third for answer in answers)
    assert third[0].token_hash == hashes[0]


@pytest.mark.parametrize(("directive", "offers"), [("drain", 1), ("pause", 0)])
async def test_a_drain_ends_with_the_process_and_a_pause_does_not(
    store: Store, project_id: int, directive: Literal["drain", "pause"], offers: int
) -> None:
    worker = await life.add_worker(store, key=b"k")
    await life.planned_job(store, project_id, worker)
    assert await workers.direct(store, worker, directive, by="ann")
    assert await life.claim(store, worker) == []

    assert await life.add_worker(store, key=b"k") == worker

    assert len(await life.claim(store, worker)) == offers


async def test_an_offer_not_started_returns_uncounted(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    (late,) = await life.claim(store, worker)

    assert await reaping.expire_offers(store, start_s=-1) == 1

    assert not await life.start(store, late)
    (again,) = await life.claim(store, worker)
    assert again.offer.task_id == late.offer.task_id
    assert again.offer.number == 1
    assert again.offer.attempt_id != late.offer.attempt_id


async def test_a_lost_worker_loses_its_tasks_and_its_results(store: Store, project_id: int) -> None:
    lost, other = await life.add_worker(store), await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, lost)
    stale = await life.claim_and_start(store, lost)
    await store.db.execute(
        "UPDATE worker_beats SET seen_at = now() - interval '1 minute' WHERE worker_id = $1", lost
    )

    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) == 1

    again = await life.claim_and_start(store, other)
    assert again.offer.task_id == stale.offer.task_id
    assert again.offer.number == 2
    assert await life.finish(store, stale) is FinishVerdict.LEASE_LOST
    assert await attempts.held(store, lost, stale.proof) is None
    answer = await beats.beat(
        store,
        lost,
        [ProgressBeat(stale.offer.attempt_id, "running", 1, 2)],
        is_draining=False,
        lease_s=30,
    )
    assert answer.cancelled == {stale.offer.attempt_id: Reason.WORKER_LOST}
    assert await life.finish(store, again) is FinishVerdict.ACCEPTED
    assert await life.finish(store, again) is FinishVerdict.ACCEPTED
    assert await life.finish(store, again, result={"other": 1}) is FinishVerdict.LEASE_LOST
    assert await store.db.fetchval("SELECT open_tasks FROM jobs WHERE id = $1", job_id) == 0


async def test_the_twin_of_a_result_that_lacks_log_is_told_so_too(
    store: Store, project_id: int
) -> None:
    # A worker that did not wait for the first answer hears the second.
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    early = dataclasses.replace(life.finished(task), log_bytes=8)

    judged = await attempts.finish_many(store, [(worker, early), (worker, early)], retry=life.RETRY)

    assert [one.verdict for one in judged] == [FinishVerdict.LOG_INCOMPLETE] * 2
    assert await life.finish(store, task) is FinishVerdict.ACCEPTED


async def test_a_stranger_in_the_same_batch_keeps_no_result_out(
    store: Store, project_id: int
) -> None:
    worker, thief = await life.add_worker(store), await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    good = life.finished(task)
    forged = dataclasses.replace(good, token_hash=bytes(32))
    early = dataclasses.replace(good, log_bytes=8, body_hash=bytes(32))

    judged = await attempts.finish_many(
        store,
        [(thief, good), (worker, forged), (worker, early), (worker, good), (worker, good)],
        retry=life.RETRY,
    )

    assert [one.verdict for one in judged] == [
        FinishVerdict.LEASE_LOST,
        FinishVerdict.LEASE_LOST,
        FinishVerdict.LOG_INCOMPLETE,
        FinishVerdict.ACCEPTED,
        FinishVerdict.ACCEPTED,
    ]


async def test_a_beating_worker_keeps_its_leases(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '1 minute'")
    beat = ProgressBeat(task.offer.attempt_id, "running", 3, 9)
    answer = await beats.beat(store, worker, [beat], is_draining=False, lease_s=30)

    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) == 0

    assert answer.known == {task.offer.attempt_id}
    assert await store.db.fetchval("SELECT files_done FROM attempt_progress") == 3
    assert await life.finish(store, task) is FinishVerdict.ACCEPTED


async def test_an_attempt_named_twice_in_a_beat_counts_once(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    twice = [ProgressBeat(task.offer.attempt_id, "running", done, 9) for done in (2, 3)]

    answer = await beats.beat(store, worker, twice, is_draining=False, lease_s=30)

    assert answer.known == {task.offer.attempt_id}
    assert await store.db.fetchval("SELECT files_done FROM attempt_progress") == 3


async def test_beats_lost_in_a_crash_of_the_database_count_as_seen_at_the_first_look(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)
    await store.db.execute("TRUNCATE worker_beats")

    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) == 0
    assert await life.finish(store, task) is FinishVerdict.ACCEPTED


async def test_a_worker_thought_lost_that_took_a_task_is_watched_after_a_crash_too(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    # Back from the dead, it started a task before its first heartbeat.
    await store.db.execute("UPDATE workers SET lost_at = now() WHERE id = $1", worker)
    task = await life.claim_and_start(store, worker)
    await store.db.execute("TRUNCATE worker_beats")

    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) == 0
    await store.db.execute("UPDATE worker_beats SET seen_at = now() - interval '31 s'")
    assert await reaping.reap(store, lease_s=30, retry=life.RETRY) == 1

    assert await life.finish(store, task) is FinishVerdict.LEASE_LOST
    assert await phase_of(store, job_id) == "running"


async def test_only_live_workers_with_the_tag_offer_engines(store: Store) -> None:
    await life.add_worker(store, engines=("lines",))
    tagged = await life.add_worker(store, engines=("ruff",))
    lost = await life.add_worker(store, engines=("pylint",))
    await store.db.execute("UPDATE workers SET tags = '{big}' WHERE id = $1", tagged)
    await store.db.execute("UPDATE workers SET lost_at = now() WHERE id = $1", lost)

    assert set(await classes.live_engines(store, None)) == {"lines", "ruff"}
    assert set(await classes.live_engines(store, "big")) == {"ruff"}
    assert await classes.live_engines(store, "small") == {}


async def test_a_task_that_loses_three_workers_closes(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)

    for _ in range(3):
        await life.claim_and_start(store, worker)
        await reaping.lose_attempts(store, [worker], retry=life.RETRY)
        await store.db.execute("UPDATE task_pending SET not_before = now()")
        await reaping.promote(store)

    assert await life.claim(store, worker) == []
    (end,) = await settling.outcomes(store, job_id)
    assert (end.outcome, end.reason, end.result_code) == (Outcome.LOST, Reason.WORKER_LOST, 200)
    assert len(await settling.settleable(store, limit=9)) == 1


async def test_a_workers_fault_is_retried_a_bounded_number_of_times(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)

    numbers = []
    for _ in range(life.RETRY.max_attempts):
        task = await life.claim_and_start(store, worker)
        numbers.append(task.offer.number)
        await life.finish(store, task, reason=Reason.CHECKOUT_FAILED)
        await store.db.execute("UPDATE task_pending SET not_before = now()")
        await reaping.promote(store)

    assert numbers == [1, 2, 3]
    (end,) = await settling.outcomes(store, job_id)
    assert end.result_code == ResultCode.CHECKOUT_FAILED


async def test_a_task_handed_back_is_ready_at_once_and_not_counted(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    await life.planned_job(store, project_id, worker)

    numbers = []
    for _ in range(life.RETRY.max_attempts + 2):
        task = await life.claim_and_start(store, worker)
        numbers.append(task.offer.number)
        assert await life.finish(store, task, reason=Reason.HANDED_BACK) is FinishVerdict.ACCEPTED

    assert numbers == [1, 2, 3, 4, 5]
    row = await store.db.fetchrow("SELECT failures, resets FROM task_ready")
    assert row is not None
    assert tuple(row) == (0, 0)


async def test_a_task_is_not_handed_back_for_ever(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    await store.db.execute("UPDATE task_ready SET failures = $1", life.RETRY.max_attempts - 1)
    task = await life.claim_and_start(store, worker)
    await store.db.execute("UPDATE task_leases SET number = 100")

    await life.finish(store, task, reason=Reason.HANDED_BACK)

    (end,) = await settling.outcomes(store, job_id)
    assert end.result_code == ResultCode.WORKER_LOST


async def test_an_engines_fault_is_not_retried(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    task = await life.claim_and_start(store, worker)

    await life.finish(store, task, reason=Reason.ENGINE_FAILED)

    (end,) = await settling.outcomes(store, job_id)
    assert (end.outcome, end.result_code) == (Outcome.FAILED, ResultCode.ENGINE_FAILED)


async def test_cancel_closes_the_job_and_every_task_of_it(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store, engines=("lines", "ruff"))
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "ruff"))
    running = await life.claim_and_start(store, worker)

    with store.signals.subscribe(f"worker:{worker}") as orders:
        assert await jobs.cancel(store, job_id, remarks="wrong branch", by="bob")
        assert await orders.wait(5)

    ended = (await jobs.closed(store, [job_id]))[job_id]
    assert (ended.result_code, "wrong branch" in ended.result_msg) == (301, True)
    assert [end.result_code for end in await settling.outcomes(store, job_id)] == [301, 301]
    assert await life.finish(store, running) is FinishVerdict.LEASE_LOST
    assert await life.claim(store, worker) == []
    assert not await jobs.cancel(store, job_id, remarks="again", by="eve")


async def test_a_job_starts_with_its_first_task(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    (task,) = await life.claim(store, worker)
    async with store.db.transaction() as connection:
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        starting = asyncio.create_task(life.start(store, task))
        async with asyncio.timeout(10):
            while not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            ):
                await asyncio.to_thread(int)
    assert await starting

    times = await store.db.fetchrow(
        "SELECT j.started_at, l.started_at FROM jobs AS j"
        " INNER JOIN task_leases AS l ON j.id = l.job_id WHERE j.id = $1",
        job_id,
    )
    assert times is not None
    assert times[0] == times[1]


async def test_what_starts_while_a_close_is_under_way_ends_after_its_start(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    async with store.db.transaction() as connection:
        await connection.execute("SELECT now()")  # stands still from here on
        await life.claim_and_start(store, worker)
        await connection.execute(
            "UPDATE jobs SET phase = 'closed', result_code = 301, result_msg = '', open_tasks = 0,"
            " ended_at = clock_timestamp() WHERE id = $1",
            job_id,
        )
        await jobs.sweep(connection, [job_id], reason=Reason.CANCELLED, message="no")

    assert await store.db.fetchval(
        "SELECT bool_and(a.ended_at >= a.started_at AND o.closed_at >= a.started_at)"
        " FROM task_attempts AS a INNER JOIN task_outcomes AS o ON a.task_id = o.task_id"
        " WHERE o.outcome = 'cancelled'"
    )


async def test_a_claim_of_a_job_that_is_closed_meanwhile_is_refused_and_swept(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker)
    (offered,) = await life.claim(store, worker)
    # As if the claim had committed after the close looked.
    await store.db.execute(
        "UPDATE jobs SET phase = 'closed', open_tasks = 0, result_code = 301, result_msg = 'x',"
        " ended_at = now() WHERE id = $1",
        job_id,
    )

    assert not await life.start(store, offered)
    assert await reaping.sweep_leftovers(store) == 1
    assert await reaping.sweep_leftovers(store) == 0
    assert len(await settling.outcomes(store, job_id)) == 1


async def test_success_supersedes_the_older_open_jobs_only(store: Store, project_id: int) -> None:
    worker = await life.add_worker(store)
    older = await life.planned_job(store, project_id, worker, is_forced=True)
    old_task = await life.claim_and_start(store, worker)
    waiting = await jobs.create(store, life.new_job(project_id))
    newer = await life.planned_job(store, project_id, worker, is_forced=True)
    task = await life.claim_and_start(store, worker)
    newest = await jobs.create(store, life.new_job(project_id))
    await life.finish(store, task)

    await settle(store, newer)

    ended = await jobs.closed(store, [older, waiting.job_id, newer, newest.job_id])
    assert {job_id: end.result_code for job_id, end in ended.items()} == {
        older: 2,
        waiting.job_id: 2,
        newer: 0,
    }
    assert json.loads(ended[older].result_msg)["job_id"] == newer
    assert await life.finish(store, old_task) is FinishVerdict.LEASE_LOST


async def test_a_base_stays_whole_when_another_scan_becomes_it_meanwhile(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)

    async def succeed(job_id: JobId, revision: str) -> None:
        await store.db.execute("UPDATE scans SET revision = $2 WHERE job_id = $1", job_id, revision)
        await life.finish(store, await life.claim_and_start(store, worker))
        await settle(store, job_id)

    await succeed(await life.planned_job(store, project_id, worker), "a" * 40)
    slow = await life.planned_job(store, project_id, worker)
    again = await jobs.create(store, life.new_job(project_id, is_forced=True, revision="a" * 40))
    token, _ = await life.admit(store)
    ((found,),) = [await admissions.load(store, [again.job_id])]
    assert found.base is not None
    await succeed(slow, "b" * 40)

    assert await admissions.close_unchanged(store, again.job_id, token, found.base, message="")

    base = await store.db.fetchrow(
        "SELECT p.base_job_id, p.base_revision, s.job_id, s.revision FROM projects AS p"
        " INNER JOIN scans AS s ON p.base_scan_id = s.id WHERE p.id = $1",
        project_id,
    )
    assert base is not None
    assert tuple(base) == (again.job_id, "a" * 40, again.job_id, "a" * 40)


async def test_a_job_past_its_deadline_is_found_with_the_reason(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    job_id = await life.planned_job(store, project_id, worker, engines=("lines", "unheard-of"))
    await store.db.execute("UPDATE jobs SET expires_at = now() - interval '1 second'")

    (found,) = await deadlines.overdue(store, limit=9)

    assert (found.job_id, found.has_fitting_workers) == (job_id, False)


async def test_a_job_that_is_cancelled_is_prepared_and_planned_no_more(
    store: Store, project_id: int
) -> None:
    worker = await life.add_worker(store)
    created = await jobs.create(store, life.new_job(project_id))
    token, _ = await life.admit(store)
    await life.prepare(store, token, created.job_id)
    preparation = await life.claim_and_start(store, worker)
    await life.finish(store, preparation)
    assert [job.job_id for job in await admissions.prepared(store, limit=9)] == [created.job_id]

    await jobs.cancel(store, created.job_id, remarks="", by="bob")

    assert not await life.plan(store, created.job_id)
    assert await admissions.prepared(store, limit=9) == []
    assert await store.db.fetchval("SELECT count(*) FROM task_ready") == 0
