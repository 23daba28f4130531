"""Jobs as the scheduler loads them, for its pure functions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from core.domain.ids import JobId, ProjectId, RepoId, ScanId
from core.domain.states import ScanType
from core.store.admissions import Base, JobPlan

BASE = Base(JobId(1), ScanId(1), "b" * 40, None, {"lines": "1"})


def job_plan(*, config_hash: str | None = None, **changes: Any) -> JobPlan:
    """A job as the scheduler loads it; *changes* replace what a plain one has."""
    base = changes.pop("base", None)
    if base is not None:
        base = Base(base.job_id, base.scan_id, base.revision, config_hash, base.engines)
    values: dict[str, Any] = {
        "job_id": JobId(7),
        "project_id": ProjectId(1),
        "repo_id": RepoId(1),
        "scan_id": ScanId(7),
        "created_at": datetime(2026, 11, 22, tzinfo=UTC),
        "priority": 0,
        "is_incremental": True,
        "asked_revision": None,
        "branch": "main",
        "scan_path": "",
        "scm_url": "https://git.example/x.git",
        "scm_auth": None,
        "languages": [],
        "engines": None,
        "inclusion": [],
        "exclusion": [],
        "tag": None,
        "allow_repo_config": False,
        "scan_type": ScanType.INCREMENTAL,
        "full_reason": None,
        "revision": "a" * 40,
        "scan_base_revision": None,
    }
    return JobPlan(base=base, **(values | changes))
