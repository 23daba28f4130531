"""The tables of transitions are what the statements do: read out of their text, pair by pair."""

from __future__ import annotations

import re
from itertools import product

import pytest

from core.domain.states import (
    FIRST_PLACES,
    MOVES,
    STATE_OF_PHASE,
    TABLE_OF_PLACE,
    TRANSITIONS,
    JobPhase,
    TaskPlace,
)
from core.store.pool import Database
from core.store.queries import all_queries
from core.store.store import Store
from tests.store.history import NOON, add_job

_CHANGE = re.compile(
    r"\bUPDATE jobs\b(?: AS \w+)?\s+SET\b(?P<set>.*?)(?P<guard>\b(?:FROM|WHERE)\b.*?)"
    r"(?=\bRETURNING\b|\bINSERT\b|\bUPDATE\b|\Z)",
    re.DOTALL,
)
_GUARD = re.compile(
    r"\bphase (?:= '(?P<one>\w+)'|IN \((?P<some>[^)]*)\)|<> '(?P<other>\w+)'|= ANY\(\$(?P<any>\d))"
)
_QUEUE = "|".join(sorted(set(TABLE_OF_PLACE.values())))
_TAKEN = re.compile(rf"\bDELETE FROM ({_QUEUE})\b")
_PUT = re.compile(rf"\bINSERT INTO ({_QUEUE})\b")


def guarded(guard: str) -> set[JobPhase]:
    """Return the phases in which a guard lets a job be changed; none where there is no guard."""
    found = _GUARD.search(guard)
    if found is None:
        return set()
    if found["one"]:
        return {JobPhase(found["one"])}
    if found["some"]:
        return {JobPhase(name) for name in re.findall(r"'(\w+)'", found["some"])}
    # A parameter names open phases: see `core.store.jobs.close`.
    excluded = JobPhase(found["other"]) if found["other"] else JobPhase.CLOSED
    return set(JobPhase) - {excluded}


def changes_of_phase() -> dict[str, set[tuple[JobPhase, JobPhase]]]:
    """Return what each statement does to the phase of jobs: from, to."""
    found: dict[str, set[tuple[JobPhase, JobPhase]]] = {}
    for name, sql in all_queries().items():
        for change in _CHANGE.finditer(sql):
            to = re.search(r"\bphase = '(\w+)'", change["set"])
            if to is None:
                continue
            before = guarded(change["guard"])
            assert before, f"{name}.sql changes the phase of jobs in any phase"
            found.setdefault(name, set()).update((one, JobPhase(to[1])) for one in before)
    return found


def test_the_statements_make_the_transitions_of_the_table_and_no_others() -> None:
    made = {
        (before, after)
        for changes in changes_of_phase().values()
        for before, after in changes
        if before is not after
    }

    assert made == {(before, after) for before in TRANSITIONS for after in TRANSITIONS[before]}


def test_every_change_of_jobs_is_read() -> None:
    for name, sql in all_queries().items():
        changes = re.findall(r"\bUPDATE jobs\b", sql)
        assert len(changes) == len(_CHANGE.findall(sql)), f"{name}.sql is read in part"


def test_the_statements_move_tasks_as_the_table_says_and_not_otherwise() -> None:
    allowed = {
        (TABLE_OF_PLACE[before], TABLE_OF_PLACE[after])
        for before, following in MOVES.items()
        for after in following
    }
    first = {TABLE_OF_PLACE[place] for place in FIRST_PLACES}
    made = set()
    for name, sql in all_queries().items():
        taken, put = set(_TAKEN.findall(sql)), set(_PUT.findall(sql))
        if not taken:
            assert put <= first, f"{name}.sql writes new tasks to {put}"
        made |= set(product(taken, put))

    # Within its table a task moves by an update: a lease is started.
    assert made == {(before, after) for before, after in allowed if before != after}


def test_every_place_can_be_reached_and_all_but_the_last_be_left() -> None:
    for table in (TRANSITIONS, MOVES):
        reached = {after for following in table.values() for after in following}
        first = {JobPhase.WAITING} if table is TRANSITIONS else FIRST_PLACES
        assert reached | first == set(table)
    assert [phase for phase in JobPhase if not TRANSITIONS[phase]] == [JobPhase.CLOSED]
    assert [place for place in TaskPlace if not MOVES[place]] == [TaskPlace.CLOSED]


@pytest.mark.parametrize("phase", JobPhase)
async def test_the_state_of_the_database_is_the_state_of_the_table(
    db: Database, store: Store, project_id: int, phase: JobPhase
) -> None:
    is_closed = phase is JobPhase.CLOSED
    has_started = phase in {JobPhase.RUNNING, JobPhase.SAVING, JobPhase.CLOSED}
    is_resolving = phase is JobPhase.RESOLVING
    job = await add_job(
        db,
        project_id,
        phase=phase.value,
        prepare_task_id=1,
        started_at=NOON if has_started else None,
        saving_at=NOON if phase is JobPhase.SAVING else None,
        ended_at=NOON if is_closed else None,
        result_code=0 if is_closed else None,
        result_msg="" if is_closed else None,
        admission_token="00000000-0000-0000-0000-000000000001" if is_resolving else None,
        admission_expires_at=NOON if is_resolving else None,
    )

    assert await db.fetchval("SELECT state FROM jobs WHERE id = $1", job) == STATE_OF_PHASE[phase]


async def test_a_phase_that_is_none_is_refused(db: Database, project_id: int) -> None:
    with pytest.raises(Exception, match="job_phase_is_known"):
        await add_job(db, project_id, phase="dancing")
