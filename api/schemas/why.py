"""Why on the wire: the one reason of a job and of each of its tasks, with its facts."""

from __future__ import annotations

from typing_extensions import TypedDict

from core.domain.states import JobPhase, TaskKind
from core.domain.waiting import WaitReason


class WhyMiss(TypedDict):
    """Workers that come near, and what each of them lacks."""

    #: Some of `engine`, `version`, `tag`, `isolation`.
    lacks: list[str]
    #: Version of the engine they offer; empty: none.
    version: str
    workers: int


class WhyFacts(TypedDict, total=False):
    """The numbers and names of a reason; which there are depends on the reason."""

    # job_ahead
    job_id: int
    scan_id: int
    jobs_ahead: int
    # admission_due, resolving
    resolving: int
    scheduler: str
    # no_worker_fits
    engine: str
    version_range: str
    tag: str
    isolation: str
    workers: int
    nearest: list[WhyMiss]
    # workers_unavailable
    draining: int
    paused: int
    quarantined: int
    lost: int
    # limit_organization, limit_project, limit_engine
    limit: int | None
    used: int | None
    # retry_delayed
    failures: int
    resets: int
    # slots_busy, claim_due
    slots: int
    free: int
    #: 10001: further back than is counted.
    position: int
    # offered, worker_silent, running
    worker_id: int
    worker: str
    step: str | None
    files_done: int
    files_planned: int
    # closed
    result_code: int
    result_msg: str


class WhyEstimate(TypedDict):
    """What the project's earlier runs of the engine say, seconds."""

    #: Null: it runs.
    starts_in_s: float | None
    ends_in_s: float | None
    #: Median of the runs, and how many they were.
    median_s: float
    samples: int


class WhyCause(TypedDict):
    """A reason, and its words."""

    reason: WaitReason
    #: Goes on after "it".
    text: str
    since: str | None
    until: str | None
    facts: WhyFacts


class WhyTask(WhyCause):
    """Why a task is where it is."""

    id: int
    kind: TaskKind
    task_name: str
    #: Null: history says nothing.
    estimate: WhyEstimate | None


class JobWhy(WhyCause):
    """Why a job is where it is, and each of its tasks."""

    id: int
    scan_id: int
    phase: JobPhase
    #: The moment all this is of.
    as_of: str
    #: The task whose reason is the job's; null: it has one of its own.
    task_id: int | None
    #: Closed by then, whatever holds it up; null: closed, or being saved.
    expire_time: str | None
    #: Until its tasks have ended; null: history does not say.
    ends_in_s: float | None
    tasks: list[WhyTask]
