"""Places in the queue's order, fair admission, and limits, on the real tables."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter
from typing import Any

import asyncpg
import pytest

from core.domain.ids import JobId, ProjectId, WorkerId
from core.domain.outcomes import Reason
from core.domain.states import FullReason, ScanType
from core.store import admissions, classes, jobs, orgs, projects, reaping, shares
from core.store.admissions import Resolved
from core.store.shares import Reserved, ShareChange
from core.store.store import Store
from scheduler import fairness
from scheduler.fairness import COST, PRIORITY_BONUS, Standing
from tests.store import lifecycle as life
from tests.store.history import add_project

DAY_S = 86_400.0


async def sibling(store: Store, project_id: int, branch: str) -> int:
    """Another project of the same repository, and so of the same organisation."""
    found: int = await store.db.fetchval(
        "INSERT INTO projects (repo_id, scheme_id, branch, creator)"
        " SELECT repo_id, scheme_id, $2, creator FROM projects WHERE id = $1 RETURNING id",
        project_id,
        branch,
    )
    return found


async def org_of(store: Store, project_id: int) -> Any:
    sid = await store.db.fetchval(
        "SELECT o.org_sid FROM projects p JOIN repos r ON r.id = p.repo_id"
        " JOIN teams t ON t.id = r.team_id JOIN organizations o ON o.id = t.org_id"
        " WHERE p.id = $1",
        project_id,
    )
    return await orgs.get(store, sid, scope=None)


async def reserve(
    store: Store, project_id: int, tasks: int = 1, *, horizon_s: float = DAY_S
) -> Reserved:
    return await shares.reserve(
        store,
        ProjectId(project_id),
        tasks,
        cost=COST,
        bonus=PRIORITY_BONUS,
        horizon_s=horizon_s,
    )


async def forced(store: Store, project_id: int) -> JobId:
    return (await jobs.create(store, life.new_job(project_id, is_forced=True))).job_id


async def admit(store: Store, limit: int = 1000) -> tuple[uuid.UUID, list[JobId]]:
    token = uuid.uuid4()
    found = await admissions.admit(
        store, token, lease_s=60, limit=limit, cost=COST, bonus=PRIORITY_BONUS
    )
    return token, found


async def prepare(store: Store, token: uuid.UUID, job_id: JobId, project_id: int) -> Reserved:
    """What the admitter does of a job whose revision is known."""
    places = await reserve(store, project_id, 2)
    priority = await store.db.fetchval("SELECT priority FROM jobs WHERE id = $1", job_id)
    resolved = Resolved(
        revision=life.REVISION,
        base=None,
        config_hash="c",
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        class_id=await classes.ensure_class(store, classes.Requirement("prepare")),
        spec={"source": {}},
        sort_key=fairness.sort_key(places.first, priority),
        key_step=places.step,
    )
    assert await admissions.prepare(store, job_id, token, resolved)
    return places


async def submit(store: Store, project_id: int, count: int) -> list[JobId]:
    """Forced jobs of a project, each with its preparation in the queue or held by a limit."""
    made = [await forced(store, project_id) for _ in range(count)]
    token, admitted = await admit(store)
    assert set(made) <= set(admitted)
    for job_id in made:
        await prepare(store, token, job_id, project_id)
    return made


async def claimed_projects(store: Store, worker: WorkerId, claims: int) -> list[int]:
    found = []
    for claimed in await life.claim(store, worker, claims):
        project = await store.db.fetchval(
            "SELECT project_id FROM jobs WHERE id = $1", claimed.offer.job_id
        )
        found.append(project)
    return found


# --- places -------------------------------------------------------------------------------------


async def test_the_statement_reserves_what_the_pure_function_says(store: Store) -> None:
    chance = random.Random(7)
    org_a, org_b = await add_project(store.db), await add_project(store.db)
    members = [org_a, org_b, *[await sibling(store, org_a, f"b{n}") for n in range(3)]]
    for project in members:
        await projects.change(
            store, ProjectId(project), share=ShareChange(weight=chance.randint(1, 100))
        )
        org = await org_of(store, project)
        await orgs.change(store, org.id, share=ShareChange(weight=chance.randint(1, 100)))
    weights = {p: await _weights(store, p) for p in members}
    head = await store.db.fetchval("SELECT (extract(epoch FROM now()) * 1000000000)::bigint")
    await _ready(store, org_b, sort_key=head - 7 * PRIORITY_BONUS, priority=7)
    last: dict[int, int] = {}
    for _ in range(40):
        project, tasks = chance.choice(members), chance.randint(1, 9)
        org_id, weight, org_weight = weights[project]
        standing = Standing(
            org_weight=org_weight,
            weight=weight,
            others_weight=sum(
                weights[other][1]
                for other, place in last.items()
                if weights[other][0] == org_id and other != project and place > head
            ),
            head=head,
            last=last.get(project),
        )
        expected = fairness.reserve(standing, tasks, now=head, horizon=10**15)

        found = await reserve(store, project, tasks)

        assert found == Reserved(expected.first, expected.step)
        last[project] = expected.last


async def _weights(store: Store, project_id: int) -> tuple[int, int, int]:
    org = await org_of(store, project_id)
    weight = await store.db.fetchval("SELECT weight FROM projects WHERE id = $1", project_id)
    return org.id, weight, org.weight


async def _ready(
    store: Store, project_id: int, *, sort_key: int, priority: int = 0, engine: str = "lines"
) -> None:
    """A task in the queue of a class that a live worker serves."""
    job_id = await forced(store, project_id)
    await store.db.execute("UPDATE jobs SET priority = $2 WHERE id = $1", job_id, priority)
    class_id = await classes.ensure_class(store, classes.Requirement(engine))
    await store.db.execute(
        "INSERT INTO task_ready (task_id, job_id, project_id, class_id, sort_key)"
        " VALUES (nextval('tasks_id_seq'), $1, $2, $3, $4)",
        job_id,
        project_id,
        class_id,
        sort_key,
    )


async def test_a_queue_that_nobody_serves_does_not_hold_virtual_time_back(store: Store) -> None:
    project = await add_project(store.db)
    await life.add_worker(store, engines=("lines",))
    await _ready(store, project, sort_key=10, engine="nobodys")
    now = await store.db.fetchval("SELECT (extract(epoch FROM now()) * 1000000000)::bigint")
    await _ready(store, project, sort_key=now, engine="lines")

    found = await reserve(store, await add_project(store.db))

    assert found.first == now + COST


async def test_virtual_time_lags_no_further_than_the_horizon(store: Store) -> None:
    project = await add_project(store.db)
    await _ready(store, project, sort_key=10)
    before = await store.db.fetchval(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint"
    )

    found = await reserve(store, project, horizon_s=3600.0)

    assert found.first >= before - 3600 * 10**9


async def test_a_project_is_charged_by_each_of_many_at_the_same_time(store: Store) -> None:
    project = await add_project(store.db)

    found = await asyncio.gather(*(reserve(store, project, 2) for _ in range(20)))

    places = sorted(found, key=lambda reserved: reserved.first)
    for earlier, later in itertools.pairwise(places):
        assert later.first >= earlier.first + 2 * earlier.step


async def test_the_clock_of_a_project_without_a_backlog_is_forgotten(store: Store) -> None:
    idle, busy = await add_project(store.db), await add_project(store.db)
    await submit(store, busy, 1)
    await reserve(store, idle, 1000)
    await store.db.execute("UPDATE share_clocks SET charged_at = now() - interval '1 minute'")

    await shares.forget(store)

    left = await store.db.fetch("SELECT project_id FROM share_clocks")
    assert [row["project_id"] for row in left] == [busy]


async def test_a_clock_that_was_just_charged_is_kept_though_its_job_is_not_seen_yet(
    store: Store,
) -> None:
    await reserve(store, await add_project(store.db))

    await shares.forget(store)

    assert await store.db.fetchval("SELECT count(*) FROM share_clocks") == 1


# --- order --------------------------------------------------------------------------------------


async def test_ten_jobs_do_not_wait_for_the_five_hundred_of_another(store: Store) -> None:
    many, few = await add_project(store.db), await add_project(store.db)
    worker = await life.add_worker(store)
    await submit(store, many, 500)
    await submit(store, few, 10)

    order = await claimed_projects(store, worker, 40)

    assert order.count(few) == 10
    assert order.index(few) <= 2
    # Turns, and not one before the other.
    assert max(place for place, project in enumerate(order) if project == few) <= 21


async def test_claims_follow_the_weights_of_organisations(store: Store) -> None:
    heavy, light = await add_project(store.db), await add_project(store.db)
    await orgs.change(store, (await org_of(store, heavy)).id, share=ShareChange(weight=3))
    worker = await life.add_worker(store)
    # Both are in the queue before either has a hundred.
    for _ in range(10):
        await submit(store, heavy, 10)
        await submit(store, light, 10)

    served = Counter(await claimed_projects(store, worker, 80))

    assert 58 <= served[heavy] <= 62


async def test_a_job_keeps_its_place_for_its_engine_tasks(store: Store) -> None:
    first, second = await add_project(store.db), await add_project(store.db)
    worker = await life.add_worker(store)
    (job_id,) = await submit(store, first, 1)
    preparation = await life.claim_and_start(store, worker)
    await life.finish(store, preparation)
    await submit(store, second, 20)
    (job,) = await admissions.load(store, [job_id])
    assert job.first_key is not None
    assert job.key_step is not None
    class_id = await classes.ensure_class(store, classes.Requirement("lines"))
    task = admissions.PlannedTask("lines", "codemetric", class_id, {})

    await admissions.plan(
        store,
        job_id,
        [task],
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        base_revision=None,
        sort_key=job.first_key + job.key_step,
        key_step=job.key_step,
        preferred_worker_id=None,
    )

    assert await claimed_projects(store, worker, 1) == [first]


async def test_admission_takes_turns_between_projects(store: Store) -> None:
    many, few = await add_project(store.db), await add_project(store.db)
    flood = [await forced(store, many) for _ in range(30)]
    late = [await forced(store, few) for _ in range(5)]

    order: list[int] = []
    for _ in range(5):
        token, admitted = await admit(store, limit=4)
        for job_id in admitted:
            project = many if job_id in flood else few
            order.append(project)
            await prepare(store, token, job_id, project)

    assert order.count(few) == len(late)


async def test_admission_of_two_schedulers_takes_every_job_once(store: Store) -> None:
    made = [await forced(store, await add_project(store.db)) for _ in range(12)]

    found = await asyncio.gather(*(admit(store, limit=4) for _ in range(3)))

    assert sorted(job_id for _, admitted in found for job_id in admitted) == made


async def test_a_higher_priority_is_admitted_first(store: Store) -> None:
    plain, urgent = await add_project(store.db), await add_project(store.db)
    await forced(store, plain)
    job_id = await forced(store, urgent)
    await store.db.execute("UPDATE jobs SET priority = 1 WHERE id = $1", job_id)

    _, admitted = await admit(store, limit=1)

    assert admitted == [job_id]


# --- limits -------------------------------------------------------------------------------------


async def promote(store: Store, *, recount: bool = True) -> int:
    return await shares.promote(store, fairness.choose, recount=recount)


async def in_queue(store: Store, project_id: int) -> int:
    found: int = await store.db.fetchval(
        "SELECT (SELECT count(*) FROM task_ready WHERE project_id = $1)"
        " + (SELECT count(*) FROM task_leases WHERE project_id = $1)",
        project_id,
    )
    return found


async def limit(store: Store, project_id: int, max_running: int | None) -> None:
    await projects.change(
        store, ProjectId(project_id), share=ShareChange(sets_limit=True, max_running=max_running)
    )


async def test_a_limited_project_has_no_more_tasks_in_the_queue_than_it_may(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 2)

    await submit(store, project, 5)

    assert await in_queue(store, project) == 0
    assert await promote(store) == 2
    assert await promote(store) == 0
    reasons = await store.db.fetch("SELECT DISTINCT reason FROM task_pending")
    assert [row["reason"] for row in reasons] == ["limit_project"]


async def test_the_end_of_a_task_makes_room_for_the_next_in_order(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 1)
    worker = await life.add_worker(store)
    made = await submit(store, project, 3)

    order = []
    for _ in made:
        assert await promote(store, recount=False) == 1
        claimed = await life.claim_and_start(store, worker)
        order.append(claimed.offer.job_id)
        assert await promote(store) == 0
        await life.finish(store, claimed)

    assert order == made


@pytest.mark.parametrize("schedulers", [4])
async def test_a_limit_is_exact_however_many_promote(store: Store, schedulers: int) -> None:
    project = await add_project(store.db)
    await limit(store, project, 7)
    await submit(store, project, 40)

    promoted = await asyncio.gather(*(promote(store) for _ in range(schedulers)))

    assert sum(promoted) == 7
    assert await in_queue(store, project) == 7


async def test_the_limit_of_an_organisation_holds_over_all_its_projects(store: Store) -> None:
    one = await add_project(store.db)
    two = await sibling(store, one, "next")
    org = await org_of(store, one)
    await orgs.change(store, org.id, share=ShareChange(sets_limit=True, max_running=3))
    other = await add_project(store.db)
    await submit(store, one, 4)
    await submit(store, two, 4)
    await submit(store, other, 1)

    assert await promote(store) == 3

    # Room goes in turns to those who have least of it.
    assert sorted([await in_queue(store, one), await in_queue(store, two)]) == [1, 2]
    assert await in_queue(store, other) == 1


async def test_the_limit_of_an_engine_holds_over_all_organisations(store: Store) -> None:
    await shares.set_engine_limit(store, "prepare", 2)
    members = [await add_project(store.db) for _ in range(3)]
    for project in members:
        await submit(store, project, 2)

    assert await promote(store) == 2

    reasons = await store.db.fetch("SELECT DISTINCT reason FROM task_pending")
    assert [row["reason"] for row in reasons] == ["limit_engine"]
    await shares.set_engine_limit(store, "prepare", None)
    assert await promote(store) == 4


async def test_a_limit_counts_what_was_in_the_queue_before_it_was_set(store: Store) -> None:
    project = await add_project(store.db)
    await submit(store, project, 3)
    await limit(store, project, 4)
    await submit(store, project, 3)

    assert await promote(store) == 1

    assert await in_queue(store, project) == 4


async def test_a_lowered_limit_takes_back_nothing(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 3)
    await submit(store, project, 5)
    await promote(store)
    await limit(store, project, 0)

    assert await promote(store) == 0

    assert await in_queue(store, project) == 3


async def test_a_limit_taken_away_frees_what_waits(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 0)
    await submit(store, project, 3)
    assert await promote(store) == 0
    await limit(store, project, None)

    assert await promote(store) == 3


async def test_a_retried_task_waits_for_the_limit_again(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 1)
    worker = await life.add_worker(store)
    await submit(store, project, 2)
    await promote(store)
    failed = await life.claim_and_start(store, worker)
    await life.finish(store, failed, reason=Reason.CHECKOUT_FAILED)
    await store.db.execute("UPDATE task_pending SET not_before = now() WHERE reason = 'retry'")

    assert await reaping.promote(store) == 0
    assert await promote(store) == 1

    # It has kept its place, which is before the other's.
    assert await store.db.fetchval("SELECT task_id FROM task_ready") == failed.offer.task_id


async def test_tasks_say_which_limit_holds_them(store: Store) -> None:
    project = await add_project(store.db)
    org = await org_of(store, project)
    await limit(store, project, 5)
    await orgs.change(store, org.id, share=ShareChange(sets_limit=True, max_running=2))
    await submit(store, project, 4)

    await promote(store)
    await promote(store)

    reasons = await store.db.fetch("SELECT DISTINCT reason FROM task_pending")
    assert [row["reason"] for row in reasons] == ["limit_organization"]


async def test_a_full_project_stands_in_nobodys_way(store: Store) -> None:
    """Its tasks come first in order, and there are more of them than one look takes."""
    full, free = await add_project(store.db), await add_project(store.db)
    await limit(store, full, 1)
    await limit(store, free, 1)
    await submit(store, full, 120)
    await promote(store)
    await submit(store, free, 2)

    assert await promote(store) == 1

    assert await in_queue(store, free) == 1


async def test_the_grant_of_a_swept_task_is_given_to_another(store: Store) -> None:
    project = await add_project(store.db)
    await limit(store, project, 1)
    first, _ = await submit(store, project, 2)
    await promote(store)
    await jobs.cancel(store, first, remarks="no", by="ann")

    assert await promote(store) == 1


async def test_the_database_refuses_a_weight_of_nothing(store: Store) -> None:
    project = await add_project(store.db)

    with pytest.raises(asyncpg.CheckViolationError, match="project_weight_is_bounded"):
        await projects.change(store, ProjectId(project), share=ShareChange(weight=0))
