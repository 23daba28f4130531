"""Why a job or task is not closed yet: a closed set of causes, each with its facts and its words.

A cause is a value. What is true of a job is found out by `core.store.why`; here is which causes
there are, which of several tasks' causes is their job's, and how each is told. Words hold spans,
never times of day, so that they need no time zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, TypeAlias, assert_never


class WaitReason(StrEnum):
    """Why a job or task is where it is: the word for machines. Of a job the first it meets."""

    # of a job
    DEADLINE_PASSED = "deadline_passed"
    JOB_AHEAD = "job_ahead"
    ADMISSION_DUE = "admission_due"
    RESOLVING = "resolving"
    PLANNING_DUE = "planning_due"
    SETTLING_DUE = "settling_due"
    SAVING = "saving"
    # of a task; of a job, that of its task that is furthest from its end
    NO_WORKER_FITS = "no_worker_fits"
    WORKERS_UNAVAILABLE = "workers_unavailable"
    LIMIT_ORGANIZATION = "limit_organization"
    LIMIT_PROJECT = "limit_project"
    LIMIT_ENGINE = "limit_engine"
    RETRY_DELAYED = "retry_delayed"
    SLOTS_BUSY = "slots_busy"
    CLAIM_DUE = "claim_due"
    OFFERED = "offered"
    WORKER_SILENT = "worker_silent"
    RUNNING = "running"
    # of both
    CLOSED = "closed"


#: What each reason means, for the documents.
MEANINGS: Mapping[WaitReason, str] = {
    WaitReason.DEADLINE_PASSED: "its deadline has passed; a scheduler is about to close it",
    WaitReason.JOB_AHEAD: "an earlier job of its project is open",
    WaitReason.ADMISSION_DUE: "nothing is ahead of it in its project; a scheduler is to admit it",
    WaitReason.RESOLVING: "a scheduler asks the repository for the revision",
    WaitReason.PLANNING_DUE: "its preparation has ended; a scheduler is to plan its engine tasks",
    WaitReason.SETTLING_DUE: "its tasks have closed; a scheduler is to settle it",
    WaitReason.SAVING: "its findings are being stored",
    WaitReason.NO_WORKER_FITS: "no worker there is fits its engine, version, tag or isolation",
    WaitReason.WORKERS_UNAVAILABLE: "workers fit, but every one of them is draining, paused, "
    "quarantined or lost",
    WaitReason.LIMIT_ORGANIZATION: "its organisation runs as many tasks as it may",
    WaitReason.LIMIT_PROJECT: "its project runs as many tasks as it may",
    WaitReason.LIMIT_ENGINE: "as many tasks of its engine run as may",
    WaitReason.RETRY_DELAYED: "an attempt failed; it is tried again after its back-off",
    WaitReason.SLOTS_BUSY: "the slots of the workers that fit are busy, or go to tasks before it",
    WaitReason.CLAIM_DUE: "a slot is free for it; a worker is to claim it",
    WaitReason.OFFERED: "a worker was offered it and has not started it yet",
    WaitReason.WORKER_SILENT: "its worker is silent; its lease is running out",
    WaitReason.RUNNING: "a worker is at it",
    WaitReason.CLOSED: "it is over",
}


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """It waited or ran for longer than it may."""

    reason: ClassVar[WaitReason] = WaitReason.DEADLINE_PASSED
    since: datetime


@dataclass(frozen=True, slots=True)
class JobAhead:
    """Unforced jobs of a project start one after another."""

    reason: ClassVar[WaitReason] = WaitReason.JOB_AHEAD
    #: The oldest open one.
    job_id: int
    scan_id: int
    #: Open ones before it, at most `MOST_COUNTED` + 1.
    jobs_ahead: int


@dataclass(frozen=True, slots=True)
class AdmissionDue:
    """Nothing of its project holds it up."""

    reason: ClassVar[WaitReason] = WaitReason.ADMISSION_DUE
    #: Jobs whose revision is being resolved: schedulers resolve a bounded number side by side.
    resolving: int


@dataclass(frozen=True, slots=True)
class Resolving:
    """It is admitted."""

    reason: ClassVar[WaitReason] = WaitReason.RESOLVING
    #: Name of the scheduler; "" when it gave none.
    scheduler: str
    since: datetime | None
    #: Then another scheduler takes over.
    until: datetime


@dataclass(frozen=True, slots=True)
class PlanningDue:
    """Its preparation has ended."""

    reason: ClassVar[WaitReason] = WaitReason.PLANNING_DUE
    since: datetime


@dataclass(frozen=True, slots=True)
class SettlingDue:
    """Its tasks have closed."""

    reason: ClassVar[WaitReason] = WaitReason.SETTLING_DUE
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Saving:
    """It will close with success."""

    reason: ClassVar[WaitReason] = WaitReason.SAVING
    since: datetime


@dataclass(frozen=True, slots=True)
class Miss:
    """Workers that come near: what each of them lacks, and how many they are."""

    #: What they lack: some of `engine`, `version`, `tag`, `isolation`.
    lacks: tuple[str, ...]
    #: Version of the engine they offer; "" for none.
    version: str
    workers: int


@dataclass(frozen=True, slots=True)
class NoWorkerFits:
    """No live worker can run it, nor did any that is lost."""

    reason: ClassVar[WaitReason] = WaitReason.NO_WORKER_FITS
    engine: str
    version_range: str
    tag: str
    isolation: str
    #: Live workers.
    workers: int
    #: Those that lack least, most workers first.
    nearest: tuple[Miss, ...]


@dataclass(frozen=True, slots=True)
class WorkersUnavailable:
    """Workers fit, and none takes tasks."""

    reason: ClassVar[WaitReason] = WaitReason.WORKERS_UNAVAILABLE
    draining: int
    paused: int
    quarantined: int
    lost: int


@dataclass(frozen=True, slots=True)
class LimitReached:
    """It would be ready but for a limit."""

    reason: WaitReason
    #: Tasks that may be queued or run at the same time, and those that are; None: not known.
    limit: int | None
    used: int | None


@dataclass(frozen=True, slots=True)
class RetryDelayed:
    """Its last attempt failed for a reason that passes."""

    reason: ClassVar[WaitReason] = WaitReason.RETRY_DELAYED
    #: Attempts that failed, and workers that were lost, so far.
    failures: int
    resets: int
    until: datetime


@dataclass(frozen=True, slots=True)
class SlotsBusy:
    """It is in the queue."""

    reason: ClassVar[WaitReason] = WaitReason.SLOTS_BUSY
    #: Of the workers that fit and take tasks.
    slots: int
    free: int
    #: In the queue of these workers, from 1; `MOST_COUNTED` + 1: beyond what is counted.
    position: int


@dataclass(frozen=True, slots=True)
class ClaimDue:
    """It is in the queue, with no more before it than there are free slots."""

    reason: ClassVar[WaitReason] = WaitReason.CLAIM_DUE
    slots: int
    free: int
    position: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A claim was answered with it."""

    reason: ClassVar[WaitReason] = WaitReason.OFFERED
    worker_id: int
    worker: str
    since: datetime
    #: Not started by then, it returns to the queue.
    until: datetime


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """Its worker runs it by the books, and misses its heartbeats."""

    reason: ClassVar[WaitReason] = WaitReason.WORKER_SILENT
    worker_id: int
    worker: str
    since: datetime
    #: Not heard of by then, the worker loses it.
    until: datetime


