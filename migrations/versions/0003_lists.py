"""Lists at scale and retention: counts of closed jobs, their indexes, partitions dropped in time.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE uncounted_jobs (
        project_id BIGINT NOT NULL,
        job_id BIGINT NOT NULL,
        PRIMARY KEY (project_id, job_id)
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000)
    """,
    """
    CREATE TABLE job_labels (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        project_id BIGINT NOT NULL,
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT label_kind_is_known CHECK (kind IN ('creator', 'created_from', 'result_msg'))
    )
    """,
    """
    CREATE UNIQUE INDEX job_labels_value_idx ON job_labels (project_id, kind, md5(value))
    """,
    """
    CREATE TABLE job_counts (
        project_id BIGINT NOT NULL,
        grain SMALLINT NOT NULL,
        block BIGINT NOT NULL,
        result_code INTEGER NOT NULL,
        creator_id BIGINT NOT NULL,
        created_from_id BIGINT NOT NULL,
        result_msg_id BIGINT NOT NULL,
        jobs BIGINT NOT NULL,
        first_created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (project_id, grain, block, result_code, creator_id, created_from_id, result_msg_id),
        CONSTRAINT grain_is_known CHECK (grain BETWEEN 0 AND 3),
        CONSTRAINT counts_are_of_jobs CHECK (jobs > 0)
    )
     WITH (fillfactor = 80)
    """,
)

_INDEXES = {
    "jobs_closed_idx": "(project_id, (id + 0)) INCLUDE (id)",
    "jobs_closed_code_idx": "(project_id, result_code, id)",
    "jobs_closed_creator_idx": "(project_id, hashtextextended(creator, 0), id)",
    "jobs_closed_created_from_idx": "(project_id, hashtextextended(created_from, 0), id)",
    "jobs_closed_result_msg_idx": (
        "(project_id, hashtextextended(translate(result_msg, '0123456789', '##########'), 0), id)"
    ),
}

_AUTOVACUUM = (
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_insert_scale_factor",
    "autovacuum_analyze_scale_factor",
)

# The history's partitions that exist already.
_EACH_PARTITION = """
DO $body$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT i.inhrelid::regclass
        FROM pg_inherits AS i
        INNER JOIN pg_class AS c ON i.inhrelid = c.oid
        WHERE c.relkind = 'r'
    LOOP
        EXECUTE 'ALTER TABLE ' || name || ' {change}';
    END LOOP;
END
$body$
"""

_ENSURE_PARTITIONS = """
CREATE OR REPLACE FUNCTION ensure_partitions() RETURNS integer LANGUAGE plpgsql AS $body$
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
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)'
                    ' WITH (autovacuum_vacuum_insert_scale_factor = 0.05)',
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

_ENSURE_PARTITIONS_BEFORE = """
CREATE OR REPLACE FUNCTION ensure_partitions() RETURNS integer LANGUAGE plpgsql AS $body$
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

_TURN_PARTITIONS = """
CREATE FUNCTION turn_partitions(lasts interval) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    history record;
    last_id bigint;
    begun_at timestamptz;
    turned integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('kennel.partitions'));
    FOR history IN
        SELECT * FROM (VALUES
            ('tasks', 'created_at', 'tasks_id_seq', 1000000::bigint),
            ('events', 'at', 'events_id_seq', 10000000)
        ) AS h (parent, written_at, key_sequence, width)
    LOOP
        EXECUTE format('SELECT last_value FROM %I', history.key_sequence) INTO last_id;
        EXECUTE format(
            'SELECT %I FROM %I WHERE id >= $1 ORDER BY id LIMIT 1',
            history.written_at, history.parent
        ) INTO begun_at USING last_id / history.width * history.width;
        IF begun_at < now() - lasts THEN
            PERFORM setval(history.key_sequence, (last_id / history.width + 1) * history.width);
            turned := turned + 1;
        END IF;
    END LOOP;
    RETURN turned;
END
$body$
"""

