"""The worker protocol's last word on an attempt: results, each with its own verdict.

Refuses what contradicts itself, asks for what is missing, and leaves to the store whether the
lease still holds.
"""

from __future__ import annotations

import hashlib

import orjson
from aiohttp import web

from api.envelope import message
from api.errors import invalid
from api.gathering import GATHERING
from api.keys import WORKER
from api.leases import proof
from api.operations import Answer, Operations
from api.principals import Access
from core.domain.ids import WorkerId
from core.domain.outcomes import REPORTABLE, Outcome, Reason
from core.protocol.messages import (
    RESULT_ARTIFACT,
    AttemptResult,
    ResultsRequest,
    ResultsResponse,
    ResultVerdict,
)
from core.runtime.logs import get_logger
from core.store.attempts import ArtifactProof, Finished, FinishVerdict, Judged

log = get_logger(__name__)

operations = Operations("worker_protocol")


@operations.post(
    "/worker/v1/results",
    summary="Report how attempts ended",
    description="Each result has its own verdict. The same body again gets the same answer.",
    access=Access.WORKER,
    body=ResultsRequest,
    answers={200: Answer(ResultsResponse)},
)
async def report_results(request: web.Request, body: ResultsRequest) -> web.Response:
    for index, result in enumerate(body.results):
        _check_result(result, f"results.{index}")
    worker_id = request[WORKER].worker_id
    judged = await request.app[GATHERING].results.all(
        (worker_id, _finished(result)) for result in body.results
    )
    verdicts = [
        _told(worker_id, result, one) for result, one in zip(body.results, judged, strict=True)
    ]
    return message(ResultsResponse(results=verdicts))


def _check_result(result: AttemptResult, where: str) -> None:
    """Refuse what contradicts itself: no worker can mean it."""
    succeeded = result.outcome is Outcome.SUCCEEDED
    if result.outcome is Outcome.LOST:
        raise invalid(f"{where}.outcome", "must not be lost: that is for the server to find")
    if succeeded != (result.reason is None):
        raise invalid(f"{where}.reason", "must be given exactly when the outcome is not succeeded")
    if result.reason is not None and result.reason not in REPORTABLE:
        raise invalid(f"{where}.reason", f"must not be {result.reason}: that is the server's own")
    if (result.outcome is Outcome.CANCELLED) != (result.reason is Reason.CANCELLED):
        raise invalid(f"{where}.reason", "cancelled belongs to the outcome cancelled")
    names = [artifact.name for artifact in result.artifacts]
    if succeeded and result.prepare is None and RESULT_ARTIFACT not in names:
        raise invalid(f"{where}.artifacts", f"must have {RESULT_ARTIFACT}: an engine's findings")


def _told(worker_id: WorkerId, result: AttemptResult, judged: Judged) -> ResultVerdict:
    """Return the verdict on a result as it is told, and note it."""
    is_refused = judged.verdict is FinishVerdict.LEASE_LOST
    log.info(
        "result.refused" if is_refused else "attempt.finished",
        attempt_id=result.attempt_id,
        job_id=judged.job_id,
        worker_id=worker_id,
        verdict=judged.verdict.value,
        outcome=result.outcome.value,
        reason=result.reason.value if result.reason else None,
    )
    if judged.verdict is FinishVerdict.LOG_INCOMPLETE:
        return ResultVerdict(
            attempt_id=result.attempt_id, verdict="log_incomplete", log_bytes=judged.log_bytes
        )
    return ResultVerdict(attempt_id=result.attempt_id, verdict=judged.verdict.value)


def _finished(result: AttemptResult) -> Finished:
    values = result.model_dump(mode="json", exclude={"lease_token"})
    attempt_proof = proof(result.attempt_id, result.lease_token)
    return Finished(
        attempt_id=attempt_proof.attempt_id,
        token_hash=attempt_proof.token_hash,
        outcome=result.outcome,
        reason=result.reason,
        message=result.message,
        exit_code=result.exit_code,
        signal=result.signal,
        result=values,
        body_hash=hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).digest(),
        log_bytes=result.log_bytes,
        artifacts=[ArtifactProof(a.name, a.size_bytes, a.sha256) for a in result.artifacts],
    )
