"""What the schema does by itself: functions over partitions, and the trigger that counts.

Part of the truth that the migrations are compared with, beside `core.store.tables`, which makes
them after the tables. Written in PL/pgSQL only where a statement cannot be: names of partitions.
"""

from __future__ import annotations

#: Partitions of the history: (table, key sequence, rows a partition).
ENSURE_PARTITIONS = """
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
                -- Made apart and attached: neither waits for those who read the table, nor has
                -- anybody wait who reads or writes it.
                EXECUTE format(
                    'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
                    ' WITH (autovacuum_vacuum_insert_scale_factor = 0.05)',
                    history.parent || '_p' || n, history.parent
                );
                EXECUTE format(
                    'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                    history.parent, history.parent || '_p' || n,
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

#: Begin the next range of ids where the present one has lasted: a small server fills none in years.
TURN_PARTITIONS = """
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

#: Drop the oldest range of tasks, or else of events, when nothing in it is needed any more; return
#: the names of the partitions, none when there is no such range.
DROP_PARTITIONS = """
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

#: Whichever statement closes a job: it is one more to be counted, in the same transaction.
NOTE_CLOSED_JOB = """
CREATE FUNCTION note_closed_job() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO uncounted_jobs (project_id, job_id) VALUES (NEW.project_id, NEW.id);
    RETURN NULL;
END
$body$
"""
JOB_TRIGGERS = (
    """
CREATE TRIGGER jobs_closed AFTER UPDATE OF phase ON jobs FOR EACH ROW
WHEN (OLD.phase <> 'closed' AND NEW.phase = 'closed') EXECUTE FUNCTION note_closed_job()
""",
    """
CREATE TRIGGER jobs_made_closed AFTER INSERT ON jobs FOR EACH ROW
WHEN (NEW.phase = 'closed') EXECUTE FUNCTION note_closed_job()
""",
)

#: All of them, in the order they are made.
ROUTINES = (ENSURE_PARTITIONS, TURN_PARTITIONS, DROP_PARTITIONS, NOTE_CLOSED_JOB, *JOB_TRIGGERS)
