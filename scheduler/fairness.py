"""Who goes first: pure functions of places in the queue and of limits. Reads and writes nothing.

The queue is ordered by virtual time (self-clocked fair queueing, docs/adr): a job reserves places
for all its tasks when it is admitted, one behind the other at a distance that is the cost of a
task divided by its project's share. Virtual time is the place of the queue's head; a project
without a backlog begins there, whatever it has used before. What is done here for one project at
a time is done by `core/store/sql/shares/reserve.sql` for all of them, and a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from core.store.shares import Limited, LimitKey

#: What one task costs a project whose share is one, ns of virtual time. So little that virtual
#: time never overtakes the clock while less than 10,000 tasks a second are claimed: what was
#: reserved before the queue last ran empty then lies before everything reserved after.
COST = 100_000
#: One step of priority counts as much as so many tasks of a project whose share is one. Finite, so
#: that nothing of lower priority waits for ever.
PRIORITY_TASKS = 300
PRIORITY_BONUS = PRIORITY_TASKS * COST


@dataclass(frozen=True, slots=True)
class Standing:
    """What the places of a project's next job are reckoned from."""

    #: Weight of the project's organisation beside other organisations.
    org_weight: int
    #: Weight of the project beside the other projects of its organisation.
    weight: int
    #: Sum of the weights of the organisation's other projects that have a backlog.
    others_weight: int
    #: Place of the queue's head, ns of virtual time; None: the queue is empty.
    head: int | None
    #: Last place the project reserved; None: never, or forgotten since it had no backlog.
    last: int | None


@dataclass(frozen=True, slots=True)
class Places:
    """Places reserved for the tasks of a job: *first*, first + step, …, *last*."""

    first: int
    step: int
    last: int


def virtual_time(head: int | None, *, now: int, horizon: int) -> int:
    """Return where a project without a backlog begins: at the head, not older than the horizon.

    Args:
        head: Place of the queue's head; None: the queue is empty.
        now: The time, ns.
        horizon: What waits for longer than this, ns, is not overtaken by anything new.
    """
    return max(now if head is None else head, now - horizon)


def step(standing: Standing) -> int:
    """Return the distance between two places of a project: the cost of a task over its share.

    A project's share is its organisation's weight, divided among the projects of the organisation
    that have a backlog by their weights.
    """
    active = standing.weight + standing.others_weight
    return COST * active // (standing.org_weight * standing.weight)


def reserve(standing: Standing, tasks: int, *, now: int, horizon: int) -> Places:
    """Return the places of a job's *tasks*: behind the project's last ones and the queue's head."""
    begin = virtual_time(standing.head, now=now, horizon=horizon)
    if standing.last is not None:
        begin = max(begin, standing.last)
    distance = step(standing)
    return Places(begin + distance, distance, begin + tasks * distance)


def sort_key(place: int, priority: int) -> int:
    """Return the sort key of a task at *place*; smaller goes first."""
    return place - priority * PRIORITY_BONUS


def tasks_of(
    engines: Sequence[object] | None, base_engines: Mapping[str, str] | None, offered: int
) -> int:
    """Return how many tasks a job will have, its preparation included, as well as can be told.

    Args:
        engines: The scheme's; None: what fits.
        base_engines: What the project's last good scan ran; None: there is none.
        offered: Engines that live workers offer.
    """
    if engines is not None:
        return 1 + len(engines)
    return 1 + max(1, len(base_engines) if base_engines else offered)


def choose(
    waiting: Iterable[Limited], used: Mapping[LimitKey, int], limits: Mapping[LimitKey, int]
) -> list[Limited]:
    """Return the tasks to put into the queue now, each limit kept.

    Room goes to whoever has least of it: to the organisation, in it to the project, with the
    fewest tasks for its weight; among equals in the queue's order.

    Args:
        waiting: Tasks that wait for a limit.
        used: Tasks in the queue or on workers, by what may limit them.
        limits: How many may be; what is missing is not limited.
    """
    taken = Counter(used)
    streams: dict[int | str, list[Limited]] = {}
    for task in sorted(waiting, key=_order, reverse=True):
        streams.setdefault(task.project_id, []).append(task)
    turns = [(_turn(tasks[-1], taken), project) for project, tasks in streams.items()]
    heapify(turns)
    chosen = []
    while turns:
        turn, project = heappop(turns)
        tasks = streams[project]
        # Its organisation may have been given room since.
        if turn == _turn(tasks[-1], taken):
            task = tasks.pop()
            if all(taken[key] < limits[key] for key in task.keys if key in limits):
                chosen.append(task)
                taken.update(task.keys)
        if tasks:
            heappush(turns, (_turn(tasks[-1], taken), project))
    return chosen


_Turn: TypeAlias = tuple[float, float, int, int]


def _turn(task: Limited, taken: Mapping[LimitKey, int]) -> _Turn:
    org, project, _engine = task.keys
    return (
        taken[org] / task.org_weight,
        taken[project] / task.weight,
        *_order(task),
    )


def _order(task: Limited) -> tuple[int, int]:
    return task.sort_key, task.task_id
