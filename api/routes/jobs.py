"""Jobs: listed, shown, cancelled, and what came of them."""

from __future__ import annotations

from aiohttp import web

from api.envelope import bare, enveloped
from api.errors import Refused
from api.gathering import GATHERING
from api.keys import PRINCIPAL, STORE, ZONE
from api.operations import PROJECT, Answer, Operations, in_envelope, in_page
from api.pagination import page
from api.principals import Access
from api.schemas.jobs import CancelJob, Cancelled, JobDetailItem, JobItem, JobQuery, JobResult
from api.scope import entered_project, org_scope, path_id
from api.wording import job_detail, job_item, job_result
from core.domain.errors import NotFound
from core.domain.ids import JobId, ProjectId
from core.domain.states import JobState
from core.runtime.logs import get_logger
from core.store import details, jobs
from core.store.details import JobDetail
from core.store.listing import Asked, TooBroad, list_filtered

log = get_logger(__name__)

operations = Operations("jobs")

_NARROW = "narrow it with create_time_gte and create_time_lte, state or result_code_gte and _lte"
CANCELLED_TEXT = "取消成功"


@operations.get(
    PROJECT + "/jobs/",
    summary="List the jobs of a project, newest first",
    access=Access.VIEWER,
    is_in_project=True,
    query=JobQuery,
    answers={200: in_page(JobItem)},
)
async def list_of_project(request: web.Request, query: JobQuery) -> web.Response:
    project = entered_project(request)
    zone = request.app[ZONE]
    try:
        asked = Asked(project.id, query.filter(zone), query.limit, query.offset)
        if asked.is_plain:
            found = await request.app[GATHERING].lists(asked)
        else:
            found = await list_filtered(request.app[STORE], asked)
    except TooBroad as broad:
        raise Refused(400, f"{broad}: {_NARROW}") from None
    results = [job_item(job, zone) for job in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    PROJECT + "/jobs/{job_id}/detail/",
    summary="Show a job with its tasks",
    access=Access.VIEWER,
    is_in_project=True,
    answers={200: in_envelope(JobDetailItem)},
)
async def show_detail(request: web.Request) -> web.Response:
    project = entered_project(request)
    job = await _detail(request, project.id)
    return enveloped(job_detail(job, request.app[ZONE]))


@operations.post(
    PROJECT + "/jobs/{job_id}/cancel/",
    summary="Cancel a job",
    description="Its running tasks are killed. A job that is closed stays as it is.",
    access=Access.MEMBER,
    is_in_project=True,
    body=CancelJob,
    answers={200: in_envelope(Cancelled)},
)
async def cancel_job(request: web.Request, body: CancelJob) -> web.Response:
    project = entered_project(request)
    job_id = JobId(path_id(request, "job_id"))
    if await details.project_of_job(request.app[STORE], job_id, None) != project.id:
        raise NotFound(f"job {job_id}")
    by = request[PRINCIPAL].name
    is_cancelled = await jobs.cancel(request.app[STORE], job_id, remarks=body.remarks, by=by)
    log.info("job.cancelled" if is_cancelled else "job.found_closed", job_id=job_id)
    return enveloped({"msg": CANCELLED_TEXT}, msg=CANCELLED_TEXT)


@operations.get(
    "/api/v1/jobs/{job_id}/result",
    summary="What came of a closed job: scan, tasks, findings by engine and severity",
    access=Access.VIEWER,
    answers={200: Answer(JobResult)},
)
async def show_result(request: web.Request) -> web.Response:
    job_id = JobId(path_id(request, "job_id"))
    project_id = await details.project_of_job(request.app[STORE], job_id, org_scope(request))
    if project_id is None:
        raise NotFound(f"job {job_id}")
    job = await _detail(request, project_id)
    if job.state is not JobState.CLOSED:
        raise NotFound(f"the result of job {job_id}, which is not closed,")
    return bare(job_result(job, request.app[ZONE]))


async def _detail(request: web.Request, project_id: ProjectId) -> JobDetail:
    job_id = JobId(path_id(request, "job_id"))
    found = await request.app[GATHERING].details((project_id, job_id))
    if found is None:
        raise NotFound(f"job {job_id}")
    return found