@dataclass(frozen=True, slots=True)
class Running:
    """A worker is at it."""

    reason: ClassVar[WaitReason] = WaitReason.RUNNING
    worker_id: int
    worker: str
    since: datetime
    #: What it is doing there; None: not said yet.
    step: str | None
    files_done: int
    files_planned: int


@dataclass(frozen=True, slots=True)
class Closed:
    """It is over."""

    reason: ClassVar[WaitReason] = WaitReason.CLOSED
    result_code: int
    result_msg: str
    since: datetime


TaskCause: TypeAlias = (
    NoWorkerFits
    | WorkersUnavailable
    | LimitReached
    | RetryDelayed
    | SlotsBusy
    | ClaimDue
    | Offered
    | WorkerSilent
    | Running
    | Closed
)
JobCause: TypeAlias = (
    DeadlinePassed | JobAhead | AdmissionDue | Resolving | PlanningDue | SettlingDue | Saving
)
Cause: TypeAlias = TaskCause | JobCause

#: Counting stops here: "more than 10,000" is answer enough.
MOST_COUNTED = 10_000

#: From the furthest from its end to the nearest.
_FAR_TO_NEAR: Mapping[WaitReason, int] = {
    reason: place
    for place, reason in enumerate(
        (
            WaitReason.NO_WORKER_FITS,
            WaitReason.WORKERS_UNAVAILABLE,
            WaitReason.LIMIT_ORGANIZATION,
            WaitReason.LIMIT_PROJECT,
            WaitReason.LIMIT_ENGINE,
            WaitReason.RETRY_DELAYED,
            WaitReason.SLOTS_BUSY,
            WaitReason.CLAIM_DUE,
            WaitReason.OFFERED,
            WaitReason.WORKER_SILENT,
            WaitReason.RUNNING,
            WaitReason.CLOSED,
        )
    )
}


