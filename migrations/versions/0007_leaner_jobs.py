"""Plans that stay cheap: no foreign keys of jobs, indexes of open jobs that only searches mean.

* PostgreSQL checked each new job and scan with a statement of its own, planned once a connection:
  while the tables were small, as a walk through all of it, which grew with them. The one statement
  that writes them locks what they name.
* To statistics that know closed jobs only, an index of the open ones is empty; whoever named a job
  by its id and its phase was led through all of it. It is found by `ended_at` now.
* A queue's file that VACUUM has cut to no pages makes every plan read it whole ever after.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


_QUEUES = (
    "uncounted_jobs",
    "task_pending",
    "task_ready",
    "share_clocks",
    "task_grants",
    "task_leases",
    "attempt_progress",
)
#: name → what it indexes, the open jobs before and now
_INDEXES = {
    "jobs_open_idx": ("(project_id, id)", "phase <> 'closed'", "ended_at IS NULL"),
    "jobs_waiting_idx": (
        "(project_id, is_forced, id)",
        "phase = 'waiting'",
        "phase = 'waiting' AND ended_at IS NULL",
    ),
    "jobs_expires_at_idx": (
        "(expires_at)",
        "phase <> 'closed'",
        "ended_at IS NULL AND saving_at IS NULL",
    ),
}


def upgrade() -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_project_id_fkey")
    op.execute("ALTER TABLE scans DROP CONSTRAINT scans_job_id_fkey")
    for name, (columns, _, condition) in _INDEXES.items():
        op.execute(f"DROP INDEX {name}")
        op.execute(f"CREATE INDEX {name} ON jobs {columns} WHERE {condition}")
    for queue in _QUEUES:
        op.execute(f"ALTER TABLE {queue} SET (vacuum_truncate = off)")


def downgrade() -> None:
    for queue in _QUEUES:
        op.execute(f"ALTER TABLE {queue} RESET (vacuum_truncate)")
    for name, (columns, condition, _) in _INDEXES.items():
        op.execute(f"DROP INDEX {name}")
        op.execute(f"CREATE INDEX {name} ON jobs {columns} WHERE {condition}")
    op.execute(
        "ALTER TABLE scans ADD CONSTRAINT scans_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobs (id)"
    )
    op.execute(
        "ALTER TABLE jobs"
        " ADD CONSTRAINT jobs_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id)"
    )
