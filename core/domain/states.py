"""States of jobs and tasks, and which may follow which. Data, used by code, constraints and docs.

*state* is what the wire shows (four values, the contract's); *phase* is ours, finer, and
decides. A phase belongs to exactly one state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class JobState(IntEnum):
    """State of a job as the contract numbers it."""

    WAITING = 0
    RUNNING = 1
    CLOSED = 2
    SAVING = 3


class TaskState(IntEnum):
    """State of a task as the contract numbers it."""

    WAITING = 0
    RUNNING = 1
    CLOSED = 2


class JobPhase(StrEnum):
    """How far a job has come."""

    #: Created; not admitted, because an earlier job of the project is open or nobody looked yet.
    WAITING = "waiting"
    #: Admitted by one scheduler, which asks the repository for the revision.
    RESOLVING = "resolving"
    #: A worker lists the files and compares the trees.
    PREPARING = "preparing"
    #: Engine tasks exist; none has started.
    QUEUED = "queued"
    #: The first engine task has started.
    RUNNING = "running"
    #: All tasks closed with success; results are being ingested.
    SAVING = "saving"
    #: Over. Never left.
    CLOSED = "closed"


STATE_OF_PHASE: Mapping[JobPhase, JobState] = {
    JobPhase.WAITING: JobState.WAITING,
    JobPhase.RESOLVING: JobState.WAITING,
    JobPhase.PREPARING: JobState.WAITING,
    JobPhase.QUEUED: JobState.WAITING,
    JobPhase.RUNNING: JobState.RUNNING,
    JobPhase.SAVING: JobState.SAVING,
    JobPhase.CLOSED: JobState.CLOSED,
}

#: Which phase may follow which. `queued → saving` is a job whose tasks all closed from a result
#: that arrived before any start was seen; it cannot happen with our workers and is not allowed.
TRANSITIONS: Mapping[JobPhase, frozenset[JobPhase]] = {
    JobPhase.WAITING: frozenset({JobPhase.RESOLVING, JobPhase.CLOSED}),
    JobPhase.RESOLVING: frozenset({JobPhase.PREPARING, JobPhase.CLOSED}),
    JobPhase.PREPARING: frozenset({JobPhase.QUEUED, JobPhase.CLOSED}),
    JobPhase.QUEUED: frozenset({JobPhase.RUNNING, JobPhase.CLOSED}),
    JobPhase.RUNNING: frozenset({JobPhase.SAVING, JobPhase.CLOSED}),
    JobPhase.SAVING: frozenset({JobPhase.CLOSED}),
    JobPhase.CLOSED: frozenset(),
}

#: Phases in which an unforced job holds its project: at most one such job a project.
STARTED_PHASES: frozenset[JobPhase] = frozenset(
    {
        JobPhase.RESOLVING,
        JobPhase.PREPARING,
        JobPhase.QUEUED,
        JobPhase.RUNNING,
        JobPhase.SAVING,
    }
)


class TaskPlace(StrEnum):
    """Where a task is: in exactly one place, which is a table of its own or a kind of its rows."""

    #: Not to be offered yet: tried again later, or over a limit.
    PENDING = "pending"
    #: In the queue.
    READY = "ready"
    #: Claimed by a worker that has not started it.
    OFFERED = "offered"
    #: Started.
    RUNNING = "running"
    #: Over: it has its outcome. Never left.
    CLOSED = "closed"


STATE_OF_PLACE: Mapping[TaskPlace, TaskState] = {
    TaskPlace.PENDING: TaskState.WAITING,
    TaskPlace.READY: TaskState.WAITING,
    TaskPlace.OFFERED: TaskState.WAITING,
    TaskPlace.RUNNING: TaskState.RUNNING,
    TaskPlace.CLOSED: TaskState.CLOSED,
}

#: The table whose row says that a task is there; a lease is running once it has `started_at`.
TABLE_OF_PLACE: Mapping[TaskPlace, str] = {
    TaskPlace.PENDING: "task_pending",
    TaskPlace.READY: "task_ready",
    TaskPlace.OFFERED: "task_leases",
    TaskPlace.RUNNING: "task_leases",
    TaskPlace.CLOSED: "task_outcomes",
}

#: Where a task may be when it is written.
FIRST_PLACES: frozenset[TaskPlace] = frozenset({TaskPlace.READY, TaskPlace.PENDING})

#: Where a task may go from where, and what that move is called.
MOVES: Mapping[TaskPlace, Mapping[TaskPlace, str]] = {
    TaskPlace.PENDING: {TaskPlace.READY: "promoted", TaskPlace.CLOSED: "swept"},
    TaskPlace.READY: {TaskPlace.OFFERED: "claimed", TaskPlace.CLOSED: "swept"},
    TaskPlace.OFFERED: {
        TaskPlace.READY: "expired or released",
        TaskPlace.RUNNING: "started",
        TaskPlace.CLOSED: "swept",
    },
    TaskPlace.RUNNING: {
        TaskPlace.PENDING: "retried",
        TaskPlace.READY: "requeued",
        TaskPlace.CLOSED: "finished, lost too often or swept",
    },
    TaskPlace.CLOSED: {},
}


class PendingReason(StrEnum):
    """Why a task is pending: what has to come before it is put into the queue."""

    #: The time of the next try.
    RETRY = "retry"
    #: The end of another task of its organisation, project or engine: as many are in the queue or
    #: on workers as the limit allows.
    LIMIT_ORGANIZATION = "limit_organization"
    LIMIT_PROJECT = "limit_project"
    LIMIT_ENGINE = "limit_engine"


class ScanType(IntEnum):
    """What a scan covers, as the contract numbers it."""

    INCREMENTAL = 1
    FULL = 2


class FullReason(StrEnum):
    """Why a scan that was asked for as incremental is a full one."""

    REQUESTED = "requested"
    NO_BASE = "no_base"
    HISTORY_REWRITTEN = "history_rewritten"
    BASE_UNREACHABLE = "base_unreachable"
    ENGINE_CHANGED = "engine_changed"
    CONFIG_CHANGED = "config_changed"


class TaskKind(StrEnum):
    """What a task does."""

    #: Fetch, list, compare: once a job, not counted in `task_num`.
    PREPARE = "prepare"
    #: Run one engine.
    ENGINE = "engine"


class ActiveJobPolicy(StrEnum):
    """What an unforced create does while an earlier job of the project is open."""

    QUEUE = "queue"
    REJECT = "reject"
    JOIN = "join"


class FailOn(StrEnum):
    """When the failure of tasks makes a job fail."""

    ANY_TASK = "any_task"
    ALL_TASKS = "all_tasks"


class Isolation(StrEnum):
    """How a worker contains an engine, weakest first."""

    GROUP = "group"
    BWRAP = "bwrap"


ISOLATION_RANK: Mapping[Isolation, int] = {Isolation.GROUP: 0, Isolation.BWRAP: 1}


class Role(StrEnum):
    """What a user token may do: viewer reads, member also scans, admin the rest."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


ROLE_RANK: Mapping[Role, int] = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2}