def furthest(causes: Sequence[TaskCause]) -> int | None:
    """Return which of *causes* holds a job up longest; None where every one is closed."""
    is_open = [place for place, cause in enumerate(causes) if not isinstance(cause, Closed)]
    return min(is_open, key=lambda place: _FAR_TO_NEAR[causes[place].reason], default=None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What history says of the time left; None where it says nothing."""

    starts_in_s: float | None
    ends_in_s: float | None
    #: Median run of earlier tasks of this engine and project, and how many they were.
    median_s: float
    samples: int


def estimate(cause: TaskCause, *, median_s: float, samples: int, at: datetime) -> Estimate | None:
    """Return when a task that waits for *cause* will start and end, as far as it can be told."""
    starts_in_s = 0.0
    match cause:
        case ClaimDue():
            pass
        case SlotsBusy(slots=slots, position=position) if position <= MOST_COUNTED:
            # Each slot frees itself once in a median; those before this task come first.
            starts_in_s = position / max(1, slots) * median_s
        case Running(since=since):
            left_s = median_s - (at - since).total_seconds()
            # Longer than usual: how much longer, history does not say.
            return Estimate(None, left_s, median_s, samples) if left_s > 0 else None
        case _:
            return None
    return Estimate(starts_in_s, starts_in_s + median_s, median_s, samples)


def text(cause: Cause, *, at: datetime) -> str:
    """Return what *cause* is, in words that go on after "it": one clause, numbers filled in.

    Args:
        cause: The cause.
        at: The moment it is told of.
    """
    match cause:
        case DeadlinePassed() | JobAhead() | AdmissionDue() | Resolving():
            return _before_tasks(cause, at)
        case PlanningDue() | SettlingDue() | Saving() | Closed():
            return _after_tasks(cause, at)
        case NoWorkerFits() | WorkersUnavailable():
            return _without_worker(cause)
        case LimitReached() | RetryDelayed():
            return _held_back(cause, at)
        case SlotsBusy() | ClaimDue():
            return _in_line(cause)
        case Offered() | WorkerSilent() | Running():
            return _on_worker(cause, at)
        case _:
            assert_never(cause)


def _after_tasks(cause: PlanningDue | SettlingDue | Saving | Closed, at: datetime) -> str:
    match cause:
        case PlanningDue():
            return "is about to get its engine tasks: its preparation has ended"
        case SettlingDue():
            return "is about to be settled: all its tasks are closed"
        case Saving():
            return f"is being saved: its findings have been stored for {_ago(cause.since, at)}"
        case Closed():
            said = f": {cause.result_msg}" if cause.result_msg else ""
            return f"is closed with {cause.result_code}{said}"
        case _:
            assert_never(cause)


def _without_worker(cause: NoWorkerFits | WorkersUnavailable) -> str:
    match cause:
        case NoWorkerFits():
            return _no_worker(cause)
        case WorkersUnavailable():
            return _unavailable(cause)
        case _:
            assert_never(cause)


def _held_back(cause: LimitReached | RetryDelayed, at: datetime) -> str:
    match cause:
        case LimitReached():
            return _limit(cause)
        case RetryDelayed():
            return _retry(cause, at)
        case _:
            assert_never(cause)


def _before_tasks(cause: DeadlinePassed | JobAhead | AdmissionDue | Resolving, at: datetime) -> str:
    match cause:
        case DeadlinePassed():
            return f"is about to be closed: its deadline passed {_ago(cause.since, at)} ago"
        case JobAhead():
            others = cause.jobs_ahead - 1
            more = f" and {_counted(others)} more" if others else ""
            return (
                f"waits for job {cause.job_id} (scan {cause.scan_id}){more}: "
                "jobs of a project start one after another"
            )
        case AdmissionDue():
            if not cause.resolving:
                return "is about to be admitted by a scheduler"
            are = "other job is" if cause.resolving == 1 else "other jobs are"
            return f"waits to be admitted: {_counted(cause.resolving)} {are} being resolved"
        case Resolving():
            who = f"scheduler {cause.scheduler}" if cause.scheduler else "a scheduler"
            spent = f" for {_ago(cause.since, at)}" if cause.since else ""
            return f"is being resolved: {who} has been asking the repository{spent}"
        case _:
            assert_never(cause)


def _no_worker(cause: NoWorkerFits) -> str:
    wanted = f"{cause.engine} {cause.version_range}".rstrip()
    terms = [f"the tag {cause.tag}"] if cause.tag else []
    terms += [f"isolation {cause.isolation}"] if cause.isolation != "group" else []
    told = f"waits: no worker offers {wanted}" + (f" with {' and '.join(terms)}" if terms else "")
    if not cause.workers:
        return f"{told}; there is no worker at all"
    return "; ".join([told, *(_miss(miss, cause) for miss in cause.nearest)])


def _miss(miss: Miss, cause: NoWorkerFits) -> str:
    who = "1 worker" if miss.workers == 1 else f"{miss.workers} workers"
    has = "has" if miss.workers == 1 else "have"
    words = {
        "engine": f"no {cause.engine}",
        "version": f"{cause.engine} {miss.version}",
        "tag": f"not the tag {cause.tag}",
        "isolation": "a weaker isolation",
    }
    return f"{who} {has} {' and '.join(words[what] for what in miss.lacks)}"


def _unavailable(cause: WorkersUnavailable) -> str:
    counts = {
        "draining": cause.draining,
        "paused": cause.paused,
        "quarantined": cause.quarantined,
        "lost": cause.lost,
    }
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return f"waits: no worker that fits takes tasks ({states})"


def _limit(cause: LimitReached) -> str:
    of_what = {
        WaitReason.LIMIT_ORGANIZATION: "its organisation",
        WaitReason.LIMIT_PROJECT: "its project",
    }.get(cause.reason, "its engine")
    told = f"waits: the limit of {of_what} is reached"
    if cause.limit is None or cause.used is None:
        return told
    return f"{told} ({cause.used} of {cause.limit} tasks)"


def _retry(cause: RetryDelayed, at: datetime) -> str:
    counts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in ((cause.failures, "failure"), (cause.resets, "lost worker"))
        if count
    ]
    after = f" after {' and '.join(counts)}" if counts else ""
    left = cause.until - at
    when = f"in {_span(left)}" if left > timedelta() else "at once"
    return f"is tried again {when}{after}"


def _in_line(cause: SlotsBusy | ClaimDue) -> str:
    slots = f"{cause.slots:,} fitting slot{'' if cause.slots == 1 else 's'}"
    match cause:
        case ClaimDue():
            return f"is about to be claimed: {cause.free:,} of {slots} free"
        case SlotsBusy():
            free = f"{cause.free:,} of {slots} free" if cause.free else f"all {slots} busy"
            return f"is in the queue at position {_counted(cause.position)}: {free}"
        case _:
            assert_never(cause)


def _on_worker(cause: Offered | WorkerSilent | Running, at: datetime) -> str:
    match cause:
        case Offered():
            left = _span(cause.until - at)
            return f"was offered to worker {cause.worker}, which is to start it within {left}"
        case WorkerSilent():
            left = _span(cause.until - at)
            return (
                f"waits for worker {cause.worker}, silent for {_ago(cause.since, at)}; "
                f"its lease ends in {left}"
            )
        case Running():
            files = ""
            if cause.files_planned:
                files = f", {cause.files_done:,} of {cause.files_planned:,} files done"
            step = f" ({cause.step})" if cause.step else ""
            spent = _ago(cause.since, at)
            return f"has been running on worker {cause.worker} for {spent}{step}{files}"
        case _:
            assert_never(cause)


def _counted(count: int) -> str:
    return f"{count:,}" if count <= MOST_COUNTED else f"more than {MOST_COUNTED:,}"


def _ago(moment: datetime, at: datetime) -> str:
    return _span(at - moment)


def _span(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
