"""What answers why: who admitted a job and since when, and when a worker's last fault was.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE jobs"
        " ADD COLUMN admitted_by TEXT,"
        " ADD COLUMN admitted_at TIMESTAMP WITH TIME ZONE"
    )
    op.execute("ALTER TABLE workers ADD COLUMN last_fault_at TIMESTAMP WITH TIME ZONE")


def downgrade() -> None:
    op.execute("ALTER TABLE workers DROP COLUMN last_fault_at")
    op.execute("ALTER TABLE jobs DROP COLUMN admitted_by, DROP COLUMN admitted_at")
