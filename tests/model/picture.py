"""What the database holds, as plain values that can be compared with what the model holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from core.domain.states import TaskPlace
from core.store.pool import Queryable

Values: TypeAlias = dict[str, Any]
#: kind, job, task, attempt, worker
Event: TypeAlias = tuple[str, int | None, int | None, int | None, int | None]

# One statement, one snapshot: a picture is never half of one moment and half of another.
_READ = """
SELECT 'job' AS what, jsonb_build_object(
    'id', j.id, 'project', j.project_id, 'phase', j.phase, 'state', j.state,
    'code', j.result_code, 'task_num', j.task_num, 'open_tasks', j.open_tasks,
    'prepare_task', j.prepare_task_id, 'token', j.admission_token
) AS it
FROM jobs AS j
UNION ALL
SELECT 'task', jsonb_build_object(
    'id', t.id, 'job', t.job_id, 'kind', t.kind, 'engine', t.engine, 'class', t.class_id
)
FROM tasks AS t
UNION ALL
SELECT 'pending', jsonb_build_object(
    'task', p.task_id, 'job', p.job_id, 'class', p.class_id, 'sort_key', p.sort_key,
    'failures', p.failures, 'resets', p.resets
)
FROM task_pending AS p
UNION ALL
SELECT 'ready', jsonb_build_object(
    'task', r.task_id, 'job', r.job_id, 'class', r.class_id, 'sort_key', r.sort_key,
    'failures', r.failures, 'resets', r.resets, 'preferred', r.preferred_worker_id
)
FROM task_ready AS r
UNION ALL
SELECT CASE WHEN l.started_at IS NULL THEN 'offered' ELSE 'running' END, jsonb_build_object(
    'task', l.task_id, 'job', l.job_id, 'class', l.class_id, 'sort_key', l.sort_key,
    'failures', l.failures, 'resets', l.resets,
    'attempt', l.attempt_id, 'worker', l.worker_id, 'number', l.number,
    'token', encode(l.token_hash, 'hex'), 'claim', l.claim_id, 'index', l.claim_index
)
FROM task_leases AS l
UNION ALL
SELECT 'closed', jsonb_build_object(
    'task', o.task_id, 'job', o.job_id, 'outcome', o.outcome, 'reason', o.reason,
    'code', o.result_code, 'attempt', o.attempt_id
)
FROM task_outcomes AS o
UNION ALL
SELECT 'attempt', jsonb_build_object(
    'task', a.task_id, 'job', a.job_id, 'attempt', a.attempt_id, 'worker', a.worker_id,
    'number', a.number, 'outcome', a.outcome, 'reason', a.reason,
    'is_accepted', a.body_hash IS NOT NULL
)
FROM task_attempts AS a
UNION ALL
SELECT 'worker', jsonb_build_object(
    'id', w.id, 'is_lost', w.lost_at IS NOT NULL, 'is_draining', w.is_draining,
    'directive', w.directive
)
FROM workers AS w
UNION ALL
SELECT 'project', jsonb_build_object('id', p.id, 'base_job', p.base_job_id)
FROM projects AS p
UNION ALL
SELECT 'event', jsonb_build_object(
    'id', e.id, 'kind', e.kind, 'job', e.job_id, 'task', e.task_id, 'attempt', e.attempt_id,
    'worker', e.worker_id
)
FROM events AS e
WHERE e.id > $1
"""


@dataclass(slots=True)
class Picture:
    """All that the model speaks about, at one moment."""

    jobs: dict[int, Values] = field(default_factory=dict)
    tasks: dict[int, Values] = field(default_factory=dict)
    #: Task → where it is; more or fewer than one place is wrong.
    places: dict[int, dict[TaskPlace, Values]] = field(default_factory=dict)
    attempts: dict[tuple[int, int], Values] = field(default_factory=dict)
    workers: dict[int, Values] = field(default_factory=dict)
    #: Project → the job its next incremental scan starts from.
    bases: dict[int, int | None] = field(default_factory=dict)
    #: Since the last picture: within one statement they are in no order.
    events: Counter[Event] = field(default_factory=Counter)

    def differences(self, other: Picture) -> list[str]:
        """Return what is not the same in *other*, one line each; `model` is *other*."""
        return [
            f"{name} {key}: database {mine.get(key)!r}, model {theirs.get(key)!r}"
            for name, mine, theirs in (
                ("job", self.jobs, other.jobs),
                ("task", self.tasks, other.tasks),
                ("places of task", self.places, other.places),
                ("attempt", self.attempts, other.attempts),
                ("worker", self.workers, other.workers),
                ("base of project", self.bases, other.bases),
                ("event", self.events, other.events),
            )
            for key in _keys(mine, theirs)
            if mine.get(key) != theirs.get(key)
        ]


def _keys(*mappings: Mapping[Any, Any]) -> list[Any]:
    found = {key for mapping in mappings for key in mapping}
    return sorted(found, key=repr)


async def read(connection: Queryable, after_event: int) -> tuple[Picture, int]:
    """Return the picture, with the events after *after_event*, and the last event's id."""
    picture, last = Picture(), after_event
    for row in await connection.fetch(_READ, after_event):
        it: Values = row["it"]
        match row["what"]:
            case "job":
                picture.jobs[it.pop("id")] = it
            case "task":
                task_id = it.pop("id")
                picture.tasks[task_id] = it
                picture.places.setdefault(task_id, {})
            case "attempt":
                picture.attempts[it.pop("task"), it.pop("attempt")] = it
            case "worker":
                picture.workers[it.pop("id")] = it
            case "project":
                picture.bases[it["id"]] = it["base_job"]
            case "event":
                last = max(last, it["id"])
                event = (it["kind"], it["job"], it["task"], it["attempt"], it["worker"])
                picture.events[event] += 1
            case place:
                at = picture.places.setdefault(it.pop("task"), {})
                at[TaskPlace(place)] = it
    return picture, last
