"""Workers for operators: who is there, and what they are asked to do."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.keys import PRINCIPAL, STORE, ZONE
from api.operations import Operations, in_envelope, in_page
from api.pagination import PageQuery, page
from api.principals import Access
from api.schemas.workers import Directed, WorkerItem
from api.scope import path_id
from core.domain.errors import NotFound
from core.domain.ids import WorkerId
from core.runtime.logs import get_logger
from core.store import workers
from core.store.workers import WorkerRow

log = get_logger(__name__)

operations = Operations("workers")

#: Workers the list knows at most.
_MOST = 10_000


@operations.get(
    "/api/v1/workers/",
    summary="List the workers: live ones first, then by name",
    access=Access.VIEWER,
    query=PageQuery,
    answers={200: in_page(WorkerItem)},
)
async def list_workers(request: web.Request, query: PageQuery) -> web.Response:
    found = await workers.list_workers(request.app[STORE], limit=_MOST)
    shown = found[query.offset : query.offset + query.limit]
    results = [_item(worker, request.app[ZONE]) for worker in shown]
    return page(request, query, count=len(found), results=results)


@operations.post(
    "/api/v1/workers/{worker_id}/drain/",
    summary="Ask a worker to take no more tasks, finish what it has, and end",
    access=Access.OPERATOR,
    answers={200: in_envelope(Directed)},
)
async def drain_worker(request: web.Request) -> web.Response:
    return await _direct(request, "drain")


@operations.post(
    "/api/v1/workers/{worker_id}/pause/",
    summary="Offer a worker no more tasks until it is resumed",
    access=Access.OPERATOR,
    answers={200: in_envelope(Directed)},
)
async def pause_worker(request: web.Request) -> web.Response:
    return await _direct(request, "pause")


@operations.post(
    "/api/v1/workers/{worker_id}/resume/",
    summary="Offer a worker tasks again; also ends its quarantine",
    access=Access.OPERATOR,
    answers={200: in_envelope(Directed)},
)
async def resume_worker(request: web.Request) -> web.Response:
    return await _direct(request, None)


async def _direct(
    request: web.Request, directive: Literal["drain", "pause"] | None
) -> web.Response:
    worker_id = WorkerId(path_id(request, "worker_id"))
    by = request[PRINCIPAL].name
    if not await workers.direct(request.app[STORE], worker_id, directive, by=by):
        raise NotFound(f"worker {worker_id}")
    log.info("worker.directed", worker_id=worker_id, directive=directive)
    return enveloped({"id": worker_id, "directive": directive})


def _item(worker: WorkerRow, zone: ZoneInfo) -> WorkerItem:
    return {
        "id": worker.id,
        "name": worker.name,
        "state": worker.state,
        "version": worker.version,
        "isolation": worker.isolation,
        "tags": worker.tags,
        "engines": [
            {
                "name": engine["name"],
                "version": engine["version"],
                "module": engine.get("module", "codelint"),
                "languages": engine.get("languages", []),
            }
            for engine in worker.engines
        ],
        "slots": worker.slots,
        "slots_used": len(worker.attempt_ids),
        "attempts": [int(attempt_id) for attempt_id in worker.attempt_ids],
        "register_time": wire_time(worker.registered_at, zone),
        "last_seen": None if worker.seen_at is None else wire_time(worker.seen_at, zone),
        "quarantine": None
        if worker.quarantine is None
        else {
            "reason": worker.quarantine.reason,
            "until": wire_time(worker.quarantine.until, zone),
            "faults": worker.quarantine.faults,
        },
    }
