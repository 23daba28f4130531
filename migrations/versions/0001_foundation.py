"""The foundation: registry, access, jobs, the queue's tables, workers, events.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE SEQUENCE attempt_ids AS BIGINT
    """,
    """
    CREATE TABLE artifacts (
        task_id BIGINT NOT NULL,
        attempt_id BIGINT NOT NULL,
        name TEXT NOT NULL,
        size_bytes BIGINT NOT NULL,
        sha256 BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (task_id, attempt_id, name)
    )
     PARTITION BY RANGE (task_id)
    """,
    """
    CREATE UNLOGGED TABLE attempt_progress (
        attempt_id BIGINT NOT NULL,
        phase TEXT NOT NULL,
        files_done BIGINT NOT NULL,
        files_planned BIGINT NOT NULL,
        seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (attempt_id)
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000)
    """,
    """
    CREATE TABLE blobs (
        task_id BIGINT NOT NULL,
        attempt_id BIGINT NOT NULL,
        name TEXT NOT NULL,
        position BIGINT NOT NULL,
        content BYTEA NOT NULL,
        PRIMARY KEY (task_id, attempt_id, name, position)
    )
     PARTITION BY RANGE (task_id)
    """,
    """
    CREATE TABLE capability_classes (
        id INTEGER GENERATED ALWAYS AS IDENTITY,
        engine TEXT NOT NULL,
        version_range TEXT DEFAULT '' NOT NULL,
        tag TEXT DEFAULT '' NOT NULL,
        isolation TEXT DEFAULT 'group' NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT capability_classes_are_distinct UNIQUE (engine, version_range, tag, isolation)
    )
    """,
    """
    CREATE TABLE events (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        kind TEXT NOT NULL,
        project_id BIGINT,
        job_id BIGINT,
        task_id BIGINT,
        attempt_id BIGINT,
        worker_id BIGINT,
        actor TEXT,
        detail JSONB DEFAULT '{}'::jsonb NOT NULL,
        tx xid8 DEFAULT pg_current_xact_id() NOT NULL,
        PRIMARY KEY (id)
    )
     PARTITION BY RANGE (id)
    """,
    """
    CREATE INDEX events_job_id_idx ON events (job_id)
    """,
    """
    CREATE TABLE findings (
        scan_id BIGINT NOT NULL,
        task_id BIGINT NOT NULL,
        position INTEGER NOT NULL,
        engine TEXT NOT NULL,
        rule TEXT NOT NULL,
        severity TEXT NOT NULL,
        path TEXT NOT NULL,
        line INTEGER NOT NULL,
        "column" INTEGER NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (scan_id, task_id, position)
    )
    """,
    """
    CREATE TABLE organizations (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        org_sid TEXT NOT NULL,
        name TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT org_sids_are_plain CHECK (org_sid ~ '^[a-z0-9_-]{1,64}$'),
        UNIQUE (org_sid)
    )
    """,
    """
    CREATE TABLE schema_info (
        singleton BOOLEAN DEFAULT true NOT NULL,
        revision TEXT NOT NULL,
        oldest_code INTEGER NOT NULL,
        PRIMARY KEY (singleton),
        CONSTRAINT schema_info_is_one_row CHECK (singleton)
    )
    """,
    """
    CREATE TABLE task_attempts (
        task_id BIGINT NOT NULL,
        attempt_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        worker_id BIGINT NOT NULL,
        number SMALLINT NOT NULL,
        token_hash BYTEA NOT NULL,
        body_hash BYTEA,
        outcome TEXT NOT NULL,
        reason TEXT,
        message TEXT DEFAULT '' NOT NULL,
        exit_code INTEGER,
        signal SMALLINT,
        offered_at TIMESTAMP WITH TIME ZONE NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        ended_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (task_id, attempt_id),
        CONSTRAINT attempt_outcome_is_known CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'lost')),
        CONSTRAINT failed_attempts_have_a_reason CHECK ((outcome = 'succeeded') = (reason IS NULL))
    )
     PARTITION BY RANGE (task_id)
    """,
    """
    CREATE INDEX task_attempts_attempt_id_idx ON task_attempts (attempt_id)
    """,
    """
    CREATE INDEX task_attempts_job_id_idx ON task_attempts (job_id)
    """,
    """
    CREATE TABLE task_leases (
        attempt_id BIGINT DEFAULT nextval('attempt_ids') NOT NULL,
        task_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        worker_id BIGINT NOT NULL,
        number SMALLINT NOT NULL,
        token_hash BYTEA NOT NULL,
        claim_id UUID NOT NULL,
        claim_index SMALLINT NOT NULL,
        class_id INTEGER NOT NULL,
        sort_key BIGINT NOT NULL,
        failures SMALLINT NOT NULL,
        resets SMALLINT NOT NULL,
        offered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (attempt_id),
        CONSTRAINT claims_are_answered_once UNIQUE (worker_id, claim_id, claim_index),
        UNIQUE (task_id),
        UNIQUE (token_hash)
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000)
    """,
    """
    CREATE INDEX task_leases_job_id_idx ON task_leases (job_id)
    """,
    """
    CREATE INDEX task_leases_worker_id_idx ON task_leases (worker_id)
    """,
    """
    CREATE TABLE task_outcomes (
        task_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT,
        result_code INTEGER NOT NULL,
        result_msg TEXT NOT NULL,
        attempt_id BIGINT,
        result JSONB,
        closed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (task_id),
        CONSTRAINT task_outcome_is_known CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'lost')),
        CONSTRAINT failures_have_a_reason CHECK ((outcome = 'succeeded') = (reason IS NULL)),
        CONSTRAINT outcome_and_code_agree CHECK ((outcome = 'succeeded') = (result_code BETWEEN 0 AND 1))
    )
     PARTITION BY RANGE (task_id)
    """,
    """
    CREATE INDEX task_outcomes_job_id_idx ON task_outcomes (job_id)
    """,
    """
    CREATE TABLE task_pending (
        task_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        class_id INTEGER NOT NULL,
        sort_key BIGINT NOT NULL,
        failures SMALLINT NOT NULL,
        resets SMALLINT NOT NULL,
        not_before TIMESTAMP WITH TIME ZONE NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (task_id)
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000)
    """,
    """
    CREATE INDEX task_pending_job_id_idx ON task_pending (job_id)
    """,
    """
    CREATE INDEX task_pending_not_before_idx ON task_pending (not_before)
    """,
    """
    CREATE TABLE task_ready (
        task_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        class_id INTEGER NOT NULL,
        sort_key BIGINT NOT NULL,
        failures SMALLINT DEFAULT '0' NOT NULL,
        resets SMALLINT DEFAULT '0' NOT NULL,
        preferred_worker_id BIGINT,
        ready_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (task_id)
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000)
    """,
    """
    CREATE INDEX task_ready_claim_idx ON task_ready (class_id, sort_key, task_id)
    """,
    """
    CREATE INDEX task_ready_job_id_idx ON task_ready (job_id)
    """,
    """
    CREATE TABLE tasks (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        job_id BIGINT NOT NULL,
        kind TEXT NOT NULL,
        engine TEXT NOT NULL,
        module TEXT NOT NULL,
        class_id INTEGER NOT NULL,
        spec JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT task_kind_is_known CHECK (kind IN ('prepare', 'engine'))
    )
     PARTITION BY RANGE (id)
    """,
    """
    CREATE INDEX tasks_job_id_idx ON tasks (job_id)
    """,
    """
    CREATE UNLOGGED TABLE worker_beats (
        worker_id BIGINT NOT NULL,
        seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (worker_id)
    )
     WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE workers (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        name TEXT NOT NULL,
        instance_hash BYTEA NOT NULL,
        tags TEXT[] DEFAULT '{}'::text[] NOT NULL,
        engines JSONB NOT NULL,
        slots INTEGER NOT NULL,
        isolation TEXT NOT NULL,
        version TEXT DEFAULT '' NOT NULL,
        directive TEXT,
        is_draining BOOLEAN DEFAULT false NOT NULL,
        registered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        lost_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        CONSTRAINT directive_is_known CHECK (directive IN ('drain', 'pause')),
        CONSTRAINT isolation_is_known CHECK (isolation IN ('group', 'bwrap')),
        UNIQUE (instance_hash)
    )
    """,
    """
    CREATE TABLE teams (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        org_id BIGINT NOT NULL,
        name TEXT NOT NULL,
        display_name TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT teams_have_one_name_an_organization UNIQUE (org_id, name),
        FOREIGN KEY(org_id) REFERENCES organizations (id)
    )
    """,
    """
    CREATE TABLE tokens (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        role TEXT,
        org_id BIGINT,
        token_hash BYTEA NOT NULL,
        is_single_use BOOLEAN DEFAULT false NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE,
        used_at TIMESTAMP WITH TIME ZONE,
        revoked_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        CONSTRAINT token_kind_is_known CHECK (kind IN ('user', 'enrolment')),
        CONSTRAINT user_tokens_have_a_role CHECK ((kind = 'user') = (role IS NOT NULL AND role IN ('viewer', 'member', 'admin'))),
        FOREIGN KEY(org_id) REFERENCES organizations (id),
        UNIQUE (token_hash)
    )
    """,
    """
    CREATE TABLE worker_classes (
        worker_id BIGINT NOT NULL,
        class_id INTEGER NOT NULL,
        PRIMARY KEY (worker_id, class_id),
        FOREIGN KEY(worker_id) REFERENCES workers (id),
        FOREIGN KEY(class_id) REFERENCES capability_classes (id)
    )
    """,
    """
    CREATE INDEX worker_classes_class_id_idx ON worker_classes (class_id)
    """,
    """
    CREATE TABLE worker_tokens (
        token_hash BYTEA NOT NULL,
        worker_id BIGINT NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (token_hash),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    """
    CREATE INDEX worker_tokens_worker_id_idx ON worker_tokens (worker_id)
    """,
    """
    CREATE TABLE idempotency_keys (
        token_id BIGINT NOT NULL,
        key TEXT NOT NULL,
        project_id BIGINT NOT NULL,
        fingerprint BYTEA NOT NULL,
        job_id BIGINT NOT NULL,
        scan_id BIGINT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (token_id, key),
        FOREIGN KEY(token_id) REFERENCES tokens (id)
    )
    """,
    """
    CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at)
    """,
    """
    CREATE TABLE repos (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        team_id BIGINT NOT NULL,
        name TEXT NOT NULL,
        scm_url TEXT NOT NULL,
        scm_type TEXT DEFAULT 'git' NOT NULL,
        scm_auth BYTEA,
        created_from TEXT DEFAULT 'api' NOT NULL,
        creator TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT repos_are_registered_once_a_team UNIQUE (team_id, scm_url),
        CONSTRAINT repos_are_git CHECK (scm_type = 'git'),
        FOREIGN KEY(team_id) REFERENCES teams (id)
    )
    """,
    """
    CREATE TABLE schemes (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        repo_id BIGINT NOT NULL,
        name TEXT NOT NULL,
        description TEXT DEFAULT '' NOT NULL,
        languages TEXT[] DEFAULT '{}'::text[] NOT NULL,
        tag TEXT,
        is_default BOOLEAN DEFAULT false NOT NULL,
        status SMALLINT DEFAULT '1' NOT NULL,
        engines JSONB,
        inclusion TEXT[] DEFAULT '{}'::text[] NOT NULL,
        exclusion TEXT[] DEFAULT '{}'::text[] NOT NULL,
        job_runtime_limit_minutes INTEGER DEFAULT '600' NOT NULL,
        active_job_policy TEXT,
        fail_on TEXT DEFAULT 'any_task' NOT NULL,
        partial_fails BOOLEAN DEFAULT false NOT NULL,
        cancel_siblings BOOLEAN DEFAULT false NOT NULL,
        allow_repo_config BOOLEAN DEFAULT false NOT NULL,
        priority SMALLINT DEFAULT '0' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        modified_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT schemes_have_one_name_a_repo UNIQUE (repo_id, name),
        CONSTRAINT scheme_status_is_known CHECK (status IN (1, 2)),
        CONSTRAINT fail_on_is_known CHECK (fail_on IN ('any_task', 'all_tasks')),
        CONSTRAINT active_job_policy_is_known CHECK (active_job_policy IN ('queue', 'reject', 'join')),
        CONSTRAINT runtime_is_bounded CHECK (job_runtime_limit_minutes BETWEEN 1 AND 100000),
        CONSTRAINT scheme_priority_is_bounded CHECK (priority BETWEEN -100 AND 100),
        FOREIGN KEY(repo_id) REFERENCES repos (id)
    )
    """,
    """
    CREATE UNIQUE INDEX schemes_one_default_a_repo_idx ON schemes (repo_id) WHERE is_default
    """,
    """
    CREATE TABLE projects (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        repo_id BIGINT NOT NULL,
        scheme_id BIGINT NOT NULL,
        branch TEXT NOT NULL,
        scan_path TEXT DEFAULT '' NOT NULL,
        status SMALLINT DEFAULT '1' NOT NULL,
        created_from TEXT DEFAULT 'api' NOT NULL,
        creator TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        base_job_id BIGINT,
        base_scan_id BIGINT,
        base_revision TEXT,
        base_config_hash TEXT,
        base_engines JSONB,
        PRIMARY KEY (id),
        CONSTRAINT projects_are_registered_once UNIQUE (repo_id, branch, scheme_id, scan_path),
        CONSTRAINT project_status_is_known CHECK (status IN (1, 2, 3)),
        CONSTRAINT bases_are_whole CHECK ((base_job_id IS NULL) = (base_revision IS NULL) AND (base_job_id IS NULL) = (base_scan_id IS NULL)),
        FOREIGN KEY(repo_id) REFERENCES repos (id),
        FOREIGN KEY(scheme_id) REFERENCES schemes (id)
    )
    """,
    """
    CREATE INDEX projects_scheme_id_idx ON projects (scheme_id)
    """,
    """
    CREATE TABLE jobs (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        project_id BIGINT NOT NULL,
        phase TEXT DEFAULT 'waiting' NOT NULL,
        state SMALLINT GENERATED ALWAYS AS (CASE phase WHEN 'running' THEN 1 WHEN 'closed' THEN 2 WHEN 'saving' THEN 3 ELSE 0 END) STORED,
        is_forced BOOLEAN NOT NULL,
        is_incremental BOOLEAN NOT NULL,
        revision TEXT,
        created_from TEXT NOT NULL,
        creator TEXT NOT NULL,
        priority SMALLINT DEFAULT '0' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        saving_at TIMESTAMP WITH TIME ZONE,
        ended_at TIMESTAMP WITH TIME ZONE,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        runtime_limit_s INTEGER NOT NULL,
        result_code INTEGER,
        result_msg TEXT,
        remarks TEXT,
        remarked_by TEXT,
        task_num INTEGER DEFAULT '0' NOT NULL,
        open_tasks INTEGER DEFAULT '0' NOT NULL,
        prepare_task_id BIGINT,
        admission_token UUID,
        admission_expires_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        CONSTRAINT job_phase_is_known CHECK (phase IN ('waiting', 'resolving', 'preparing', 'queued', 'running', 'saving', 'closed')),
        CONSTRAINT closed_jobs_have_a_result_code CHECK ((phase = 'closed') = (result_code IS NOT NULL)),
        CONSTRAINT closed_jobs_have_a_result_msg CHECK ((phase = 'closed') = (result_msg IS NOT NULL)),
        CONSTRAINT closed_jobs_have_ended CHECK ((phase = 'closed') = (ended_at IS NOT NULL)),
        CONSTRAINT running_jobs_have_started CHECK (started_at IS NOT NULL OR phase NOT IN ('running', 'saving')),
        CONSTRAINT waiting_jobs_have_not_started CHECK (started_at IS NULL OR phase IN ('running', 'saving', 'closed')),
        CONSTRAINT saving_jobs_say_since_when CHECK (saving_at IS NOT NULL OR phase <> 'saving'),
        CONSTRAINT resolving_jobs_have_an_admission_lease CHECK ((phase = 'resolving') = (admission_token IS NOT NULL AND admission_expires_at IS NOT NULL)),
        CONSTRAINT prepared_jobs_have_a_prepare_task CHECK (prepare_task_id IS NOT NULL OR phase NOT IN ('preparing', 'queued', 'running', 'saving')),
        CONSTRAINT open_tasks_are_counted CHECK (open_tasks BETWEEN 0 AND task_num),
        CONSTRAINT only_running_jobs_have_open_tasks CHECK (open_tasks = 0 OR phase IN ('queued', 'running')),
        CONSTRAINT result_code_is_in_a_class CHECK (result_code BETWEEN 0 AND 399),
        CONSTRAINT jobs_start_after_they_are_created CHECK (started_at >= created_at),
        CONSTRAINT jobs_end_after_they_start CHECK (ended_at >= created_at AND ended_at >= started_at),
        FOREIGN KEY(project_id) REFERENCES projects (id)
    )
     WITH (fillfactor = 80)
    """,
    """
    CREATE INDEX jobs_expires_at_idx ON jobs (expires_at) WHERE phase <> 'closed'
    """,
    """
    CREATE UNIQUE INDEX jobs_one_started_a_project_idx ON jobs (project_id) WHERE NOT is_forced AND phase IN ('resolving', 'preparing', 'queued', 'running', 'saving')
    """,
    """
    CREATE INDEX jobs_open_idx ON jobs (project_id, id) WHERE phase <> 'closed'
    """,
    """
    CREATE INDEX jobs_phase_idx ON jobs (phase, id) WHERE phase <> 'closed'
    """,
    """
    CREATE INDEX jobs_project_id_id_idx ON jobs (project_id, id DESC)
    """,
    """
    CREATE INDEX jobs_waiting_idx ON jobs (id) WHERE phase = 'waiting'
    """,
    """
    CREATE TABLE scans (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        job_id BIGINT NOT NULL,
        project_id BIGINT NOT NULL,
        scan_type SMALLINT NOT NULL,
        full_reason TEXT,
        revision TEXT,
        base_revision TEXT,
        base_scan_id BIGINT,
        config_hash TEXT,
        engines JSONB DEFAULT '{}'::jsonb NOT NULL,
        code_line_num BIGINT,
        comment_line_num BIGINT,
        blank_line_num BIGINT,
        total_line_num BIGINT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT scan_type_is_known CHECK (scan_type IN (1, 2)),
        CONSTRAINT full_scans_have_a_reason CHECK ((scan_type = 2) = (full_reason IS NOT NULL)),
        CONSTRAINT line_counts_are_whole CHECK (num_nulls(code_line_num, comment_line_num, blank_line_num, total_line_num) IN (0, 4)),
        CONSTRAINT line_counts_add_up CHECK (total_line_num = code_line_num + comment_line_num + blank_line_num),
        UNIQUE (job_id),
        FOREIGN KEY(job_id) REFERENCES jobs (id)
    )
    """,
)

_ENSURE_PARTITIONS = """
CREATE FUNCTION ensure_partitions() RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    history record;
    last_id bigint;
    made integer := 0;
