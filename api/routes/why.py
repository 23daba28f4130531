"""Why a job and each of its tasks is where it is: asked of the tables, told in one clause."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import cast
from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import bare, enveloped, wire_time
from api.keys import SETTINGS, STORE, ZONE
from api.operations import PROJECT, Answer, Operations, in_envelope
from api.principals import Access
from api.schemas.why import JobWhy, WhyCause, WhyEstimate, WhyFacts, WhyTask
from api.scope import entered_project, org_scope, path_id
from core.domain.errors import NotFound
from core.domain.ids import JobId
from core.domain.waiting import Cause, Estimate, text
from core.store import details, why
from core.store.why import TaskExplanation

operations = Operations("jobs")

_DESCRIPTION = (
    "One reason for the job and one for each of its tasks, as of one moment; the job's is its own, "
    "or that of its task that is furthest from its end."
)


@operations.get(
    PROJECT + "/jobs/{job_id}/why/",
    summary="Say why a job is not closed yet, and each of its tasks",
    description=_DESCRIPTION,
    access=Access.VIEWER,
    is_in_project=True,
    answers={200: in_envelope(JobWhy)},
)
async def explain_job(request: web.Request) -> web.Response:
    project = entered_project(request)
    job_id = JobId(path_id(request, "job_id"))
    if await details.project_of_job(request.app[STORE], job_id, None) != project.id:
        raise NotFound(f"job {job_id}")
    return enveloped(await _why(request, job_id))


@operations.get(
    "/api/v1/jobs/{job_id}/why",
    summary="Say why a job is not closed yet, by its id alone",
    description=_DESCRIPTION,
    access=Access.VIEWER,
    answers={200: Answer(JobWhy)},
)
async def explain_job_by_id(request: web.Request) -> web.Response:
    job_id = JobId(path_id(request, "job_id"))
    if await details.project_of_job(request.app[STORE], job_id, org_scope(request)) is None:
        raise NotFound(f"job {job_id}")
    return bare(await _why(request, job_id))


async def _why(request: web.Request, job_id: JobId) -> JobWhy:
    zone = request.app[ZONE]
    found = await why.explain(request.app[STORE], job_id, lease=request.app[SETTINGS].lease)
    return {
        "id": found.job_id,
        "scan_id": found.scan_id,
        "phase": found.phase,
        **_cause(found.cause, found.at, zone),
        "as_of": wire_time(found.at, zone),
        "task_id": found.task_id,
        "expire_time": _time(found.expires_at, zone),
        "ends_in_s": found.ends_in_s,
        "tasks": [_task(task, found.at, zone) for task in found.tasks],
    }


def _task(task: TaskExplanation, at: datetime, zone: ZoneInfo) -> WhyTask:
    return {
        "id": task.task_id,
        "kind": task.kind,
        "task_name": task.engine,
        **_cause(task.cause, at, zone),
        "estimate": _estimate(task.estimate),
    }


def _cause(cause: Cause, at: datetime, zone: ZoneInfo) -> WhyCause:
    facts = dataclasses.asdict(cause)
    facts.pop("reason", None)
    return {
        "reason": cause.reason,
        "text": text(cause, at=at),
        "since": _time(facts.pop("since", None), zone),
        "until": _time(facts.pop("until", None), zone),
        "facts": cast("WhyFacts", facts),
    }


def _estimate(estimate: Estimate | None) -> WhyEstimate | None:
    if estimate is None:
        return None
    return {
        "starts_in_s": estimate.starts_in_s,
        "ends_in_s": estimate.ends_in_s,
        "median_s": estimate.median_s,
        "samples": estimate.samples,
    }


def _time(moment: datetime | None, zone: ZoneInfo) -> str | None:
    return None if moment is None else wire_time(moment, zone)
