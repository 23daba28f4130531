"""The queue's order and its limits, by property and by simulation."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.ids import ProjectId, TaskId
from core.domain.states import PendingReason
from core.store.shares import Limited, LimitKey
from scheduler import fairness
from scheduler.fairness import COST, PRIORITY_BONUS, PRIORITY_TASKS, Standing
from tests.scheduler.fairqueue import FairQueue, Member

WEIGHT = st.integers(1, 100)
TIME = st.integers(10**17, 4 * 10**18)
HORIZON = st.integers(10**9, 10**14)
STANDING = st.builds(
    Standing,
    org_weight=WEIGHT,
    weight=WEIGHT,
    others_weight=st.integers(0, 100_000),
    head=st.none() | TIME,
    last=st.none() | TIME,
)


@given(STANDING, st.integers(1, 100), TIME, HORIZON)
def test_places_lie_behind_the_head_and_behind_the_projects_own(
    standing: Standing, tasks: int, now: int, horizon: int
) -> None:
    places = fairness.reserve(standing, tasks, now=now, horizon=horizon)

    assert places.step > 0
    assert places.first > fairness.virtual_time(standing.head, now=now, horizon=horizon)
    assert standing.last is None or places.first > standing.last
    assert places.last == places.first + (tasks - 1) * places.step


@given(STANDING, st.integers(1, 100), TIME, HORIZON, st.data())
def test_what_waits_for_longer_than_the_horizon_is_not_overtaken(
    standing: Standing, tasks: int, now: int, horizon: int, data: st.DataObject
) -> None:
    """However many new projects there are, and wherever the queue's head stands."""
    waiting = data.draw(st.integers(0, now - horizon), "place of a task that waits")
    low, high = sorted(data.draw(st.tuples(*[st.integers(-100, 100)] * 2), "priorities"))
    places = fairness.reserve(standing, tasks, now=now, horizon=horizon)

    assert fairness.sort_key(places.first, low) > fairness.sort_key(waiting, low)
    later = now + (high - low) * PRIORITY_BONUS
    of_higher = fairness.reserve(standing, tasks, now=later, horizon=horizon)
    assert fairness.sort_key(of_higher.first, high) > fairness.sort_key(waiting, low)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=60))
def test_inside_a_project_jobs_are_served_in_the_order_of_their_admission(
    steps: list[tuple[int, int, bool]],
) -> None:
    queue = FairQueue()
    members = [Member(f"p{n}", f"o{n % 2}", weight=n + 1) for n in range(4)]
    ends: dict[int, int] = {}
    for who, tasks, claims in steps:
        places = queue.admit(members[who], tasks)
        assert places.first > ends.get(who, 0)
        ends[who] = places.last
        if claims:
            queue.served(tasks)


@settings(deadline=None)
@given(st.lists(WEIGHT, min_size=2, max_size=5), st.integers(1, 2000))
def test_organisations_are_served_by_their_weights_within_one_task(
    weights: list[int], claims: int
) -> None:
    queue = FairQueue()
    members = [Member(f"p{n}", f"o{n}", org_weight=w) for n, w in enumerate(weights)]
    for member in members:
        queue.admit(member, 2001)

    served = queue.served(claims)

    # Counted in rounds, in which an organisation of weight w has w tasks.
    rounds = [served[member.project] / member.org_weight for member in members]
    one_task = [1 / member.org_weight for member in members]
    for i, mine in enumerate(rounds):
        for j, others in enumerate(rounds):
            # Places are whole nanoseconds: a thousandth for that.
            assert mine - others <= one_task[i] + one_task[j] + claims / 1000


