"""Partitions are made without standing in the way of those who read or write the history.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

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


def upgrade() -> None:
    op.execute(_ENSURE_PARTITIONS)


def downgrade() -> None:
    op.execute(_ENSURE_PARTITIONS_BEFORE)
