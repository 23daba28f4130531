"""The model can tell: with a mistake in one statement of the store, the machine finds it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from core.store.queries import query
from tests.conftest import Postgres
from tests.model.books import Mismatch
from tests.model.machine import machine_on
from tests.model.profiles import SEARCH
from tests.model.races import race_machine_on
from tests.model.session import session

#: What is wrong → the statement, and what in its text becomes what.
MISTAKES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "a result is accepted without its lease token": (
        "attempts/finish",
        {
            "l.token_hash = asked.token_hash": "true",
            "AND l.token_hash = whole.token_hash": "",
        },
    ),
    "an attempt is started by a worker that does not hold it": (
        "attempts/start",
        {"l.worker_id = asked.worker_id": "true"},
    ),
    "a claimed task stays in the queue": (
        "attempts/claim",
        {
            "DELETE FROM task_ready AS r\n    USING picked": (
                "UPDATE task_ready AS r SET failures = r.failures\n    FROM picked"
            )
        },
    ),
    "a job is admitted beside an earlier forced one": (
        "jobs/admit",
        {
            "project.project_id AND j.ended_at IS NULL": "project.project_id AND j.ended_at IS NULL AND NOT j.is_forced"
        },
    ),
    "a preparation is queued by a scheduler that lost the admission": (
        "jobs/prepare",
        {"AND admission_token = $2": "AND $2::uuid IS NOT NULL"},
    ),
    "a closed task is not counted down": (
        "attempts/finish",
        {"j.open_tasks - closed.engine_tasks": "j.open_tasks"},
    ),
    "a failure is not counted": (
        "attempts/finish",
        {"CASE WHEN lease.is_resetting THEN 0 ELSE 1 END": "0"},
    ),
    "a lost worker is not counted": (
        "attempts/lose",
        {"lease.resets + 1\n    FROM": "lease.resets\n    FROM"},
    ),
    "a running attempt is taken for an offer that was not started": (
        "attempts/expire_offers",
        {"l.started_at IS NULL": "true"},
    ),
    "a live worker is taken for lost": (
        "workers/lose",
        {"b.seen_at < clock_timestamp() - make_interval(secs => $1)": "$1 > 0::double precision"},
    ),
    "newer jobs are superseded, too": ("jobs/supersede", {"id < $2": "id <> $2"}),
    "a closed job is closed again": (
        "jobs/close",
        {"AND phase = ANY($6::text[])": "AND cardinality($6::text[]) > 0"},
    ),
    "a delayed task outlives its job": (
        "tasks/sweep",
        {"WHERE p.task_id = task.id": "WHERE p.task_id = task.id AND false"},
    ),
    "an older scan becomes the base": (
        "jobs/close_saved",
        {"projects.base_job_id < scan.job_id": "projects.base_job_id <> scan.job_id"},
    ),
    "attempts that start at once may use the tokens of one another": (
        "attempts/start",
        {"l.token_hash = asked.token_hash": "l.token_hash = ANY($3::bytea[])"},
    ),
    "a job is said to wait for a later one": ("why/ahead", {"j.id < $2": "j.id <> $2"}),
    "a paused worker is said to have free slots": (
        "why/fit",
        {"w.directive = 'pause'": "w.directive = 'paused'"},
    ),
    "a task is said to be where its age alone would put it": (
        "why/positions",
        {
            "PARTITION BY last.class_id ORDER BY ahead.sort_key, ahead.task_id": (
                "PARTITION BY last.class_id ORDER BY ahead.task_id"
            )
        },
    ),
    "a silent worker is said to be at it": (
        "why/tasks",
        {"coalesce(b.seen_at, now()) AS seen_at": "now() AS seen_at"},
    ),
}

#: What few examples come upon.
RARE = frozenset(
    {
        "a running attempt is taken for an offer that was not started",
        "an older scan becomes the base",
        "a paused worker is said to have free slots",
        "a task is said to be where its age alone would put it",
    }
)
#: The same, for what goes wrong only when two calls come at once.
MISTAKES_AT_ONCE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "a create looks before the one under way is done": (
        "jobs/lock_project",
        {"FOR NO KEY UPDATE OF p": ""},
    ),
}


def mistaken(name: str, changes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the statement and its mistaken form."""
    wrong = query(name)
    for right, changed in changes.items():
        assert right in wrong, f"{name}.sql reads differently now: {right!r} is not in it"
        wrong = wrong.replace(right, changed)
    return {query(name): wrong}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mistake",
    [pytest.param(name, marks=pytest.mark.long if name in RARE else ()) for name in MISTAKES],
)
def test_the_machine_finds_that(mistake: str, postgres: Postgres, template: str) -> None:
    with (
        session(postgres, template, mistaken(*MISTAKES[mistake])) as its,
        pytest.raises(Mismatch),
    ):
        run_state_machine_as_test(machine_on(its), settings=settings(SEARCH))


@pytest.mark.parametrize("mistake", MISTAKES_AT_ONCE)
def test_the_machine_of_races_finds_that(mistake: str, postgres: Postgres, template: str) -> None:
    with (
        session(postgres, template, mistaken(*MISTAKES_AT_ONCE[mistake])) as its,
        pytest.raises(Mismatch),
    ):
        run_state_machine_as_test(race_machine_on(its), settings=settings(SEARCH))
