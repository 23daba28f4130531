"""The judge is judged: every rule accepts a good history and catches a bad one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from tests.faults.history import (
    Attempt,
    Call,
    EngineLine,
    Event,
    Finding,
    History,
    Job,
    Leftover,
    Life,
    Line,
    Outcome,
    Task,
)
from tests.faults.rules import RULES, check

Row = TypeVar("Row")
Forge = Callable[[History], History]


def good() -> History:
    """Return the history of two jobs of one project.

    Job 1 had a worker that was lost (attempt 11) and one that took over (12); job 2 waited for it,
    was tried again after a disk was full (21, 22) and cancelled while attempt 22 ran.
    """
    return History(
        jobs=[
            Job(
                1,
                7,
                "closed",
                is_forced=False,
                created_from="a",
                result_code=0,
                task_num=1,
                open_tasks=0,
            ),
            Job(
                2,
                7,
                "closed",
                is_forced=False,
                created_from="b",
                result_code=301,
                task_num=1,
                open_tasks=0,
            ),
        ],
        tasks=[
            Task(1, 1, "prepare"),
            Task(2, 1, "engine"),
            Task(3, 2, "prepare"),
            Task(4, 2, "engine"),
        ],
        outcomes=[
            Outcome(1, 1, "succeeded", None, 0, 10),
            Outcome(2, 1, "succeeded", None, 0, 12),
            Outcome(3, 2, "succeeded", None, 0, 20),
            Outcome(4, 2, "cancelled", "cancelled", 301, None),
        ],
        attempts=[
            Attempt(1, 10, 1, 1, "succeeded", None),
            Attempt(2, 11, 1, 1, "lost", "worker_lost"),
            Attempt(2, 12, 2, 2, "succeeded", None),
            Attempt(3, 20, 2, 1, "succeeded", None),
            Attempt(4, 21, 2, 1, "failed", "worker_error"),
            Attempt(4, 22, 1, 2, "cancelled", "cancelled"),
        ],
        events=[
            Event(1, "job.created", 7, 1, None, None),
            Event(2, "job.created", 7, 2, None, None),
            Event(3, "job.resolved", 7, 1, None, None),
            Event(4, "task.closed", None, 1, 1, 10),
            Event(5, "job.planned", 7, 1, None, None),
            Event(6, "job.started", 7, 1, None, None),
            Event(7, "task.requeued", None, 1, 2, 11),
            Event(8, "task.closed", None, 1, 2, 12),
            Event(9, "job.closed", 7, 1, None, None),
            Event(10, "job.resolved", 7, 2, None, None),
            Event(11, "task.closed", None, 2, 3, 20),
            Event(12, "job.planned", 7, 2, None, None),
            Event(13, "job.started", 7, 2, None, None),
            Event(14, "task.retried", None, 2, 4, 21),
            Event(15, "job.cancelled", 7, 2, None, None),
            Event(16, "task.closed", None, 2, 4, None),
        ],
        findings=[Finding(1, 2, "12")],
        engine=[
            EngineLine("start", 2, 11),
            EngineLine("start", 2, 12),  # 11 was killed: it wrote no end
            EngineLine("end", 2, 12),
            EngineLine("start", 4, 21),
            EngineLine("end", 4, 21),
            EngineLine("start", 4, 22),
        ],
        calls=[
            Call("create", "a", 200, job_id=1),
            Call("create", "a", 200, job_id=1),
            Call("look", "a", 200, job_id=1, result_code=0),
            Call("create", "b", 202, job_id=2),
            Call("cancel", "b", 200, job_id=2),
        ],
        lines=[
            Line("api-1.0001", "job.created", {"job_id": 1}),
            accepted("worker-1.0001", 10),
            accepted("worker-2.0001", 12),
            accepted("worker-2.0001", 20),
            accepted("worker-2.0001", 21, "failed", "worker_error"),
            Line("api-1.0001", "", {"text": "the line of a killed pro"}),
        ],
        lives=[
            Life("worker-1", 1, "started"),
            Life("worker-1", 1, "killed"),
            Life("worker-1", 1, "ended", -9),
            Life("worker-1", 2, "started"),
        ],
    )


def accepted(
    process: str, attempt_id: int, outcome: str = "succeeded", reason: str | None = None
) -> Line:
    fields = {"attempt_id": attempt_id, "outcome": outcome, "reason": reason}
    return Line(process, "result.accepted", fields)


def more(name: str, *rows: object) -> Forge:
    """Forge a history with *rows* at the end of one of its parts."""
    return lambda history: replace(history, **{name: [*getattr(history, name), *rows]})


def without(name: str, is_gone: Callable[[Any], bool]) -> Forge:
    """Forge a history without some rows."""
    return lambda history: replace(
        history, **{name: [row for row in getattr(history, name) if not is_gone(row)]}
    )


def changed(name: str, number: int, **values: object) -> Forge:
    """Forge a history whose row of that number has other values."""

    def forge(history: History) -> History:
        rows = list(getattr(history, name))
        rows[number] = replace(rows[number], **values)
        return replace(history, **{name: rows})

    return forge


def reordered(name: str, *numbers: int) -> Forge:
    """Forge a history whose rows come in another order."""
    return lambda history: replace(
        history, **{name: [getattr(history, name)[number] for number in numbers]}
    )


#: rule, what is forged, how
FORGERIES: list[tuple[str, str, Forge]] = [
    ("accepted_jobs_close", "a job stays open", changed("jobs", 1, phase="running", result_code=None)),
    ("accepted_jobs_close", "a task is not counted down", changed("jobs", 0, open_tasks=1)),
    ("accepted_jobs_close", "a job closes twice", more("events", Event(17, "job.superseded", 7, 1, None, None))),
    ("a_task_has_one_result", "no result", without("outcomes", lambda row: row.task_id == 4)),
    ("a_task_has_one_result", "two results", more("outcomes", Outcome(2, 1, "succeeded", None, 0, 12))),
    ("a_task_has_one_result", "closed twice", more("events", Event(17, "task.closed", None, 1, 2, None))),
    ("a_task_has_one_result", "still in the queue", more("leftovers", Leftover(2, "ready"))),
    (
        "a_task_has_one_result",
        "two workers were told that theirs counts",
        more("lines", accepted("worker-1.0001", 11)),
    ),
    (
        "a_task_has_one_result",
        "a failure that is not tried again beside a success",
        more("lines", accepted("worker-1.0001", 11, "failed", "engine_failed")),
    ),
    ("one_attempt_at_a_time", "a lock was taken", changed("engine", 1, kind="overlap")),
    (
        "one_attempt_at_a_time",
        "the first went on when the second ran",
        more("engine", EngineLine("end", 2, 11)),
    ),
    (
        "one_attempt_at_a_time",
        "an attempt was begun again",
        more("engine", EngineLine("start", 4, 22)),
    ),
    (
        "ended_leases_count_for_nothing",
        "the lost attempt's result counts",
        changed("outcomes", 1, attempt_id=11),
    ),
    (
        "ended_leases_count_for_nothing",
        "another task's attempt counts",
        changed("outcomes", 1, attempt_id=20),
    ),
    (
        "ended_leases_count_for_nothing",
        "the lost attempt was accepted later",
        more("lines", accepted("worker-1.0001", 11, "lost", "worker_lost")),
    ),
    (
        "ended_leases_count_for_nothing",
        "the lost attempt ended again",
        more("events", Event(17, "task.retried", None, 1, 2, 11)),
    ),
    (
        "ended_leases_count_for_nothing",
        "a task went on after a success",
        more("attempts", Attempt(2, 13, 1, 3, "failed", "worker_error")),
    ),
    ("nothing_answered_is_gone", "a job is gone", without("jobs", lambda row: row.id == 1)),
    (
        "nothing_answered_is_gone",
        "a job that an api wrote down is gone",
        more("lines", Line("api-2.0001", "job.created", {"job_id": 3})),
    ),
    ("nothing_answered_is_gone", "another job was answered", changed("calls", 0, job_id=2)),
    ("nothing_answered_is_gone", "a closed job has another code", changed("calls", 2, result_code=1)),
    ("nothing_answered_is_gone", "not forced as asked", changed("calls", 3, is_forced=True)),
    (
        "nothing_answered_is_gone",
        "an accepted result is gone",
        without("attempts", lambda row: row.attempt_id == 21),
    ),
    (
        "nothing_answered_is_gone",
        "an accepted result is another one",
        changed("attempts", 4, reason="handed_back"),
    ),
    (
        "a_create_makes_one_job",
        "a repeated create made two jobs",
        changed("jobs", 1, created_from="a"),
    ),
    ("a_create_makes_one_job", "two answers to one create", changed("calls", 1, job_id=2)),
    (
        "unforced_jobs_never_overlap",
        "the second began before the first was closed",
        changed("events", 9, id=8),
    ),
    (
        "closed_jobs_stay_closed",
        "a cancelled job was started",
        more("events", Event(17, "job.started", 7, 2, None, None)),
    ),
    ("jobs_count_their_tasks", "a task is missing", changed("jobs", 0, task_num=2)),
    (
        "findings_are_of_the_accepted_attempt",
        "stored from the lost attempt",
        changed("findings", 0, message="11"),
    ),
    ("findings_are_of_the_accepted_attempt", "stored twice", more("findings", Finding(1, 2, "12"))),
    ("findings_are_of_the_accepted_attempt", "not stored", without("findings", bool)),
    (
        "findings_are_of_the_accepted_attempt",
        "stored of a cancelled job",
        more("findings", Finding(2, 4, "22")),
    ),
    ("no_process_ends_by_itself", "a process fell", changed("lives", 2, event="fell", status=70)),
    ("no_process_ends_by_itself", "an order was not obeyed", changed("lives", 1, event="stop_refused")),
    ("requests_meet_no_defect", "a defect", changed("calls", 2, status=500)),
    ("requests_meet_no_defect", "a good request is refused", changed("calls", 3, status=400)),
]  # fmt: skip


def test_a_good_history_is_accepted() -> None:
    assert check(good()) == []


@pytest.mark.parametrize(
    ("rule", "forge"),
    [pytest.param(rule, forge, id=f"{rule}: {what}") for rule, what, forge in FORGERIES],
)
def test_a_forged_history_is_caught_by_its_rule(rule: str, forge: Forge) -> None:
    found = {violation.rule: violation for violation in check(forge(good()))}

    assert rule in found
    assert found[rule].evidence


def test_every_rule_has_a_forgery_that_it_catches() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in FORGERIES}