@settings(deadline=None)
@given(st.lists(WEIGHT, min_size=2, max_size=5), st.data())
def test_projects_of_an_organisation_are_served_by_their_weights_within_one_task(
    weights: list[int], data: st.DataObject
) -> None:
    queue = FairQueue()
    members = [Member(f"p{n}", "o", weight=w) for n, w in enumerate(weights)]
    for member in members:
        queue.admit(member)  # each knows of all others from its second job on
    starts = {member: queue.admit(member, 500).first for member in members}
    claims = data.draw(st.integers(1, 400), "claims")
    # From where all of them wait.
    while queue._heap[0][2] < max(starts.values()):
        queue.claim()

    served = queue.served(claims)

    left = Counter(member.project for *_, member in queue._heap)
    rounds = [served[m.project] / m.weight for m in members if left[m.project]]
    one_task = max(1 / m.weight for m in members)
    assert not rounds or max(rounds) - min(rounds) <= 2 * one_task + claims / 1000


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 100))
def test_a_step_of_priority_is_worth_so_many_tasks_and_no_more(steps: int) -> None:
    queue = FairQueue()
    plain, urgent = Member("plain", "a"), Member("urgent", "b")
    queue.admit(plain, 10)
    queue.admit(urgent, steps * PRIORITY_TASKS + 10, priority=steps)

    ahead = 0
    while queue.claim() == "urgent":
        ahead += 1

    assert steps * PRIORITY_TASKS - 2 <= ahead <= steps * PRIORITY_TASKS + 2


def test_a_project_that_used_the_queue_alone_is_not_made_to_wait_for_it() -> None:
    queue = FairQueue()
    old, new = Member("old", "a"), Member("new", "b")
    queue.admit(old, 10_000)
    queue.served(9_000)
    queue.admit(new, 100)

    served = queue.served(100)

    assert 49 <= served["old"] <= 51


def test_one_project_of_a_hundred_thousand_beside_a_hundred_of_ten() -> None:
    queue = FairQueue()
    queue.admit(Member("big", "big"), 100_000)
    queue.served(500)
    small = [Member(f"small-{n}", f"org-{n}") for n in range(100)]
    for member in small:
        queue.admit(member, 10)

    # Alone with their equals they would be done after 1,000 claims.
    first = queue.served(1_000)
    second = queue.served(1_000)

    assert sum((first + second)[member.project] for member in small) == 1_000
    assert first["big"] >= 9
    ends = queue.last_claims()
    assert set(ends) == {"big"}


def test_a_big_project_takes_half_of_its_own_organisations_share_at_most() -> None:
    """What it reserved while it was alone it keeps; those who come later share the rest."""
    queue = FairQueue()
    queue.admit(Member("big", "org"), 100_000)
    small = [Member(f"small-{n}", "org") for n in range(100)]
    for _ in range(10):
        for member in small:
            queue.admit(member)

    served = queue.served(2_200)

    assert sum(served[member.project] for member in small) == 1_000


def test_endless_new_projects_stop_no_old_one() -> None:
    """As many arrive as are served: first come would leave the old ones nothing but the rest."""
    queue = FairQueue()
    queue.admit(Member("old", "old"), 100)

    served: Counter[str] = Counter()
    for n in range(300):
        queue.admit(Member(f"new-{n}", f"org-{n}"))
        served += queue.served(1)

    assert served["old"] >= 20
    in_last_hundred = 0
    for n in range(300, 400):
        queue.admit(Member(f"new-{n}", f"org-{n}"))
        in_last_hundred += queue.claim() == "old"
    assert in_last_hundred >= 1


def test_an_empty_queue_forgets_how_far_it_was() -> None:
    queue = FairQueue()
    queue.admit(Member("a", "a"), 1_000)
    queue.served(1_000)
    queue.now += 10**9

    places = queue.admit(Member("b", "b"))

    assert places.first == queue.now + COST


def test_tasks_are_reckoned_from_the_scheme_or_the_last_scan_or_what_is_offered() -> None:
    assert fairness.tasks_of([{"name": "ruff"}, {"name": "lines"}], None, 9) == 3
    assert fairness.tasks_of([], None, 9) == 1
    assert fairness.tasks_of(None, {"lines": "1", "ruff": "2", "pylint": "4"}, 9) == 4
    assert fairness.tasks_of(None, None, 2) == 3
    assert fairness.tasks_of(None, None, 0) == 2


