"""From an offer to the task a worker is given, and the tokens that prove a lease.

A lease token is made from the worker's token and the claim, not stored: the database has its hash
only, and yet the same claim again gets the same answer.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from uuid import UUID

from aiohttp import web
from pydantic import ValidationError

from api.errors import Refused, invalid
from api.keys import WORKER
from api.scope import path_id
from core.domain.errors import SettingError
from core.domain.ids import AttemptId
from core.domain.tokens import hash_token
from core.protocol.messages import LEASE_HEADER, ScmAuth, Source, TaskSpec
from core.runtime.logs import get_logger
from core.runtime.sealing import Sealer
from core.store.attempts import AttemptProof, Offer
from core.store.blobs import Lease

log = get_logger(__name__)

_SHORTEST, _LONGEST = 8, 200


def lease_tokens(worker_token: str, claim_id: UUID, count: int) -> list[str]:
    """Return the lease tokens of a claim, in order."""
    return [_lease_token(worker_token, f"{claim_id}:{index}") for index in range(count)]


def proof(attempt_id: int, lease_token: str) -> AttemptProof:
    """Return what the store compares."""
    return AttemptProof(AttemptId(attempt_id), hash_token(lease_token))


def lease_of(request: web.Request) -> Lease:
    """Return the lease that the path and the lease header of a request name."""
    tokens = request.headers.getall(LEASE_HEADER, [])
    if len(tokens) != 1 or not _is_token(tokens[0]):
        raise invalid(LEASE_HEADER, "must be one header with the attempt's lease token")
    return Lease(
        attempt_id=AttemptId(path_id(request, "attempt_id")),
        token_hash=hash_token(tokens[0]),
        worker_id=request[WORKER].worker_id,
    )


def task_specs(offers: Sequence[Offer], tokens: Sequence[str], sealer: Sealer) -> list[TaskSpec]:
    """Return the tasks of a claim's offers.

    An offer that cannot be told (its lease token came from a worker token that was rotated since,
    its credentials cannot be unsealed) is left out: not started, it returns to the queue.
    """
    found: list[TaskSpec] = []
    for offer in offers:
        token = tokens[offer.claim_index] if offer.claim_index < len(tokens) else ""
        if hash_token(token) != offer.token_hash:
            continue
        try:
            found.append(_task_spec(offer, token, sealer))
        except (SettingError, ValidationError) as error:
            # The text of a validation error may quote credentials.
            why = str(error) if isinstance(error, SettingError) else "its spec cannot be read"
            log.warning("offer.withheld", task_id=offer.task_id, job_id=offer.job_id, why=why)
    return found


def _task_spec(offer: Offer, token: str, sealer: Sealer) -> TaskSpec:
    auth = None
    if offer.scm_auth is not None:
        auth = ScmAuth.model_validate_json(sealer.unseal(offer.scm_auth))
    source = Source.model_validate(offer.spec["source"] | {"auth": auth})
    return TaskSpec.model_validate(
        offer.spec
        | {
            "task_id": offer.task_id,
            "attempt_id": offer.attempt_id,
            "attempt": offer.number,
            "job_id": offer.job_id,
            "lease_token": token,
            "kind": offer.kind,
            "engine": offer.engine,
            "source": source,
        }
    )


def _lease_token(worker_token: str, what: str) -> str:
    digest = hmac.digest(worker_token.encode(), what.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _is_token(text: str) -> bool:
    return _SHORTEST <= len(text) <= _LONGEST and all("!" <= char <= "~" for char in text)


def lease_lost(attempt_id: AttemptId) -> Refused:
    """Return the refusal of what concerns an attempt that is over."""
    return Refused(409, f"attempt {attempt_id} holds no lease", code="lease_lost")