BEGIN
    -- one caller at a time; the others find the work done
    PERFORM pg_advisory_xact_lock(hashtext('kennel.partitions'));
    FOR history IN
        SELECT * FROM (VALUES
            ('tasks', 'tasks_id_seq', 1000000::bigint),
            ('task_outcomes', 'tasks_id_seq', 1000000),
            ('task_attempts', 'tasks_id_seq', 1000000),
            ('artifacts', 'tasks_id_seq', 1000000),
            ('blobs', 'tasks_id_seq', 1000000),
            ('events', 'events_id_seq', 10000000)
        ) AS h (parent, key_sequence, width)
    LOOP
        EXECUTE format('SELECT last_value FROM %I', history.key_sequence) INTO last_id;
        FOR n IN last_id / history.width .. last_id / history.width + 1 LOOP
            IF to_regclass(format('%I', history.parent || '_p' || n)) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',
                    history.parent || '_p' || n, history.parent,
                    n * history.width, (n + 1) * history.width
                );
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END
$body$
"""

_TABLES = (
    "scans",
    "jobs",
    "projects",
    "schemes",
    "repos",
    "idempotency_keys",
    "worker_tokens",
    "worker_classes",
    "tokens",
    "teams",
    "workers",
    "worker_beats",
    "tasks",
    "task_ready",
    "task_pending",
    "task_outcomes",
    "task_leases",
    "task_attempts",
    "schema_info",
    "organizations",
    "findings",
    "events",
    "capability_classes",
    "blobs",
    "attempt_progress",
    "artifacts",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    op.execute(_ENSURE_PARTITIONS)
    op.execute("SELECT ensure_partitions()")
    # 1: the oldest generation of code (core.store.schema) that works on this schema
    op.execute("INSERT INTO schema_info (revision, oldest_code) VALUES ('0001', 1)")


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_partitions()")
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP SEQUENCE attempt_ids")