ORG, PROJECT, ENGINE = (
    PendingReason.LIMIT_ORGANIZATION,
    PendingReason.LIMIT_PROJECT,
    PendingReason.LIMIT_ENGINE,
)


@st.composite
def waiting(draw: st.DrawFn) -> list[Limited]:
    found = []
    for n in range(draw(st.integers(0, 30))):
        org = draw(st.integers(1, 3))
        project = 10 * org + draw(st.integers(1, 2))
        engine = draw(st.sampled_from(["lines", "ruff"]))
        keys = ((ORG, org), (PROJECT, project), (ENGINE, engine))
        weights = (org, project % 10)
        key = draw(st.integers(0, 20))
        found.append(Limited(TaskId(n), ProjectId(project), key, keys, *weights))
    return found


KEYS = (
    st.tuples(st.just(ORG), st.integers(1, 3))
    | st.tuples(st.just(PROJECT), st.integers(11, 32))
    | st.tuples(st.just(ENGINE), st.sampled_from(["lines", "ruff"]))
)
COUNTS = st.dictionaries(KEYS, st.integers(0, 6))


@settings(max_examples=300, deadline=None)
@given(waiting(), COUNTS, COUNTS)
def test_no_limit_is_passed_and_none_is_left_unused(
    tasks: list[Limited], used: dict[LimitKey, int], limits: dict[LimitKey, int]
) -> None:
    chosen = fairness.choose(tasks, used, limits)

    now = Counter(used)
    for task in chosen:
        now.update(task.keys)
    for key, limit in limits.items():
        assert now[key] <= max(limit, used.get(key, 0))
    for task in set(tasks) - set(chosen):
        assert any(now[key] >= limits[key] for key in task.keys if key in limits)


@given(waiting(), COUNTS)
def test_what_one_limit_holds_back_is_held_back_from_the_end_of_the_queue(
    tasks: list[Limited], limits: dict[LimitKey, int]
) -> None:
    chosen = fairness.choose(tasks, {}, limits)

    for task in set(tasks) - set(chosen):
        for other in chosen:
            if other.keys == task.keys:
                assert (other.sort_key, other.task_id) < (task.sort_key, task.task_id)


def test_room_below_an_organisations_limit_goes_to_its_projects_by_their_weights() -> None:
    tasks = [
        Limited(
            TaskId(1000 * project + n),
            ProjectId(project),
            1000 * project + n,  # the first project's all stand before the second's
            ((ORG, 1), (PROJECT, project), (ENGINE, "lines")),
            weight=project,
        )
        for project in (1, 3)
        for n in range(50)
    ]

    chosen = fairness.choose(tasks, {}, {(ORG, 1): 40})

    assert Counter(task.project_id for task in chosen) == {1: 10, 3: 30}


def test_an_organisation_of_many_projects_has_no_more_than_one_of_a_single_project() -> None:
    queue = FairQueue()
    many = {f"many-{n}": Member(f"many-{n}", "many") for n in range(100)}
    single = Member("single", "single")
    for member in many.values():
        queue.admit(member)
    for _ in range(5):
        queue.admit(single)

    served: Counter[str] = Counter()
    for _ in range(4_000):
        project = queue.claim()
        assert project is not None
        served[project] += 1
        # Each has its next job as soon as one has begun.
        queue.admit(many.get(project, single))

    assert 1_850 <= served["single"] <= 2_150
    assert min(served[project] for project in many) >= 15


def test_many_projects_that_come_at_once_are_served_early_but_not_more() -> None:
    queue = FairQueue()
    single = Member("single", "single")
    many = [Member(f"many-{n}", "many") for n in range(100)]
    queue.admit(single, 1_000)
    for member in many:
        queue.admit(member, 10)

    half = queue.served(1_000)
    rest = queue.served(1_000)

    assert half["single"] >= 333
    assert (half + rest)["single"] == 1_000
    assert rest["single"] <= 667
