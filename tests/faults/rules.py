"""What must hold in every history, whatever went wrong: pure functions, one a rule.

A rule yields a violation with its evidence. It decides by what was written down only: by the
engine's own processes, by the daemons' logs, by the clients, by the database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from core.domain.outcomes import RETRYABLE
from tests.faults.history import Attempt, Call, Event, History, Job, Line, Outcome

#: Reasons after which a task may be tried again: its attempt was accepted and decides nothing.
_AGAIN = frozenset(reason.value for reason in RETRYABLE)
_ENDINGS = frozenset({"task.closed", "task.requeued", "task.retried"})
_HOLDING = frozenset({"job.resolved", "job.planned", "job.started"})
_OVER = frozenset({"job.closed", "job.superseded", "job.cancelled", "job.expired"})
_ANSWERED = frozenset({200, 201, 202})

Key = TypeVar("Key")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold, and what shows it."""

    rule: str
    text: str
    evidence: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold."""

    name: str
    #: What holds, for people.
    sentence: str
    check: Callable[[History], Iterator[Violation]]


def check(history: History) -> list[Violation]:
    """Return everything in *history* that must not be."""
    return [violation for rule in RULES for violation in rule.check(history)]


# --- jobs -----------------------------------------------------------------------------------------


def _accepted_jobs_close(history: History) -> Iterator[Violation]:
    events = _grouped(history.events, lambda event: event.job_id)
    for job in history.jobs:
        evidence = (job, *events[job.id])
        if job.phase != "closed" or job.result_code is None:
            yield Violation("accepted_jobs_close", f"job {job.id} is not closed", evidence)
        elif job.open_tasks:
            yield Violation("accepted_jobs_close", f"job {job.id} has open tasks", evidence)
        ends = [event for event in events[job.id] if event.kind in _OVER]
        if len(ends) > 1:
            yield Violation("accepted_jobs_close", f"job {job.id} closed more than once", evidence)


def _nothing_answered_is_gone(history: History) -> Iterator[Violation]:
    name = "nothing_answered_is_gone"
    jobs = {job.id: job for job in history.jobs}
    attempts = {attempt.attempt_id: attempt for attempt in history.attempts}
    for call in history.calls:
        yield from _kept(call, jobs)
    for line in history.lines:
        if line.event == "job.created" and line.fields["job_id"] not in jobs:
            yield Violation(name, f"job {line.fields['job_id']} is gone", (line,))
        if line.event == "result.accepted":
            attempt = attempts.get(line.fields["attempt_id"])
            if attempt is None:
                text = f"the accepted result of attempt {line.fields['attempt_id']} is gone"
                yield Violation(name, text, (line,))
            elif (attempt.outcome, attempt.reason) != _said(line):
                text = f"attempt {attempt.attempt_id} did not end as its accepted result says"
                yield Violation(name, text, (line, attempt))


def _kept(call: Call, jobs: Mapping[int, Job]) -> Iterator[Violation]:
    """Compare a promise with what came of it."""
    name = "nothing_answered_is_gone"
    if call.status not in _ANSWERED or call.job_id is None:
        return
    job = jobs.get(call.job_id)
    if job is None:
        yield Violation(name, f"job {call.job_id} was answered and is gone", (call,))
        return
    if call.call == "create" and job.created_from != call.key:
        yield Violation(name, f"job {job.id} is not the one that was asked for", (call, job))
    if call.call == "create" and job.is_forced != call.is_forced:
        yield Violation(name, f"job {job.id} is not as it was asked for", (call, job))
    if call.result_code is not None and call.result_code != job.result_code:
        text = f"job {job.id} was answered as closed with {call.result_code}"
        yield Violation(name, text, (call, job))


def _cancelled_jobs_stay_closed(history: History) -> Iterator[Violation]:
    events = _grouped(history.events, lambda event: event.job_id)
    for job in history.jobs:
        seen = events[job.id]
        ended = next((event for event in seen if event.kind in _OVER), None)
        if ended is None:
            continue
        later = [event for event in seen if event.id > ended.id and event.kind in _HOLDING]
        if later:
            text = f"job {job.id} went on after it was closed"
            yield Violation("closed_jobs_stay_closed", text, (job, ended, *later))


def _created_once(history: History) -> Iterator[Violation]:
    for key, jobs in _grouped(history.jobs, lambda job: job.created_from).items():
        if len(jobs) > 1:
            text = f"the create {key} made {len(jobs)} jobs"
            yield Violation("a_create_makes_one_job", text, tuple(jobs))
    answers = [call for call in history.calls if call.call == "create" and call.job_id is not None]
    for key, calls in _grouped(answers, lambda call: call.key).items():
        if len({call.job_id for call in calls}) > 1:
            text = f"the create {key} was answered with different jobs"
            yield Violation("a_create_makes_one_job", text, tuple(calls))


def _unforced_jobs_never_overlap(history: History) -> Iterator[Violation]:
    unforced = {job.id for job in history.jobs if not job.is_forced}
    holder: dict[int, Event] = {}
    project_of = {job.id: job.project_id for job in history.jobs}
    for event in sorted(history.events, key=lambda event: event.id):
        if event.job_id not in unforced:
            continue
        project = project_of[event.job_id]
        held = holder.get(project)
        if event.kind in _OVER and held is not None and held.job_id == event.job_id:
            del holder[project]
        elif event.kind in _HOLDING and held is None:
            holder[project] = event
        elif event.kind in _HOLDING and held is not None and held.job_id != event.job_id:
            text = f"jobs {held.job_id} and {event.job_id} of project {project} overlap"
            yield Violation("unforced_jobs_never_overlap", text, (held, event))


# --- tasks ----------------------------------------------------------------------------------------


def _one_result_a_task(history: History) -> Iterator[Violation]:
    name = "a_task_has_one_result"
    outcomes = _grouped(history.outcomes, lambda outcome: outcome.task_id)
    events = _grouped(history.events, lambda event: event.task_id)
    for task in history.tasks:
        closing = [event for event in events[task.id] if event.kind == "task.closed"]
        evidence = (task, *outcomes[task.id], *events[task.id])
        if len(outcomes[task.id]) != 1:
            yield Violation(name, f"task {task.id} has {len(outcomes[task.id])} results", evidence)
        if len(closing) != 1:
            yield Violation(name, f"task {task.id} closed {len(closing)} times", evidence)
    for leftover in history.leftovers:
        yield Violation(name, f"task {leftover.task_id} is still in {leftover.place}", (leftover,))
    yield from _one_verdict_a_task(history)


def _one_verdict_a_task(history: History) -> Iterator[Violation]:
    """No two workers were told that their attempt of the same task counts."""
    task_of = {attempt.attempt_id: attempt.task_id for attempt in history.attempts}
    deciding = [line for line in _accepted(history) if line.fields.get("reason") not in _AGAIN]
    by_task = _grouped(deciding, lambda line: task_of.get(line.fields["attempt_id"]))
    for task_id, lines in by_task.items():
        if task_id is not None and len({line.fields["attempt_id"] for line in lines}) > 1:
            text = f"results of several attempts of task {task_id} were accepted"
            yield Violation("a_task_has_one_result", text, tuple(lines))


def _counts_agree(history: History) -> Iterator[Violation]:
    engine_tasks = Counter(task.job_id for task in history.tasks if task.kind == "engine")
    for job in history.jobs:
        if job.task_num != engine_tasks[job.id]:
            text = f"job {job.id} counts {job.task_num} tasks and has {engine_tasks[job.id]}"
            yield Violation("jobs_count_their_tasks", text, (job,))


def _one_attempt_at_a_time(history: History) -> Iterator[Violation]:
    name = "one_attempt_at_a_time"
    running: dict[int, int] = {}
    replaced: set[tuple[int, int]] = set()
    for line in history.engine:
        before = running.get(line.task)
        if line.kind == "overlap":
            text = f"attempt {line.attempt} of task {line.task} began while another one lived"
            yield Violation(name, text, tuple(_of_task(history, line.task)))
        elif line.kind == "start":
            if before is not None and before != line.attempt:
                replaced.add((line.task, before))  # killed before it could write its end
            if (line.task, line.attempt) in replaced or before == line.attempt:
                text = f"attempt {line.attempt} of task {line.task} began twice"
                yield Violation(name, text, tuple(_of_task(history, line.task)))
            running[line.task] = line.attempt
        elif (line.task, line.attempt) in replaced:
            text = f"attempt {line.attempt} of task {line.task} went on beside a later one"
            yield Violation(name, text, tuple(_of_task(history, line.task)))


def _of_task(history: History, task_id: int) -> Iterator[object]:
    yield from (line for line in history.engine if line.task == task_id)
    yield from (attempt for attempt in history.attempts if attempt.task_id == task_id)


def _ended_leases_count_for_nothing(history: History) -> Iterator[Violation]:
    name = "ended_leases_count_for_nothing"
    attempts = {attempt.attempt_id: attempt for attempt in history.attempts}
    for outcome in history.outcomes:
        if outcome.attempt_id is not None:
            yield from _deserved(outcome, attempts.get(outcome.attempt_id))
    endings = [event for event in history.events if event.kind in _ENDINGS]
    by_attempt = _grouped(endings, lambda event: event.attempt_id)
    for attempt_id, events in by_attempt.items():
        if attempt_id is not None and len(events) > 1:
            text = f"attempt {attempt_id} ended {len(events)} times"
            yield Violation(name, text, (*events, attempts.get(attempt_id)))
    for line in _accepted(history):
        attempt = attempts.get(line.fields["attempt_id"])
        if attempt is not None and attempt.reason == "worker_lost":
            text = f"a result of attempt {attempt.attempt_id} was accepted after its lease was lost"
            yield Violation(name, text, (line, attempt))
    for task_id, tried in _grouped(history.attempts, lambda one: one.task_id).items():
        last = max(tried, key=lambda one: one.attempt_id)
        early = [one for one in tried if one.outcome == "succeeded" and one is not last]
        if early:
            yield Violation(name, f"task {task_id} went on after a success", tuple(tried))


def _deserved(outcome: Outcome, attempt: Attempt | None) -> Iterator[Violation]:
    name = "ended_leases_count_for_nothing"
    if attempt is None or attempt.task_id != outcome.task_id:
        text = f"the result of task {outcome.task_id} is of an attempt that is not its own"
        yield Violation(name, text, (outcome, attempt))
    elif (attempt.outcome, attempt.reason) != (outcome.outcome, outcome.reason):
        text = f"task {outcome.task_id} did not end as its accepted attempt did"
        yield Violation(name, text, (outcome, attempt))


def _findings_are_of_the_accepted_attempt(history: History) -> Iterator[Violation]:
    name = "findings_are_of_the_accepted_attempt"
    outcomes = {outcome.task_id: outcome for outcome in history.outcomes}
    jobs = {job.id: job for job in history.jobs}
    found = _grouped(history.findings, lambda finding: finding.task_id)
    for task in history.tasks:
        outcome = outcomes.get(task.id)
        if task.kind != "engine" or outcome is None:
            continue
        job = jobs.get(task.job_id)
        is_saved = job is not None and job.result_code == 0
        wanted = [str(outcome.attempt_id)] if is_saved and outcome.outcome == "succeeded" else []
        made_by = [finding.message for finding in found[task.id]]
        if made_by != wanted:
            text = f"findings of task {task.id} are of attempts {made_by}, not of {wanted}"
            yield Violation(name, text, (task, outcome, job, *found[task.id]))


# --- processes ------------------------------------------------------------------------------------


def _nobody_falls(history: History) -> Iterator[Violation]:
    for life in history.lives:
        if life.event in {"fell", "stop_refused"}:
            text = f"{life.process} ended by itself, with status {life.status}"
            if life.event == "stop_refused":
                text = f"{life.process} did not end when it was told to"
            log = f"{life.process}.{life.life:04}"
            last = [line for line in history.lines if line.process == log][-5:]
            yield Violation("no_process_ends_by_itself", text, (life, *last))


def _requests_meet_no_defect(history: History) -> Iterator[Violation]:
    for call in history.calls:
        if call.status not in _ANSWERED:
            text = f"a {call.call} was answered with {call.status}"
            yield Violation("requests_meet_no_defect", text, (call,))


# --- small things ---------------------------------------------------------------------------------


def _accepted(history: History) -> Iterator[Line]:
    return (line for line in history.lines if line.event == "result.accepted")


def _said(line: Line) -> tuple[object, object]:
    return line.fields.get("outcome"), line.fields.get("reason")


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Mapping[Key, Sequence[Item]]:
    found: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


RULES = (
    Rule("accepted_jobs_close", "every accepted job closes, once", _accepted_jobs_close),
    Rule(
        "a_task_has_one_result",
        "every task has exactly one accepted result, and nothing of it is left",
        _one_result_a_task,
    ),
    Rule(
        "one_attempt_at_a_time",
        "no two attempts of a task run at the same time, as their own processes see it",
        _one_attempt_at_a_time,
    ),
    Rule(
        "ended_leases_count_for_nothing",
        "no result of a lost lease is accepted, and an attempt ends once",
        _ended_leases_count_for_nothing,
    ),
    Rule(
        "nothing_answered_is_gone",
        "what was answered 2xx is there, and as it was answered",
        _nothing_answered_is_gone,
    ),
    Rule(
        "a_create_makes_one_job",
        "a create that is repeated makes one job and gets one answer",
        _created_once,
    ),
    Rule(
        "unforced_jobs_never_overlap",
        "unforced jobs of a project never overlap",
        _unforced_jobs_never_overlap,
    ),
    Rule("closed_jobs_stay_closed", "a closed job never goes on", _cancelled_jobs_stay_closed),
    Rule("jobs_count_their_tasks", "a job's count of tasks is right", _counts_agree),
    Rule(
        "findings_are_of_the_accepted_attempt",
        "what is stored comes from the accepted attempt, once",
        _findings_are_of_the_accepted_attempt,
    ),
    Rule(
        "no_process_ends_by_itself",
        "no process ends but by a fault or an order, and each obeys the order",
        _nobody_falls,
    ),
    Rule(
        "requests_meet_no_defect",
        "a good request is answered well, or asked to come again",
        _requests_meet_no_defect,
    ),
)
