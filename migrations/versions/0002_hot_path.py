"""The hot path: fewer indexes to write a task, what a batched claim reads, quarantine.

A job's tasks are found through `tasks` and then by their own keys, so that the tables a task
moves through need no index on the job.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_QUEUE = ("task_pending", "task_ready", "task_leases")

_DROPPED = {
    "jobs_waiting_idx": "jobs (id) WHERE phase = 'waiting'",
    "task_outcomes_job_id_idx": "task_outcomes (job_id)",
    "task_pending_job_id_idx": "task_pending (job_id)",
    "task_ready_job_id_idx": "task_ready (job_id)",
    "task_leases_worker_id_idx": "task_leases (worker_id)",
    "task_leases_job_id_idx": "task_leases (job_id)",
    "task_attempts_job_id_idx": "task_attempts (job_id)",
}


def upgrade() -> None:
    for index in _DROPPED:
        op.execute(f"DROP INDEX {index}")
    op.execute("ALTER TABLE task_leases DROP CONSTRAINT task_leases_token_hash_key")
    op.execute(
        "CREATE INDEX jobs_forced_waiting_idx ON jobs (id) WHERE phase = 'waiting' AND is_forced"
    )
    for table in _QUEUE:
        op.execute(f"ALTER TABLE {table} ADD COLUMN project_id BIGINT")
        op.execute(
            f"UPDATE {table} AS t SET project_id = j.project_id"  # noqa: S608 - names of our own
            " FROM jobs AS j WHERE j.id = t.job_id"
        )
        op.execute(f"ALTER TABLE {table} ALTER COLUMN project_id SET NOT NULL")
    for table in ("task_pending", "task_ready"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN attempts SMALLINT DEFAULT '0' NOT NULL")
        op.execute(
            f"UPDATE {table} AS t SET attempts ="  # noqa: S608 - names of our own
            " (SELECT count(*) FROM task_attempts AS a WHERE a.task_id = t.task_id)"
        )
    op.execute("ALTER TABLE task_ready ADD COLUMN engine TEXT, ADD COLUMN spec JSONB")
    op.execute(
        "ALTER TABLE task_leases"
        " ADD COLUMN log_bytes BIGINT DEFAULT '0' NOT NULL,"
        " ADD COLUMN artifacts JSONB DEFAULT '[]'::jsonb NOT NULL"
    )
    op.execute(
        "UPDATE task_leases AS l SET"
        " log_bytes = coalesce((SELECT max(b.position + octet_length(b.content)) FROM blobs AS b"
        " WHERE b.task_id = l.task_id AND b.attempt_id = l.attempt_id AND b.name = 'log'), 0),"
        " artifacts = coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.name,"
        " 'size_bytes', a.size_bytes, 'sha256', encode(a.sha256, 'hex')))"
        " FROM artifacts AS a WHERE a.task_id = l.task_id AND a.attempt_id = l.attempt_id), '[]')"
    )
    op.execute(
        "ALTER TABLE workers"
        " ADD COLUMN class_ids INTEGER[] DEFAULT '{}'::integer[] NOT NULL,"
        " ADD COLUMN faults SMALLINT DEFAULT '0' NOT NULL,"
        " ADD COLUMN first_fault_at TIMESTAMP WITH TIME ZONE,"
        " ADD COLUMN quarantined_until TIMESTAMP WITH TIME ZONE,"
        " ADD COLUMN quarantine_reason TEXT"
    )
    op.execute(
        "UPDATE workers AS w SET class_ids = coalesce("
        "(SELECT array_agg(wc.class_id ORDER BY wc.class_id)"
        " FROM worker_classes AS wc WHERE wc.worker_id = w.id), '{}')"
    )
    # 2: older code writes tasks without their project
    op.execute("UPDATE schema_info SET oldest_code = 2")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE workers DROP COLUMN class_ids, DROP COLUMN faults, DROP COLUMN first_fault_at,"
        " DROP COLUMN quarantined_until, DROP COLUMN quarantine_reason"
    )
    op.execute("ALTER TABLE task_leases DROP COLUMN log_bytes, DROP COLUMN artifacts")
    op.execute("ALTER TABLE task_ready DROP COLUMN engine, DROP COLUMN spec")
    for table in ("task_pending", "task_ready"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN attempts")
    for table in _QUEUE:
        op.execute(f"ALTER TABLE {table} DROP COLUMN project_id")
    op.execute("DROP INDEX jobs_forced_waiting_idx")
    op.execute(
        "ALTER TABLE task_leases ADD CONSTRAINT task_leases_token_hash_key UNIQUE (token_hash)"
    )
    for index, definition in _DROPPED.items():
        op.execute(f"CREATE INDEX {index} ON {definition}")
    op.execute("UPDATE schema_info SET oldest_code = 1")
