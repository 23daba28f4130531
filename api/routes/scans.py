"""Starting a scan: one operation under two addresses, bare as documented and in the envelope."""

from __future__ import annotations

import re

from aiohttp import web

from api.envelope import bare, enveloped
from api.errors import invalid
from api.gathering import GATHERING
from api.holding import HOLDING
from api.keys import PRINCIPAL, SETTINGS, STORE
from api.operations import ORGS, ORGS_V3, PROJECT, Answer, Operations, in_envelope
from api.principals import Access
from api.schemas.scans import CreatedJob, CreateScan, ScanCreated
from api.scope import entered_project
from core.domain.ids import JobId
from core.domain.states import ActiveJobPolicy
from core.runtime.logs import get_logger
from core.store import jobs
from core.store.jobs import Created, Idempotency, NewJob
from core.store.projects import EnteredProject

log = get_logger(__name__)

operations = Operations("scans")

IDEMPOTENCY_KEY = "Idempotency-Key"
_KEY = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")
_HEADERS = {
    IDEMPOTENCY_KEY: "Up to 200 printable ASCII characters; the same key again answers the first "
    "one's ids, for 24 hours."
}
_STILL_OPEN = (
    "With `async_flag` false: the job is still open after the longest wait, or the server stops."
)
_DESCRIPTION = (
    "With `async_flag` false the answer comes when the job is closed, and says how it ended. "
    "A caller that goes away cancels nothing."
)


@operations.post(
    PROJECT + "/scans/create/",
    summary="Start a scan",
    description=_DESCRIPTION,
    access=Access.MEMBER,
    is_in_project=True,
    body=CreateScan,
    headers=_HEADERS,
    answers={200: Answer(ScanCreated), 202: Answer(ScanCreated, description=_STILL_OPEN)},
)
async def create_scan(request: web.Request, body: CreateScan) -> web.Response:
    created, is_settled = await _create(request, body)
    return bare(created, status=200 if is_settled else 202)


@operations.post(
    ORGS_V3 + PROJECT.removeprefix(ORGS) + "/scans/",
    summary="Start a scan, answered in the envelope",
    description=_DESCRIPTION,
    access=Access.MEMBER,
    is_in_project=True,
    body=CreateScan,
    headers=_HEADERS,
    answers={
        200: in_envelope(ScanCreated),
        202: in_envelope(ScanCreated, description=_STILL_OPEN),
    },
)
async def create_scan_v3(request: web.Request, body: CreateScan) -> web.Response:
    created, is_settled = await _create(request, body)
    return enveloped(created, status=200 if is_settled else 202)


async def _create(request: web.Request, body: CreateScan) -> tuple[ScanCreated, bool]:
    """Create a job; return the answer and whether it says all that was asked for."""
    project = entered_project(request)
    settings = request.app[SETTINGS]
    new = NewJob(
        project_id=project.id,
        is_incremental=body.incr_scan,
        is_forced=body.force_create,
        revision=body.revision,
        created_from=body.created_from,
        creator=request[PRINCIPAL].name,
        policy=_policy(project, settings.api.active_job_policy),
        queue_limit_s=settings.scheduler.queue_limit_s,
        idempotency=_idempotency(request),
    )
    created = await _written(request, new)
    log.info(
        "job.created" if created.is_new else "job.joined",
        job_id=created.job_id,
        project_id=project.id,
    )
    answer: ScanCreated = {"job": {"id": created.job_id}, "scan": {"id": created.scan_id}}
    if body.async_flag:
        return answer, True
    answer["job"], is_closed = await _until_closed(request, created.job_id)
    return answer, is_closed


async def _written(request: web.Request, new: NewJob) -> Created:
    """Write a job: a plain one together with those of other requests."""
    if new.is_plain:
        created = await request.app[GATHERING].creates(new)
        if created is not None:
            return created
    # What has to look first has a transaction of its own; so has a refusal, to say why.
    return await jobs.create(request.app[STORE], new)


async def _until_closed(request: web.Request, job_id: JobId) -> tuple[CreatedJob, bool]:
    wait_s = request.app[SETTINGS].api.sync_wait_s
    closed = await request.app[HOLDING].until_closed(request, job_id, timeout_s=wait_s)
    if closed is None:
        return {"id": job_id}, False
    return {
        "id": job_id,
        "state": closed.state,
        "result_code": closed.result_code,
        "result_msg": closed.result_msg,
    }, True


def _policy(project: EnteredProject, default: ActiveJobPolicy) -> ActiveJobPolicy:
    return project.active_job_policy or default


def _idempotency(request: web.Request) -> Idempotency | None:
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise invalid(IDEMPOTENCY_KEY, "must be one header of 1 to 200 printable ASCII characters")
    return Idempotency(request[PRINCIPAL].token_id, keys[0])