_DROP_PARTITIONS = """
CREATE FUNCTION drop_partitions(kept interval) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    family record;
    parent text;
    n bigint;
    last_id bigint;
    newest_at timestamptz;
    is_needed boolean;
    dropped text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('kennel.partitions')) THEN
        RETURN '{}';
    END IF;
    -- What is in the way ends soon or is tried again later: whoever comes after this waits for it.
    PERFORM set_config('lock_timeout', '50ms', true);
    FOR family IN
        SELECT * FROM (VALUES
            (
                array['tasks', 'task_outcomes', 'task_attempts', 'artifacts', 'blobs'],
                'created_at', 'tasks_id_seq', 1000000::bigint
            ),
            (array['events'], 'at', 'events_id_seq', 10000000)
        ) AS f (parents, written_at, key_sequence, width)
    LOOP
        SELECT min(substring(c.relname FROM '_p([0-9]+)$')::bigint) INTO n
        FROM pg_inherits AS i
        INNER JOIN pg_class AS c ON i.inhrelid = c.oid
        WHERE i.inhparent = to_regclass(family.parents[1]);
        EXECUTE format('SELECT last_value FROM %I', family.key_sequence) INTO last_id;
        CONTINUE WHEN n IS NULL OR last_id < (n + 1) * family.width;
        EXECUTE format(
            'SELECT %I FROM %I ORDER BY id DESC LIMIT 1',
            family.written_at, family.parents[1] || '_p' || n
        ) INTO newest_at;
        CONTINUE WHEN newest_at >= now() - kept;
        IF family.parents[1] = 'tasks' THEN
            EXECUTE format(
                'SELECT'
                ' EXISTS (SELECT FROM task_ready WHERE task_id < $1)'
                ' OR EXISTS (SELECT FROM task_pending WHERE task_id < $1)'
                ' OR EXISTS (SELECT FROM task_leases WHERE task_id < $1)'
                ' OR EXISTS ('
                '   SELECT FROM jobs AS j INNER JOIN %I AS t ON t.job_id = j.id'
                '   WHERE j.phase <> ''closed'''
                ' )'
                ' OR EXISTS (SELECT FROM %I WHERE closed_at >= now() - $2)',
                'tasks_p' || n, 'task_outcomes_p' || n
            ) INTO is_needed USING (n + 1) * family.width, kept;
            CONTINUE WHEN is_needed;
        END IF;
        FOREACH parent IN ARRAY family.parents LOOP
            EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', parent);
        END LOOP;
        -- Nobody writes now; whoever did while this was decided has ended.
        EXECUTE format(
            'SELECT %I FROM %I ORDER BY id DESC LIMIT 1',
            family.written_at, family.parents[1] || '_p' || n
        ) INTO newest_at;
        EXIT WHEN newest_at >= now() - kept;
        FOREACH parent IN ARRAY family.parents LOOP
            EXECUTE format('DROP TABLE IF EXISTS %I', parent || '_p' || n);
            dropped := dropped || (parent || '_p' || n);
        END LOOP;
        RETURN dropped;
    END LOOP;
    RETURN '{}';
END
$body$
"""

_NOTE_CLOSED_JOB = """
CREATE FUNCTION note_closed_job() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO uncounted_jobs (project_id, job_id) VALUES (NEW.project_id, NEW.id);
    RETURN NULL;
END
$body$
"""

_TRIGGERS = (
    """
CREATE TRIGGER jobs_closed AFTER UPDATE OF phase ON jobs FOR EACH ROW
WHEN (OLD.phase <> 'closed' AND NEW.phase = 'closed') EXECUTE FUNCTION note_closed_job()
""",
    """
CREATE TRIGGER jobs_made_closed AFTER INSERT ON jobs FOR EACH ROW
WHEN (NEW.phase = 'closed') EXECUTE FUNCTION note_closed_job()
""",
)


def upgrade() -> None:
    for statement in _TABLES:
        op.execute(statement)
    op.execute("DROP INDEX jobs_project_id_id_idx")
    for index, keys in _INDEXES.items():
        op.execute(f"CREATE INDEX {index} ON jobs {keys} WHERE phase = 'closed'")
    early = ", ".join(f"{name} = 0.02" for name in _AUTOVACUUM)
    op.execute(f"ALTER TABLE jobs SET ({early})")
    op.execute(f"ALTER TABLE scans SET ({early})")
    op.execute(_EACH_PARTITION.format(change="SET (autovacuum_vacuum_insert_scale_factor = 0.05)"))
    op.execute(_ENSURE_PARTITIONS)
    op.execute(_TURN_PARTITIONS)
    op.execute(_DROP_PARTITIONS)
    op.execute(_NOTE_CLOSED_JOB)
    for trigger in _TRIGGERS:
        op.execute(trigger)
    op.execute(
        "INSERT INTO uncounted_jobs (project_id, job_id)"
        " SELECT project_id, id FROM jobs WHERE phase = 'closed'"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER jobs_closed ON jobs")
    op.execute("DROP TRIGGER jobs_made_closed ON jobs")
    op.execute("DROP FUNCTION note_closed_job()")
    op.execute("DROP FUNCTION drop_partitions(interval)")
    op.execute("DROP FUNCTION turn_partitions(interval)")
    op.execute(_ENSURE_PARTITIONS_BEFORE)
    op.execute(_EACH_PARTITION.format(change="RESET (autovacuum_vacuum_insert_scale_factor)"))
    for table in ("jobs", "scans"):
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(_AUTOVACUUM)})")
    for index in _INDEXES:
        op.execute(f"DROP INDEX {index}")
    op.execute("CREATE INDEX jobs_project_id_id_idx ON jobs (project_id, id DESC)")
    for table in ("job_counts", "job_labels", "uncounted_jobs"):
        op.execute(f"DROP TABLE {table}")
