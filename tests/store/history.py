"""Rows as a busy server would have left them, so that a reading test need not run one."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from core.store.pool import Database

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that a worker holds."""

    task_id: int
    attempt_id: int
    worker_id: int
    token_hash: bytes


async def add_project(db: Database, *, org_sid: str | None = None) -> int:
    """A project with everything above it; return its id."""
    org_sid = org_sid or f"org-{secrets.token_hex(4)}"
    org = await db.fetchval(
        "INSERT INTO organizations (org_sid, name) VALUES ($1, $1) RETURNING id", org_sid
    )
    team = await db.fetchval(
        "INSERT INTO teams (org_id, name, display_name) VALUES ($1, 'core', 'Core') RETURNING id",
        org,
    )
    repo = await db.fetchval(
        "INSERT INTO repos (team_id, name, scm_url, creator) "
        "VALUES ($1, 'demo', 'https://git.example/demo.git', 'ann') RETURNING id",
        team,
    )
    scheme = await db.fetchval(
        "INSERT INTO schemes (repo_id, name) VALUES ($1, 'default') RETURNING id", repo
    )
    project: int = await db.fetchval(
        "INSERT INTO projects (repo_id, scheme_id, branch, creator) "
        "VALUES ($1, $2, 'main', 'ann') RETURNING id",
        repo,
        scheme,
    )
    return project


async def add_job(db: Database, project_id: int, **columns: Any) -> int:
    """A job and its scan; *columns* replace those of a waiting job. Return its id."""
    values: dict[str, Any] = {
        "project_id": project_id,
        "is_forced": True,
        "is_incremental": True,
        "created_from": "api",
        "creator": "ann",
        "created_at": NOON,
        "expires_at": NOON + timedelta(days=1),
        "runtime_limit_s": 3600,
    } | {name: value for name, value in columns.items() if not name.endswith("_line_num")}
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    job: int = await db.fetchval(
        f"INSERT INTO jobs ({names}) VALUES ({places}) RETURNING id", *values.values()
    )
    lines = [columns.get(f"{kind}_line_num") for kind in ("code", "comment", "blank", "total")]
    await db.execute(
        "INSERT INTO scans (job_id, project_id, scan_type, code_line_num, comment_line_num,"
        " blank_line_num, total_line_num) VALUES ($1, $2, 1, $3, $4, $5, $6)",
        job,
        project_id,
        *lines,
    )
    return job


async def close_job(
    db: Database, project_id: int, code: int = 0, msg: str = "success", **columns: Any
) -> int:
    """A job that ran for 2.5 s after 1.25 s in the queue."""
    times = {
        "started_at": NOON + timedelta(seconds=1.25),
        "ended_at": NOON + timedelta(seconds=3.75),
    }
    return await add_job(
        db,
        project_id,
        **({"phase": "closed", "result_code": code, "result_msg": msg} | times | columns),
    )


async def add_task(db: Database, job_id: int, engine: str = "pylint", kind: str = "engine") -> int:
    task: int = await db.fetchval(
        "INSERT INTO tasks (job_id, kind, engine, module, class_id, spec) "
        "VALUES ($1, $2, $3, 'codelint', 1, '{}') RETURNING id",
        job_id,
        kind,
        engine,
    )
    return task


async def add_worker(db: Database, name: str = "rex") -> int:
    worker: int = await db.fetchval(
        "INSERT INTO workers (name, instance_hash, engines, slots, isolation) "
        "VALUES ($1, $2, '[]', 2, 'group') RETURNING id",
        name,
        secrets.token_bytes(32),
    )
    return worker


async def hold(
    db: Database, job_id: int, task_id: int, *, number: int = 1, is_started: bool = True
) -> Held:
    """A lease on a task, by a worker of its own."""
    worker = await add_worker(db)
    token_hash = hashlib.sha256(secrets.token_bytes(32)).digest()
    attempt = await db.fetchval(
        "INSERT INTO task_leases (task_id, job_id, worker_id, number, token_hash, claim_id,"
        " claim_index, class_id, sort_key, failures, resets, offered_at, started_at, project_id)"
        " SELECT $1, $2, $3, $4, $5, $6, 0, 1, 0, 0, 0, $7, $8, j.project_id"
        " FROM jobs AS j WHERE j.id = $2 RETURNING attempt_id",
        task_id,
        job_id,
        worker,
        number,
        token_hash,
        uuid.uuid4(),
        NOON + timedelta(seconds=1),
        NOON + timedelta(seconds=1.25) if is_started else None,
    )
    return Held(task_id, attempt, worker, token_hash)


async def close_task(
    db: Database,
    job_id: int,
    held: Held,
    *,
    reason: str | None = None,
    code: int = 0,
    msg: str = "success",
    result: dict[str, Any] | None = None,
) -> None:
    """The lease ends: an attempt in the history, and the task's outcome."""
    outcome = "succeeded" if reason is None else "failed"
    await db.execute(
        "WITH ended AS (DELETE FROM task_leases WHERE attempt_id = $1 RETURNING *)"
        " INSERT INTO task_attempts (task_id, attempt_id, job_id, worker_id, number, token_hash,"
        " outcome, reason, offered_at, started_at, ended_at)"
        " SELECT task_id, attempt_id, job_id, worker_id, number, token_hash, $2, $3, offered_at,"
        " started_at, started_at + interval '2 s' FROM ended",
        held.attempt_id,
        outcome,
        reason,
    )
    await db.execute(
        "INSERT INTO task_outcomes (task_id, job_id, outcome, reason, result_code, result_msg,"
        " attempt_id, result, closed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        held.task_id,
        job_id,
        outcome,
        reason,
        code,
        msg,
        held.attempt_id,
        result or {},
        NOON + timedelta(seconds=3.25),
    )
