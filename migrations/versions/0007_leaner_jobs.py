"""Jobs and scans without foreign keys: the one statement that writes them locks what they name.

PostgreSQL checked each row with a statement of its own, planned once a connection: while the
tables were small, as a walk through all of it, which grew with them.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_project_id_fkey")
    op.execute("ALTER TABLE scans DROP CONSTRAINT scans_job_id_fkey")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE scans ADD CONSTRAINT scans_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobs (id)"
    )
    op.execute(
        "ALTER TABLE jobs"
        " ADD CONSTRAINT jobs_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id)"
    )
