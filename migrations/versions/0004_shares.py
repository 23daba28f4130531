"""Shares of the queue: weights, limits, the clocks of projects, the grants of limited tasks.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_HOT = (
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,"
    " autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,"
    " autovacuum_analyze_threshold = 5000"
)
_WEIGHED = {"organizations": "organization", "projects": "project"}


def upgrade() -> None:
    for table, name in _WEIGHED.items():
        op.execute(
            f"ALTER TABLE {table}"
            " ADD COLUMN weight SMALLINT DEFAULT '1' NOT NULL,"
            " ADD COLUMN max_running INTEGER,"
            f" ADD CONSTRAINT {name}_weight_is_bounded CHECK (weight BETWEEN 1 AND 100),"
            f" ADD CONSTRAINT {name}_limit_is_a_count CHECK (max_running >= 0)"
        )
    op.execute(
        """
        CREATE TABLE engine_limits (
            engine TEXT NOT NULL,
            max_running INTEGER NOT NULL,
            PRIMARY KEY (engine),
            CONSTRAINT engine_limit_is_a_count CHECK (max_running >= 0)
        )
        """
    )
    op.execute(
        f"""
        CREATE UNLOGGED TABLE share_clocks (
            project_id BIGINT NOT NULL,
            org_id BIGINT NOT NULL,
            weight SMALLINT NOT NULL,
            last_place BIGINT NOT NULL,
            charged_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
            PRIMARY KEY (project_id)
        )
         WITH (fillfactor = 50, {_HOT})
        """
    )
    op.execute("CREATE INDEX share_clocks_org_id_idx ON share_clocks (org_id)")
    op.execute(
        f"""
        CREATE TABLE task_grants (
            task_id BIGINT NOT NULL,
            project_id BIGINT NOT NULL,
            org_id BIGINT NOT NULL,
            engine TEXT NOT NULL,
            PRIMARY KEY (task_id)
        )
         WITH (fillfactor = 70, {_HOT})
        """
    )
    op.execute("ALTER TABLE jobs ADD COLUMN first_key BIGINT, ADD COLUMN key_step BIGINT")
    op.execute("ALTER TABLE task_pending ADD COLUMN preferred_worker_id BIGINT")
    op.execute("DROP INDEX task_pending_not_before_idx")
    op.execute(
        "CREATE INDEX task_pending_not_before_idx ON task_pending (not_before)"
        " WHERE reason = 'retry'"
    )
    op.execute(
        "CREATE INDEX task_pending_limited_idx"
        " ON task_pending (project_id, class_id, sort_key, task_id) WHERE reason <> 'retry'"
    )
    op.execute(
        "ALTER TABLE task_pending ADD CONSTRAINT pending_reason_is_known CHECK"
        " (reason IN ('retry', 'limit_organization', 'limit_project', 'limit_engine'))"
    )
    op.execute("DROP INDEX jobs_forced_waiting_idx")
    op.execute(
        "CREATE INDEX jobs_waiting_idx ON jobs (project_id, is_forced, id) WHERE phase = 'waiting'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX jobs_waiting_idx")
    op.execute(
        "CREATE INDEX jobs_forced_waiting_idx ON jobs (id) WHERE phase = 'waiting' AND is_forced"
    )
    op.execute("ALTER TABLE task_pending DROP CONSTRAINT pending_reason_is_known")
    op.execute("DROP INDEX task_pending_limited_idx")
    op.execute("DROP INDEX task_pending_not_before_idx")
    op.execute("CREATE INDEX task_pending_not_before_idx ON task_pending (not_before)")
    # Without limits nothing waits for one: it is due.
    op.execute(
        "UPDATE task_pending SET reason = 'retry', not_before = now() WHERE reason <> 'retry'"
    )
    op.execute("ALTER TABLE task_pending DROP COLUMN preferred_worker_id")
    op.execute("ALTER TABLE jobs DROP COLUMN first_key, DROP COLUMN key_step")
    op.execute("DROP TABLE task_grants")
    op.execute("DROP TABLE share_clocks")
    op.execute("DROP TABLE engine_limits")
    for table, name in _WEIGHED.items():
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {name}_weight_is_bounded,"
            f" DROP CONSTRAINT {name}_limit_is_a_count,"
            " DROP COLUMN weight, DROP COLUMN max_running"
        )
