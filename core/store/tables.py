"""The tables of Kennel: the truth that the migrations are compared with.

A task's life moves it between tables (ready → leases → attempts and outcomes); a claimable row
is never updated in place. Constraints are named for what they assert, because the name is what
an operator sees in an error. Tables that grow with history are partitioned by id range
(`ensure_partitions`) and take no foreign keys, so that a range can be dropped.

One file, beyond the usual length, because a schema is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Connection,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID
from sqlalchemy.types import UserDefinedType

from core.domain.states import STARTED_PHASES, JobPhase, PendingReason
from core.store.routines import ROUTINES


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id: orders events by commit horizon."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


metadata = MetaData()

_NOW = text("now()")
_EMPTY_TEXTS = text("'{}'::text[]")
_EMPTY_OBJECT = text("'{}'::jsonb")
#: Hot tables: small, rewritten all the time; vacuumed by count, not by share.
_HOT: dict[str, Any] = {
    "postgresql_with": {
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 1000,
        "autovacuum_vacuum_cost_delay": 0,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": 5000,
        # A plan made while a queue's file has no pages reads it whole, and lasts.
        "vacuum_truncate": "off",
    }
}
#: Tables that grow with every job and change a few times each: looked at by autovacuum early.
_LARGE: dict[str, Any] = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_insert_scale_factor": 0.02,
    "autovacuum_analyze_scale_factor": 0.02,
}


def _phases(phases: Iterable[JobPhase]) -> str:
    """Return the condition that a job is in one of *phases*."""
    return f"phase IN ({', '.join(repr(phase.value) for phase in phases)})"


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _time(name: str, *, nullable: bool = False, now: bool = False) -> Column[object]:
    default = _NOW if now else None
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable, server_default=default)


# --- schema -------------------------------------------------------------------------------------

schema_info = Table(
    "schema_info",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("revision", Text, nullable=False),
    Column("oldest_code", Integer, nullable=False),
    CheckConstraint("singleton", name="schema_info_is_one_row"),
)

# --- registry -----------------------------------------------------------------------------------

organizations = Table(
    "organizations",
    metadata,
    _id(),
    Column("org_sid", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    _time("created_at", now=True),
    #: of its share of the queue, beside other organisations
    Column("weight", SmallInteger, nullable=False, server_default="1"),
    #: tasks in the queue and on workers at the same time; null: not limited
    Column("max_running", Integer),
    CheckConstraint("org_sid ~ '^[a-z0-9_-]{1,64}$'", name="org_sids_are_plain"),
    CheckConstraint("weight BETWEEN 1 AND 100", name="organization_weight_is_bounded"),
    CheckConstraint("max_running >= 0", name="organization_limit_is_a_count"),
)

teams = Table(
    "teams",
    metadata,
    _id(),
    Column("org_id", BigInteger, ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    _time("created_at", now=True),
    UniqueConstraint("org_id", "name", name="teams_have_one_name_an_organization"),
)

repos = Table(
    "repos",
    metadata,
    _id(),
    Column("team_id", BigInteger, ForeignKey("teams.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("scm_url", Text, nullable=False),
    Column("scm_type", Text, nullable=False, server_default="git"),
    #: Sealed by core.runtime.sealing; never answered.
    Column("scm_auth", LargeBinary),
    Column("created_from", Text, nullable=False, server_default="api"),
    Column("creator", Text, nullable=False),
    _time("created_at", now=True),
    UniqueConstraint("team_id", "scm_url", name="repos_are_registered_once_a_team"),
    CheckConstraint("scm_type = 'git'", name="repos_are_git"),
)

schemes = Table(
    "schemes",
    metadata,
    _id(),
    Column("repo_id", BigInteger, ForeignKey("repos.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("languages", ARRAY(Text), nullable=False, server_default=_EMPTY_TEXTS),
    #: Only workers with this tag take the tasks.
    Column("tag", Text),
    Column("is_default", Boolean, nullable=False, server_default=text("false")),
    Column("status", SmallInteger, nullable=False, server_default="1"),
    #: List of engines, each {"name", "version", "config", "rules", "time_limit"}; null: what fits.
    Column("engines", JSONB),
    Column("inclusion", ARRAY(Text), nullable=False, server_default=_EMPTY_TEXTS),
    Column("exclusion", ARRAY(Text), nullable=False, server_default=_EMPTY_TEXTS),
    Column("job_runtime_limit_minutes", Integer, nullable=False, server_default="600"),
    #: null: the server's setting.
    Column("active_job_policy", Text),
    Column("fail_on", Text, nullable=False, server_default="any_task"),
    Column("partial_fails", Boolean, nullable=False, server_default=text("false")),
    Column("cancel_siblings", Boolean, nullable=False, server_default=text("false")),
    Column("allow_repo_config", Boolean, nullable=False, server_default=text("false")),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    _time("created_at", now=True),
    _time("modified_at", now=True),
    UniqueConstraint("repo_id", "name", name="schemes_have_one_name_a_repo"),
    CheckConstraint("status IN (1, 2)", name="scheme_status_is_known"),
    CheckConstraint("fail_on IN ('any_task', 'all_tasks')", name="fail_on_is_known"),
    CheckConstraint(
        "active_job_policy IN ('queue', 'reject', 'join')", name="active_job_policy_is_known"
    ),
    CheckConstraint("job_runtime_limit_minutes BETWEEN 1 AND 100000", name="runtime_is_bounded"),
    CheckConstraint("priority BETWEEN -100 AND 100", name="scheme_priority_is_bounded"),
    Index(
        "schemes_one_default_a_repo_idx",
        "repo_id",
        unique=True,
        postgresql_where=text("is_default"),
    ),
)

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("repo_id", BigInteger, ForeignKey("repos.id"), nullable=False),
    Column("scheme_id", BigInteger, ForeignKey("schemes.id"), nullable=False),
    Column("branch", Text, nullable=False),
    Column("scan_path", Text, nullable=False, server_default=""),
    #: 1 active, 2 inactive, 3 closed
    Column("status", SmallInteger, nullable=False, server_default="1"),
    Column("created_from", Text, nullable=False, server_default="api"),
    Column("creator", Text, nullable=False),
    _time("created_at", now=True),
    # base of the next incremental scan: the last scan that closed with code 0 or 1
    Column("base_job_id", BigInteger),
    Column("base_scan_id", BigInteger),
    Column("base_revision", Text),
    Column("base_config_hash", Text),
    #: engine name → version, as they ran
    Column("base_engines", JSONB),
    #: of its organisation's share of the queue, beside the organisation's other projects
    Column("weight", SmallInteger, nullable=False, server_default="1"),
    #: tasks in the queue and on workers at the same time; null: not limited
    Column("max_running", Integer),
    UniqueConstraint(
        "repo_id", "branch", "scheme_id", "scan_path", name="projects_are_registered_once"
    ),
    CheckConstraint("status IN (1, 2, 3)", name="project_status_is_known"),
    CheckConstraint("weight BETWEEN 1 AND 100", name="project_weight_is_bounded"),
    CheckConstraint("max_running >= 0", name="project_limit_is_a_count"),
    CheckConstraint(
        "(base_job_id IS NULL) = (base_revision IS NULL)"
        " AND (base_job_id IS NULL) = (base_scan_id IS NULL)",
        name="bases_are_whole",
    ),
    Index("projects_scheme_id_idx", "scheme_id"),
)

# --- access -------------------------------------------------------------------------------------

tokens = Table(
    "tokens",
    metadata,
    _id(),
    #: user or enrolment
    Column("kind", Text, nullable=False),
    #: the owner's name: creator and remarked_by on the wire
    Column("name", Text, nullable=False),
    Column("role", Text),
    #: null: every organisation
    Column("org_id", BigInteger, ForeignKey("organizations.id")),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("is_single_use", Boolean, nullable=False, server_default=text("false")),
    _time("created_at", now=True),
    _time("expires_at", nullable=True),
    _time("used_at", nullable=True),
    _time("revoked_at", nullable=True),
    CheckConstraint("kind IN ('user', 'enrolment')", name="token_kind_is_known"),
    CheckConstraint(
        "(kind = 'user') = (role IS NOT NULL AND role IN ('viewer', 'member', 'admin'))",
        name="user_tokens_have_a_role",
    ),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("token_id", BigInteger, ForeignKey("tokens.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("project_id", BigInteger, nullable=False),
    #: hash of the arguments: the same key with others is refused
    Column("fingerprint", LargeBinary, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("scan_id", BigInteger, nullable=False),
    _time("created_at", now=True),
    PrimaryKeyConstraint("token_id", "key"),
    Index("idempotency_keys_created_at_idx", "created_at"),
)

# --- jobs ---------------------------------------------------------------------------------------

#: Which job is open, for indexes: by a column of which no statement that names a job speaks, lest
#: statistics that know closed jobs only make the planner read an index of the open ones whole.
_OPEN = text("ended_at IS NULL")
_CLOSED = text("phase = 'closed'")
#: What a job is labelled with, as SQL: messages that differ in digits only are one label.
LABEL_FORMS = {
    "creator": "creator",
    "created_from": "created_from",
    "result_msg": "translate(result_msg, '0123456789'::text, '##########'::text)",
}
_STARTED = _phases(phase for phase in JobPhase if phase in STARTED_PHASES)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    # No foreign keys here and in scans: a check of each row is a statement of its own, and the
    # statement that writes both locks the project it finds. Neither projects nor jobs go before.
    Column("project_id", BigInteger, nullable=False),
    Column("phase", Text, nullable=False, server_default="waiting"),
    Column(
        "state",
        SmallInteger,
        Computed(
            "CASE phase WHEN 'running' THEN 1 WHEN 'closed' THEN 2 WHEN 'saving' THEN 3 ELSE 0 END",
            persisted=True,
        ),
    ),
    Column("is_forced", Boolean, nullable=False),
    Column("is_incremental", Boolean, nullable=False),
    #: commit asked for; null: the branch's head
    Column("revision", Text),
    Column("created_from", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    _time("created_at", now=True),
    _time("started_at", nullable=True),
    _time("saving_at", nullable=True),
    _time("ended_at", nullable=True),
    #: deadline: while it waits, created_at + queue limit; once started, started_at + run time limit
    _time("expires_at"),
    Column("runtime_limit_s", Integer, nullable=False),
    Column("result_code", Integer),
    Column("result_msg", Text),
    Column("remarks", Text),
    Column("remarked_by", Text),
    Column("task_num", Integer, nullable=False, server_default="0"),
    Column("open_tasks", Integer, nullable=False, server_default="0"),
    #: the uncounted first task
    Column("prepare_task_id", BigInteger),
    #: lease of the scheduler that resolves the revision
    Column("admission_token", UUID(as_uuid=True)),
    _time("admission_expires_at", nullable=True),
    #: sort key of its first task, and the distance to that of each further one; null: not reserved
    Column("first_key", BigInteger),
    Column("key_step", BigInteger),
    #: the scheduler that resolves or resolved it, and since when
    Column("admitted_by", Text),
    _time("admitted_at", nullable=True),
    CheckConstraint(
        _phases(JobPhase),
        name="job_phase_is_known",
    ),
    CheckConstraint(
        "(phase = 'closed') = (result_code IS NOT NULL)", name="closed_jobs_have_a_result_code"
    ),
    CheckConstraint(
        "(phase = 'closed') = (result_msg IS NOT NULL)", name="closed_jobs_have_a_result_msg"
    ),
    CheckConstraint("(phase = 'closed') = (ended_at IS NOT NULL)", name="closed_jobs_have_ended"),
    CheckConstraint(
        "started_at IS NOT NULL OR phase NOT IN ('running', 'saving')",
        name="running_jobs_have_started",
    ),
    CheckConstraint(
        "started_at IS NULL OR phase IN ('running', 'saving', 'closed')",
        name="waiting_jobs_have_not_started",
    ),
    CheckConstraint(
        "saving_at IS NOT NULL OR phase <> 'saving'", name="saving_jobs_say_since_when"
    ),
    CheckConstraint(
        "(phase = 'resolving')"
        " = (admission_token IS NOT NULL AND admission_expires_at IS NOT NULL)",
        name="resolving_jobs_have_an_admission_lease",
    ),
    CheckConstraint(
        "prepare_task_id IS NOT NULL OR phase NOT IN ('preparing', 'queued', 'running', 'saving')",
        name="prepared_jobs_have_a_prepare_task",
    ),
    CheckConstraint("open_tasks BETWEEN 0 AND task_num", name="open_tasks_are_counted"),
    CheckConstraint(
        "open_tasks = 0 OR phase IN ('queued', 'running')", name="only_running_jobs_have_open_tasks"
    ),
    CheckConstraint("result_code BETWEEN 0 AND 399", name="result_code_is_in_a_class"),
    CheckConstraint("started_at >= created_at", name="jobs_start_after_they_are_created"),
    CheckConstraint(
        "ended_at >= created_at AND ended_at >= started_at", name="jobs_end_after_they_start"
    ),
    Index(
        "jobs_one_started_a_project_idx",
        "project_id",
        unique=True,
        postgresql_where=text(f"NOT is_forced AND {_STARTED}"),
    ),
    Index("jobs_open_idx", "project_id", "id", postgresql_where=_OPEN),
    Index(
        "jobs_waiting_idx",
        "project_id",
        "is_forced",
        "id",
        postgresql_where=text("phase = 'waiting' AND ended_at IS NULL"),
    ),
    # By phase: who names a job and its phase finds it by this, or by its id.
    Index("jobs_phase_idx", "phase", "id", postgresql_where=text("phase <> 'closed'")),
    # Only where the deadline counts: nobody else's search is led through it.
    Index(
        "jobs_expires_at_idx",
        "expires_at",
        postgresql_where=text("ended_at IS NULL AND saving_at IS NULL"),
    ),
    # What lists read of closed jobs; an open job pays for none of these.
    # A sum, so that a range of ids cannot be taken from the primary key, among all projects' jobs.
    Index(
        "jobs_closed_idx",
        "project_id",
        text("(id + 0)"),
        postgresql_include=["id"],
        postgresql_where=_CLOSED,
    ),
    Index(
        "jobs_closed_code_idx",
        "project_id",
        "result_code",
        "id",
        postgresql_where=_CLOSED,
    ),
    # By hash: a text may be longer than an index takes.
    *(
        Index(
            f"jobs_closed_{name}_idx",
            "project_id",
            text(f"hashtextextended({form}, 0)"),
            "id",
            postgresql_where=_CLOSED,
        )
        for name, form in LABEL_FORMS.items()
    ),
    postgresql_with={"fillfactor": 80, **_LARGE},
)

scans = Table(
    "scans",
    metadata,
    _id(),
    Column("job_id", BigInteger, nullable=False, unique=True),
    Column("project_id", BigInteger, nullable=False),
    #: 1 incremental, 2 full
    Column("scan_type", SmallInteger, nullable=False),
    #: why it is full (core.domain.states.FullReason); null: incremental
    Column("full_reason", Text),
    Column("revision", Text),
    Column("base_revision", Text),
    Column("base_scan_id", BigInteger),
    Column("config_hash", Text),
    #: engine name → version, as they ran
    Column("engines", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("code_line_num", BigInteger),
    Column("comment_line_num", BigInteger),
    Column("blank_line_num", BigInteger),
    Column("total_line_num", BigInteger),
    _time("created_at", now=True),
    CheckConstraint("scan_type IN (1, 2)", name="scan_type_is_known"),
    CheckConstraint("(scan_type = 2) = (full_reason IS NOT NULL)", name="full_scans_have_a_reason"),
    CheckConstraint(
        "num_nulls(code_line_num, comment_line_num, blank_line_num, total_line_num) IN (0, 4)",
        name="line_counts_are_whole",
    ),
    CheckConstraint(
        "total_line_num = code_line_num + comment_line_num + blank_line_num",
        name="line_counts_add_up",
    ),
    postgresql_with=_LARGE,
)

# --- counts of closed jobs ----------------------------------------------------------------------

uncounted_jobs = Table(
    "uncounted_jobs",
    metadata,
    #: Closed jobs that `job_counts` does not hold yet: written by a trigger, taken by the tallier.
    Column("project_id", BigInteger, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id", "job_id"),
    **_HOT,
)

job_labels = Table(
    "job_labels",
    metadata,
    _id(),
    Column("project_id", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    CheckConstraint(
        f"kind IN ({', '.join(repr(kind) for kind in LABEL_FORMS)})", name="label_kind_is_known"
    ),
    Index("job_labels_value_idx", "project_id", "kind", text("md5(value)"), unique=True),
)

job_counts = Table(
    "job_counts",
    metadata,
    Column("project_id", BigInteger, nullable=False),
    #: 0 the project, 1 a block of 2^14 job ids; 2 the project by label, 3 a block of 2^17 by label
    Column("grain", SmallInteger, nullable=False),
    #: number of the block; 0 for the whole project
    Column("block", BigInteger, nullable=False),
    Column("result_code", Integer, nullable=False),
    # 0: not by label, or a value that is not listed
    Column("creator_id", BigInteger, nullable=False),
    Column("created_from_id", BigInteger, nullable=False),
    Column("result_msg_id", BigInteger, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    #: no job of them was created earlier, none later
    _time("first_created_at"),
    _time("last_created_at"),
    PrimaryKeyConstraint(
        "project_id",
        "grain",
        "block",
        "result_code",
        "creator_id",
        "created_from_id",
        "result_msg_id",
    ),
    CheckConstraint("grain BETWEEN 0 AND 3", name="grain_is_known"),
    CheckConstraint("jobs > 0", name="counts_are_of_jobs"),
    postgresql_with={"fillfactor": 80},
)

# --- tasks --------------------------------------------------------------------------------------

capability_classes = Table(
    "capability_classes",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    #: engine name; `prepare` for preparations, which every worker can do
    Column("engine", Text, nullable=False),
    #: PEP 440 range, "" for any
    Column("version_range", Text, nullable=False, server_default=""),
    #: tag a worker must have, "" for none
    Column("tag", Text, nullable=False, server_default=""),
    #: weakest isolation that will do
    Column("isolation", Text, nullable=False, server_default="group"),
    UniqueConstraint(
        "engine", "version_range", "tag", "isolation", name="capability_classes_are_distinct"
    ),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("module", Text, nullable=False),
    Column("class_id", Integer, nullable=False),
    #: what the worker needs beyond the job's source
    Column("spec", JSONB, nullable=False),
    _time("created_at", now=True),
    CheckConstraint("kind IN ('prepare', 'engine')", name="task_kind_is_known"),
    Index("tasks_job_id_idx", "job_id"),
    postgresql_partition_by="RANGE (id)",
)

task_outcomes = Table(
    "task_outcomes",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("result_code", Integer, nullable=False),
    Column("result_msg", Text, nullable=False),
    #: the attempt whose result was accepted; null where the server closed the task
    Column("attempt_id", BigInteger),
    #: the accepted result as the worker sent it, without the lease token
    Column("result", JSONB),
    _time("closed_at", now=True),
    CheckConstraint(
        "outcome IN ('succeeded', 'failed', 'cancelled', 'lost')", name="task_outcome_is_known"
    ),
    CheckConstraint("(outcome = 'succeeded') = (reason IS NULL)", name="failures_have_a_reason"),
    CheckConstraint(
        "(outcome = 'succeeded') = (result_code BETWEEN 0 AND 1)", name="outcome_and_code_agree"
    ),
    postgresql_partition_by="RANGE (task_id)",
)

task_pending = Table(
    "task_pending",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("class_id", Integer, nullable=False),
    Column("sort_key", BigInteger, nullable=False),
    Column("failures", SmallInteger, nullable=False),
    Column("resets", SmallInteger, nullable=False),
    _time("not_before"),
    #: why it waits
    Column("reason", Text, nullable=False),
    Column("project_id", BigInteger, nullable=False),
    #: so far
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    #: see task_ready
    Column("preferred_worker_id", BigInteger),
    CheckConstraint(
        f"reason IN ({', '.join(repr(reason.value) for reason in PendingReason)})",
        name="pending_reason_is_known",
    ),
    Index("task_pending_not_before_idx", "not_before", postgresql_where=text("reason = 'retry'")),
    Index(
        "task_pending_limited_idx",
        "project_id",
        "class_id",
        "sort_key",
        "task_id",
        postgresql_where=text("reason <> 'retry'"),
    ),
    **_HOT,
)

task_ready = Table(
    "task_ready",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("class_id", Integer, nullable=False),
    #: place in the order, ns of virtual time, less what priority is worth; smaller goes first
    Column("sort_key", BigInteger, nullable=False),
    Column("failures", SmallInteger, nullable=False, server_default="0"),
    Column("resets", SmallInteger, nullable=False, server_default="0"),
    #: has the sources already; the others leave it the task for a moment
    Column("preferred_worker_id", BigInteger),
    _time("ready_at", now=True),
    Column("project_id", BigInteger, nullable=False),
    #: so far
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    #: Copies of the task's own, so that a claim reads one table; null: read them there.
    Column("engine", Text),
    Column("spec", JSONB),
    Index("task_ready_claim_idx", "class_id", "sort_key", "task_id"),
    **_HOT,
)

#: The last place a project has reserved in the queue's order, while it has a backlog.
share_clocks = Table(
    "share_clocks",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("org_id", BigInteger, nullable=False),
    Column("weight", SmallInteger, nullable=False),
    Column("last_place", BigInteger, nullable=False),
    Column(
        "charged_at",
        TIMESTAMP(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    Index("share_clocks_org_id_idx", "org_id"),
    prefixes=["UNLOGGED"],
    postgresql_with=_HOT["postgresql_with"] | {"fillfactor": 50},
)

#: Tasks of limited organisations, projects and engines that were put into the queue.
task_grants = Table(
    "task_grants",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", BigInteger, nullable=False),
    Column("org_id", BigInteger, nullable=False),
    Column("engine", Text, nullable=False),
    **_HOT,
)

engine_limits = Table(
    "engine_limits",
    metadata,
    Column("engine", Text, primary_key=True),
    #: tasks in the queue and on workers at the same time
    Column("max_running", Integer, nullable=False),
    CheckConstraint("max_running >= 0", name="engine_limit_is_a_count"),
)

attempt_ids = Sequence("attempt_ids", data_type=BigInteger, metadata=metadata)

task_leases = Table(
    "task_leases",
    metadata,
    Column(
        "attempt_id",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        server_default=text("nextval('attempt_ids')"),
    ),
    Column("task_id", BigInteger, nullable=False, unique=True),
    Column("job_id", BigInteger, nullable=False),
    Column("worker_id", BigInteger, nullable=False),
    #: number of the attempt, from 1
    Column("number", SmallInteger, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("claim_id", UUID(as_uuid=True), nullable=False),
    Column("claim_index", SmallInteger, nullable=False),
    Column("class_id", Integer, nullable=False),
    Column("sort_key", BigInteger, nullable=False),
    Column("failures", SmallInteger, nullable=False),
    Column("resets", SmallInteger, nullable=False),
    _time("offered_at", now=True),
    #: null: only offered
    _time("started_at", nullable=True),
    Column("project_id", BigInteger, nullable=False),
    #: How much of its log has come, and the artifacts, each {"name", "size_bytes", "sha256"}.
    Column("log_bytes", BigInteger, nullable=False, server_default="0"),
    Column("artifacts", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    # Leads to a worker's leases, too. A job's are found by its tasks: an index less to write.
    UniqueConstraint("worker_id", "claim_id", "claim_index", name="claims_are_answered_once"),
    **_HOT,
)

task_attempts = Table(
    "task_attempts",
    metadata,
    Column("task_id", BigInteger, nullable=False),
    Column("attempt_id", BigInteger, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("worker_id", BigInteger, nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    #: hash of the accepted result body: the same body again gets the same answer
    Column("body_hash", LargeBinary),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text, nullable=False, server_default=""),
    Column("exit_code", Integer),
    Column("signal", SmallInteger),
    _time("offered_at"),
    _time("started_at", nullable=True),
    _time("ended_at", now=True),
    PrimaryKeyConstraint("task_id", "attempt_id"),
    CheckConstraint(
        "outcome IN ('succeeded', 'failed', 'cancelled', 'lost')", name="attempt_outcome_is_known"
    ),
    CheckConstraint(
        "(outcome = 'succeeded') = (reason IS NULL)", name="failed_attempts_have_a_reason"
    ),
    Index("task_attempts_attempt_id_idx", "attempt_id"),
    postgresql_partition_by="RANGE (task_id)",
)

attempt_progress = Table(
    "attempt_progress",
    metadata,
    Column("attempt_id", BigInteger, primary_key=True, autoincrement=False),
    Column("phase", Text, nullable=False),
    Column("files_done", BigInteger, nullable=False),
    Column("files_planned", BigInteger, nullable=False),
    _time("seen_at", now=True),
    prefixes=["UNLOGGED"],
    **_HOT,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("task_id", BigInteger, nullable=False),
    Column("attempt_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    _time("created_at", now=True),
    PrimaryKeyConstraint("task_id", "attempt_id", "name"),
    postgresql_partition_by="RANGE (task_id)",
)

blobs = Table(
    "blobs",
    metadata,
    Column("task_id", BigInteger, nullable=False),
    Column("attempt_id", BigInteger, nullable=False),
    #: `log`, or `artifact:<name>`
    Column("name", Text, nullable=False),
    #: offset of the chunk's first byte
    Column("position", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("task_id", "attempt_id", "name", "position"),
    postgresql_partition_by="RANGE (task_id)",
)

findings = Table(
    "findings",
    metadata,
    Column("scan_id", BigInteger, nullable=False),
    Column("task_id", BigInteger, nullable=False),
    #: order in the engine's report, from 0
    Column("position", Integer, nullable=False),
    Column("engine", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("column", Integer, nullable=False),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("scan_id", "task_id", "position"),
)

# --- workers ------------------------------------------------------------------------------------

workers = Table(
    "workers",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    #: hash of the key on the worker's disk
    Column("instance_hash", LargeBinary, nullable=False, unique=True),
    Column("tags", ARRAY(Text), nullable=False, server_default=_EMPTY_TEXTS),
    #: [{"name", "version", "module", "languages"}]
    Column("engines", JSONB, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("isolation", Text, nullable=False),
    Column("version", Text, nullable=False, server_default=""),
    #: what an operator asked for: null, drain or pause
    Column("directive", Text),
    #: it drains by itself (SIGTERM)
    Column("is_draining", Boolean, nullable=False, server_default=text("false")),
    _time("registered_at", now=True),
    #: found dead by the reaper; null again at the next registration
    _time("lost_at", nullable=True),
    #: The capability classes it fits, sorted: workers with the same are answered together.
    Column("class_ids", ARRAY(Integer), nullable=False, server_default=text("'{}'::integer[]")),
    #: attempts in a row that died of its own fault
    Column("faults", SmallInteger, nullable=False, server_default="0"),
    _time("first_fault_at", nullable=True),
    #: gets no offers until then
    _time("quarantined_until", nullable=True),
    Column("quarantine_reason", Text),
    _time("last_fault_at", nullable=True),
    CheckConstraint("directive IN ('drain', 'pause')", name="directive_is_known"),
    CheckConstraint("isolation IN ('group', 'bwrap')", name="isolation_is_known"),
)

worker_tokens = Table(
    "worker_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("worker_id", BigInteger, ForeignKey("workers.id"), nullable=False),
    _time("expires_at"),
    Index("worker_tokens_worker_id_idx", "worker_id"),
)

worker_classes = Table(
    "worker_classes",
    metadata,
    Column("worker_id", BigInteger, ForeignKey("workers.id"), nullable=False),
    Column("class_id", Integer, ForeignKey("capability_classes.id"), nullable=False),
    PrimaryKeyConstraint("worker_id", "class_id"),
    Index("worker_classes_class_id_idx", "class_id"),
)

worker_beats = Table(
    "worker_beats",
    metadata,
    Column("worker_id", BigInteger, primary_key=True, autoincrement=False),
    _time("seen_at", now=True),
    prefixes=["UNLOGGED"],
    postgresql_with={"fillfactor": 50},
)

# --- events -------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at", now=True),
    #: `noun.verb_past`: job.created, task.claimed, …
    Column("kind", Text, nullable=False),
    Column("project_id", BigInteger),
    Column("job_id", BigInteger),
    Column("task_id", BigInteger),
    Column("attempt_id", BigInteger),
    Column("worker_id", BigInteger),
    #: who asked; null: Kennel itself
    Column("actor", Text),
    Column("detail", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    #: readers stop below the oldest running transaction, so that a resumed stream skips nothing
    Column("tx", Xid8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Index("events_job_id_idx", "job_id"),
    postgresql_partition_by="RANGE (id)",
)


@event.listens_for(metadata, "after_create")
def _create_the_rest(_target: MetaData, connection: Connection, **_: object) -> None:
    for statement in ROUTINES:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql("SELECT ensure_partitions()")
