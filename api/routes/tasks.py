"""What tasks left behind: results and logs, as the worker sent them."""

from __future__ import annotations

from aiohttp import ClientConnectionError, web

from api.envelope import error
from api.errors import Refused
from api.keys import STORE
from api.operations import Answer, Operations
from api.principals import Access
from api.schemas.tasks import LogQuery
from api.scope import org_scope, path_id
from core.domain.errors import NotFound
from core.domain.ids import AttemptId, TaskId
from core.protocol.messages import RESULT_ARTIFACT, EngineReport
from core.store import blobs, details
from core.store.details import TaskScope

operations = Operations("tasks")

_GONE = Answer(description="The task is older than the history that is kept.")


@operations.get(
    "/api/v1/tasks/{task_id}/result",
    summary="The result document of a task",
    access=Access.VIEWER,
    answers={200: Answer(EngineReport), 410: _GONE},
)
async def show_result(request: web.Request) -> web.StreamResponse:
    scope = await _scope(request)
    attempt_id = scope.accepted_attempt_id
    if attempt_id is None:
        raise NotFound(f"the result of task {scope.task_id}")
    found = await blobs.artifacts_of(request.app[STORE], scope.task_id, attempt_id)
    artifact = next((one for one in found if one.name == RESULT_ARTIFACT), None)
    if artifact is None:
        raise NotFound(f"the result of task {scope.task_id}")
    response = web.StreamResponse(headers={"ETag": f'"{artifact.sha256.hex()}"'})
    response.content_type = "application/json"
    name = blobs.artifact_blob(RESULT_ARTIFACT)
    return await _send(request, response, scope.task_id, attempt_id, name, 0, artifact.size_bytes)


@operations.get(
    "/api/v1/tasks/{task_id}/log",
    summary="The log of a task",
    description="Of its last attempt, also while it runs. One byte range can be asked for.",
    access=Access.VIEWER,
    query=LogQuery,
    headers={"Range": "`bytes=<first>-`, `bytes=<first>-<last>` or `bytes=-<last n>`"},
    answers={
        200: Answer(media_type="text/plain"),
        206: Answer(media_type="text/plain"),
        410: _GONE,
        416: Answer(description="No byte of the log is in the range (yet)."),
    },
)
async def show_log(request: web.Request, query: LogQuery) -> web.StreamResponse:
    scope = await _scope(request)
    attempt_id = await _attempt(request, scope, query)
    size = await blobs.size(request.app[STORE], scope.task_id, attempt_id, blobs.LOG) or 0
    wanted = _range(request, size)
    if wanted is None:
        headers = {"Content-Range": f"bytes */{size}"}
        return error(416, f"the log has {size} bytes", headers=headers)
    start, end = wanted
    response = web.StreamResponse(
        headers={
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="task-{scope.task_id}.log"',
        }
    )
    if "Range" in request.headers:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response.content_type, response.charset = "text/plain", "utf-8"
    return await _send(request, response, scope.task_id, attempt_id, blobs.LOG, start, end)


async def _scope(request: web.Request) -> TaskScope:
    task_id = TaskId(path_id(request, "task_id"))
    scope = await details.task_scope(request.app[STORE], task_id, org_scope(request))
    if scope is None and await details.is_pruned(request.app[STORE], task_id):
        raise Refused(410, f"task {task_id} is older than the history that is kept")
    if scope is None:
        raise NotFound(f"task {task_id}")
    return scope


async def _attempt(request: web.Request, scope: TaskScope, query: LogQuery) -> AttemptId:
    attempt_id = scope.last_attempt_id
    if query.attempt is not None:
        attempt_id = await details.attempt_by_number(
            request.app[STORE], scope.task_id, query.attempt
        )
    if attempt_id is None:
        which = "an attempt" if query.attempt is None else f"attempt {query.attempt}"
        raise NotFound(f"{which} of task {scope.task_id}")
    return attempt_id


def _range(request: web.Request, size: int) -> tuple[int, int] | None:
    """Return which bytes to send, from and without; None: none of those asked for is there."""
    try:
        asked = request.http_range
    except ValueError:
        return None
    if asked.start is None and asked.stop is None:
        return 0, size
    start, end, _ = asked.indices(size)
    return (start, end) if start < end else None


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    task_id: TaskId,
    attempt_id: AttemptId,
    name: str,
    start: int,
    end: int,
) -> web.StreamResponse:
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        pieces = blobs.read(request.app[STORE], task_id, attempt_id, name, start=start, end=end)
        async for piece in pieces:
            try:
                await response.write(piece)
            except (ClientConnectionError, ConnectionResetError):
                return response  # the reader went away
    await response.write_eof()
    return response
