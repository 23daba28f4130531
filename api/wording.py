"""Jobs and tasks as answers word them: from what the store found to the documented fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from api.envelope import wire_time
from api.schemas.jobs import JobDetailItem, JobItem, JobResult, TaskItem
from core.domain.codes import text
from core.domain.states import JobState
from core.store.details import JobDetail, TaskDetail
from core.store.listing import ListedJob


def seconds(value: float) -> str:
    """Return seconds as the contract writes them: up to six decimals, no trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def job_item(job: ListedJob, zone: ZoneInfo) -> JobItem:
    """Word a line of the list."""
    return {
        "id": job.id,
        "state": job.state,
        "result_code": job.result_code,
        "result_msg": job.result_msg,
        "code_line_num": job.code_line_num,
        "comment_line_num": job.comment_line_num,
        "blank_line_num": job.blank_line_num,
        "total_line_num": job.total_line_num,
        "create_time": wire_time(job.created_at, zone),
        "start_time": _time(job.started_at, zone),
        "end_time": _time(job.ended_at, zone),
        "creator": job.creator,
        "created_from": job.created_from,
        "scan_id": job.scan_id,
    }


def job_detail(job: JobDetail, zone: ZoneInfo) -> JobDetailItem:
    """Word the detail of a job."""
    tasks = [task_item(task, zone) for task in job.tasks]
    return {
        "id": job.id,
        "scan_id": job.scan_id,
        "create_time": wire_time(job.created_at, zone),
        "waiting_time": seconds(job.waiting_s),
        "start_time": _time(job.started_at, zone),
        "execute_time": None if job.execute_s is None else seconds(job.execute_s),
        "project": {
            "id": job.project_id,
            "branch": job.branch,
            "repo_id": job.repo_id,
            "scan_scheme": job.scheme_id,
            "repo_scm_url": job.scm_url,
        },
        "end_time": _time(job.ended_at, zone),
        "expire_time": wire_time(job.expires_at, zone),
        "task_num": job.task_num,
        "task_done": job.task_done,
        "tasks": tasks,
        "co_jobs": [
            {"id": other.id, "scan_id": other.scan_id, "state": other.state}
            for other in job.co_jobs
        ],
        "state": job.state,
        "result_code": job.result_code,
        "result_code_msg": text(job.result_code),
        "result_msg": job.result_msg,
        "result_path": job_result_path(job),
        "remarks": job.remarks,
        "remarked_by": job.remarked_by,
        "code_line_num": job.code_line_num,
        "comment_line_num": job.comment_line_num,
        "blank_line_num": job.blank_line_num,
        "total_line_num": job.total_line_num,
        "created_from": job.created_from,
        "creator": job.creator,
        "incr_scan": job.is_incremental,
        "force_create": job.is_forced,
        "scan_type": job.scan_type,
        "full_reason": job.full_reason,
        "revision": job.revision,
        "base_revision": job.base_revision,
        "base_scan_id": job.base_scan_id,
        "findings": _total(task["findings"] for task in tasks),
        "is_history_pruned": job.task_num > len(job.tasks) and job.state is JobState.CLOSED,
    }


def task_item(task: TaskDetail, zone: ZoneInfo) -> TaskItem:
    """Word a task."""
    result = task.result or {}
    return {
        "id": task.id,
        "module": task.module,
        "task_name": task.engine,
        "progress_rate": task.progress_rate,
        "state": task.state,
        "result_code": task.result_code,
        "result_msg": task.result_msg,
        "result_path": f"/api/v1/tasks/{task.id}/result" if task.has_result else None,
        "result_code_msg": text(task.result_code),
        "reason": task.reason,
        "start_time": _time(task.started_at, zone),
        "end_time": _time(task.ended_at, zone),
        "attempts": task.attempts,
        "worker": task.worker,
        "engine_version": result.get("engine_version") or None,
        "coverage": result.get("coverage"),
        "findings": dict(result.get("findings") or {}),
        "log_path": f"/api/v1/tasks/{task.id}/log" if task.has_log else None,
    }


def job_result_path(job: JobDetail) -> str | None:
    """Return where the result of a job is; None while it is open."""
    return f"/api/v1/jobs/{job.id}/result" if job.state is JobState.CLOSED else None


def job_result(job: JobDetail, zone: ZoneInfo) -> JobResult:
    """Word what came of a closed job."""
    shown = job_detail(job, zone)
    of_job = ("id", "project", "state", "result_code", "result_code_msg", "result_msg")
    of_times = ("create_time", "start_time", "end_time")
    of_scan = ("scan_type", "full_reason", "revision", "base_revision", "base_scan_id")
    of_lines = ("code_line_num", "comment_line_num", "blank_line_num", "total_line_num")
    return {
        "job": _pick(shown, of_job + of_times),
        "scan": {"id": job.scan_id, **_pick(shown, of_scan + of_lines), "engines": job.engines},
        "tasks": shown["tasks"],
        "findings": {task["task_name"]: task["findings"] for task in shown["tasks"]},
    }


def _pick(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _time(moment: datetime | None, zone: ZoneInfo) -> str | None:
    return None if moment is None else wire_time(moment, zone)


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
