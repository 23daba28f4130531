"""The worker protocol's calls with JSON bodies, but for results: from register to goodbye.

Who calls is read from the worker token and nothing else; what it may touch, from lease tokens.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from aiohttp import web

from api.claims import CLAIMS
from api.envelope import message
from api.errors import Unauthorized, invalid
from api.gathering import GATHERING
from api.holding import HOLDING
from api.keys import ENROLMENT, SEALER, SETTINGS, STORE, WORKER
from api.leases import lease_tokens, proof, task_specs
from api.operations import Answer, Operations
from api.principals import Access
from core.domain.ids import AttemptId, WorkerId
from core.domain.states import TaskKind
from core.domain.tokens import TokenKind, derive_token, hash_token, make_token
from core.protocol.messages import (
    PROTOCOL_VERSION,
    Cancel,
    ClaimRequest,
    ClaimResponse,
    GoodbyeRequest,
    GoodbyeResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    Intervals,
    Limits,
    Quarantine,
    RegisterRequest,
    RegisterResponse,
    StartRequest,
    StartResponse,
    StartVerdict,
    TokenResponse,
)
from core.runtime.logs import get_logger
from core.runtime.settings import LeaseSettings, Settings
from core.store import attempts, quarantine, workers
from core.store.attempts import Claim
from core.store.beats import Beat, BeatAnswer, ProgressBeat
from core.store.reaping import lose_attempts
from core.store.store import worker_topic
from core.store.workers import EnrolmentSpent, Registration, WorkerToken

log = get_logger(__name__)

operations = Operations("worker_protocol")

#: Tasks one claim is answered with at most; a worker with more slots claims again.
MOST_OFFERS = 64
#: Part of a lease for which a heartbeat that lists no attempt may be held.
_IDLE_PART = 2 / 3


# --- identity -------------------------------------------------------------------------------------


@operations.post(
    "/worker/v1/register",
    summary="Register a worker",
    description="Again with the same instance key: the same worker, whose old leases end.",
    access=Access.ENROLMENT,
    body=RegisterRequest,
    answers={200: Answer(RegisterResponse)},
)
async def register(request: web.Request, body: RegisterRequest) -> web.Response:
    _check_registration(body)
    store, settings = request.app[STORE], request.app[SETTINGS]
    registration = Registration(
        name=body.name,
        instance_hash=hash_token(body.instance_key),
        tags=body.tags,
        engines=[engine.model_dump(mode="json") for engine in body.engines],
        slots=body.slots,
        isolation=body.isolation.value,
        version=body.version,
    )
    token = _registration_token(body)
    ttl_s = settings.lease.worker_token_s
    try:
        worker_id = await workers.register(
            store,
            registration,
            token=WorkerToken(hash_token(token), ttl_s),
            retry=settings.scheduler,
            enrolment_id=request[ENROLMENT].token_id,
        )
    except EnrolmentSpent as error:
        raise Unauthorized(str(error)) from None
    log.info("worker.registered", worker_id=worker_id, name=body.name, slots=body.slots)
    return message(
        RegisterResponse(
            worker_id=worker_id,
            token=token,
            token_expires_in_s=ttl_s,
            protocol=PROTOCOL_VERSION,
            intervals=_intervals(settings),
            limits=_limits(settings),
        )
    )


@operations.post(
    "/worker/v1/token",
    summary="Exchange the worker token for a new one",
    description="The old one stays valid for 60 seconds.",
    access=Access.WORKER,
    answers={200: Answer(TokenResponse)},
)
async def rotate_token(request: web.Request) -> web.Response:
    worker = request[WORKER]
    token = make_token(TokenKind.WORKER)
    ttl_s = request.app[SETTINGS].lease.worker_token_s
    await workers.add_token(
        request.app[STORE],
        worker.worker_id,
        hash_token(token),
        ttl_s=ttl_s,
        replaces=hash_token(worker.token),
    )
    return message(TokenResponse(token=token, token_expires_in_s=ttl_s))


def _registration_token(body: RegisterRequest) -> str:
    """Return what a registration buys: its repetition buys the same and is known by it."""
    if body.registration_id is None:
        return make_token(TokenKind.WORKER)
    return derive_token(TokenKind.WORKER, body.instance_key, body.registration_id)


def _check_registration(body: RegisterRequest) -> None:
    if not body.protocol.min <= PROTOCOL_VERSION <= body.protocol.max:
        raise invalid(
            "protocol",
            f"{body.protocol.min} to {body.protocol.max} is not spoken here, "
            f"but version {PROTOCOL_VERSION} is: install a worker that speaks it",
        )
    names = [engine.name for engine in body.engines]
    if len(set(names)) != len(names):
        raise invalid("engines", "must not name an engine twice")
    if TaskKind.PREPARE in names:
        raise invalid("engines", f"must not be named {TaskKind.PREPARE}: every worker prepares")


# --- claim and start ------------------------------------------------------------------------------


@operations.post(
    "/worker/v1/claim",
    summary="Ask for tasks",
    description="Held until there are some, for at most the interval `claim_s`; 204: there were "
    "none. The same `claim_id` again gets the same answer.",
    access=Access.WORKER,
    body=ClaimRequest,
    answers={200: Answer(ClaimResponse), 204: Answer(description="Nothing to do; claim again.")},
)
async def claim(request: web.Request, body: ClaimRequest) -> web.Response:
    worker = request[WORKER]
    claim_id = _claim_id(body)
    most = 1 if worker.is_suspended else MOST_OFFERS
    tokens = lease_tokens(worker.token, claim_id, min(body.slots, most))
    claim = Claim(worker.worker_id, claim_id, [hash_token(token) for token in tokens])
    with request.app[HOLDING].hold_claim(
        request, worker.worker_id, timeout_s=request.app[SETTINGS].lease.claim_s
    ) as hold:
        offers = await request.app[CLAIMS].offers(claim, hold)
    tasks = task_specs(offers, tokens, request.app[SEALER])
    if not tasks:
        return web.Response(status=204)
    if worker.is_suspended:
        # On probation: nothing more until this one has ended.
        await quarantine.probe(
            request.app[STORE], [worker.worker_id], policy=request.app[SETTINGS].scheduler
        )
    log.info("tasks.offered", worker_id=worker.worker_id, tasks=[task.task_id for task in tasks])
    return message(ClaimResponse(tasks=tasks))


def _claim_id(body: ClaimRequest) -> UUID:
    try:
        return UUID(body.claim_id)
    except ValueError:
        raise invalid("claim_id", "must be a UUID") from None


@operations.post(
    "/worker/v1/start",
    summary="Start attempts that were offered",
    access=Access.WORKER,
    body=StartRequest,
    answers={200: Answer(StartResponse)},
)
async def start(request: web.Request, body: StartRequest) -> web.Response:
    worker_id = request[WORKER].worker_id
    proofs = [proof(ref.attempt_id, ref.lease_token) for ref in body.attempts]
    running = await request.app[GATHERING].starts.all((worker_id, one) for one in proofs)
    verdicts = [
        StartVerdict(attempt_id=one.attempt_id, verdict="running" if is_running else "lease_lost")
        for one, is_running in zip(proofs, running, strict=True)
    ]
    return message(StartResponse(attempts=verdicts))


# --- heartbeat ------------------------------------------------------------------------------------


@operations.post(
    "/worker/v1/heartbeat",
    summary="Say what the worker holds, hear orders",
    description="Recorded on arrival; answered at once when there is an order, else after the "
    "interval `heartbeat_s` (`hold_s` where no attempt is listed), or at once with `hold` false.",
    access=Access.WORKER,
    body=HeartbeatRequest,
    answers={200: Answer(HeartbeatResponse)},
)
async def heartbeat(request: web.Request, body: HeartbeatRequest) -> web.Response:
    settings, worker_id = request.app[SETTINGS], request[WORKER].worker_id
    hold_s = _hold_s(body, settings.lease)
    gathering, beat = request.app[GATHERING], _beat(worker_id, body)
    # Listening comes first: an order given while the beat is recorded ends the wait.
    with request.app[HOLDING].hold(request, worker_topic(worker_id), timeout_s=hold_s) as hold:
        answer = await (gathering.beats if body.hold else gathering.urgent_beats)(beat)
        await _requeue_forgotten(request, answer)
        if not _is_order(answer, body) and await hold.news() and not hold.is_abandoned:
            answer = await gathering.orders(beat)
    return message(_heartbeat_answer(answer, settings))


def _hold_s(body: HeartbeatRequest, lease: LeaseSettings) -> float:
    """Return for how long a heartbeat is held: who has no lease to extend may be silent longer."""
    if not body.hold:
        return 0.0
    if body.hold_s is None or body.attempts:
        return lease.heartbeat_s
    return min(body.hold_s, _IDLE_PART * lease.lease_s)


def _beat(worker_id: WorkerId, body: HeartbeatRequest) -> Beat:
    return Beat(
        worker_id,
        [
            ProgressBeat(
                AttemptId(beat.attempt_id), beat.phase, beat.files_done, beat.files_planned
            )
            for beat in body.attempts
        ],
        is_draining=body.is_draining,
        begun_to=body.begun_to,
    )


async def _requeue_forgotten(request: web.Request, answer: BeatAnswer) -> None:
    if answer.forgotten:
        await lose_attempts(
            request.app[STORE],
            [request[WORKER].worker_id],
            retry=request.app[SETTINGS].scheduler,
            attempt_ids=sorted(answer.forgotten),
        )


def _is_order(answer: BeatAnswer, body: HeartbeatRequest) -> bool:
    """Tell whether the worker must hear the answer now. A pause only stops offers: no hurry."""
    must_drain = answer.directive == "drain" and not body.is_draining
    return bool(answer.cancelled or answer.unknown or must_drain)


def _heartbeat_answer(answer: BeatAnswer, settings: Settings) -> HeartbeatResponse:
    directives: list[Literal["drain", "pause"]] = []
    if answer.directive == "drain":
        directives = ["drain"]
    elif answer.directive == "pause":
        directives = ["pause"]
    return HeartbeatResponse(
        known=sorted(answer.known),
        cancel=[
            Cancel(attempt_id=attempt_id, mode="abort", reason=reason)
            for attempt_id, reason in sorted(answer.cancelled.items())
        ],
        unknown=sorted(answer.unknown),
        directives=directives,
        quarantine=None
        if answer.quarantine is None
        else Quarantine(reason=answer.quarantine.reason, left_s=answer.quarantine.left_s),
        intervals=_intervals(settings),
    )


# --- goodbye --------------------------------------------------------------------------------------


@operations.post(
    "/worker/v1/goodbye",
    summary="Give back what was offered and not started",
    access=Access.WORKER,
    body=GoodbyeRequest,
    answers={200: Answer(GoodbyeResponse)},
)
async def goodbye(request: web.Request, body: GoodbyeRequest) -> web.Response:
    worker_id = request[WORKER].worker_id
    released = await attempts.release(request.app[STORE], worker_id)
    log.info("worker.left", worker_id=worker_id, reason=body.reason, released=released)
    return message(GoodbyeResponse(released=released))


# --- what every answer is made of -----------------------------------------------------------------


def _intervals(settings: Settings) -> Intervals:
    lease = settings.lease
    return Intervals(
        claim_s=lease.claim_s,
        heartbeat_s=lease.heartbeat_s,
        lease_s=lease.lease_s,
        fence_s=lease.fence_s,
        start_s=lease.start_s,
        log_s=lease.log_s,
    )


def _limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(
        log_bytes=int(limits.log_bytes),
        artifact_bytes=int(limits.artifact_bytes),
        artifacts=limits.artifacts,
    )
