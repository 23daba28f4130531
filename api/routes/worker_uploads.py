"""The worker protocol's two calls whose body is bytes: log by offset, artifact by digest.

Neither is ever in memory as a whole beyond a bound: a piece of log is small, an artifact goes
through a temporary file, is compared with its digest, and only then enters the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO

from aiohttp import ClientError, web
from pydantic import TypeAdapter, ValidationError

from api.envelope import error
from api.errors import Refused, invalid
from api.keys import SETTINGS, STORE
from api.leases import lease_lost, lease_of
from api.operations import Answer, Operations
from api.principals import Access
from core.protocol.headers import (
    CONTENT_DIGEST,
    CONTENT_RANGE,
    RANGE,
    parse_content_digest,
    parse_content_range,
    stored_range,
)
from core.protocol.messages import LEASE_HEADER, ArtifactName
from core.store import attempts, blobs
from core.store.attempts import AttemptProof
from core.store.blobs import Artifact, Placed

operations = Operations("worker_protocol")

#: Bytes of log one call brings at most.
MOST_LOG_BYTES = 1024 * 1024
#: Longest nothing may arrive of a body, seconds.
IDLE_S = 30.0
_PIECE_BYTES = 256 * 1024
_IN_MEMORY_BYTES = 1024 * 1024
_BYTES = "application/octet-stream"
_LEASE = "The attempt's lease token."
_NAME: TypeAdapter[str] = TypeAdapter(ArtifactName)
_LEASE_LOST = Answer(description="`lease_lost`: the attempt is over; drop what there is of it.")


@operations.patch(
    "/worker/v1/attempts/{attempt_id}/log",
    summary="Add to the log of a running attempt",
    description="202: written. 416: the log ends elsewhere. Both say in `Range` what is there.",
    access=Access.WORKER,
    raw_body=_BYTES,
    headers={LEASE_HEADER: _LEASE, CONTENT_RANGE: "`bytes <first>-<last>/*`"},
    answers={
        202: Answer(description="Written."),
        409: _LEASE_LOST,
        416: Answer(description="The log ends elsewhere."),
    },
)
async def append_log(request: web.Request) -> web.Response:
    lease = lease_of(request)
    place = parse_content_range(request.headers.get(CONTENT_RANGE, ""))
    if place is None:
        raise invalid(CONTENT_RANGE, "must be `bytes <first>-<last>/*`")
    offset, length = place
    if length > MOST_LOG_BYTES:
        raise Refused(413, f"send at most {MOST_LOG_BYTES} bytes of log at once")
    content = b"".join([piece async for piece in _pieces(request, most=length)])
    if len(content) != length:
        raise invalid(CONTENT_RANGE, f"announces {length} bytes, the body has {len(content)}")
    cap = int(request.app[SETTINGS].limits.log_bytes)
    appended = await blobs.append_log(
        request.app[STORE], lease, offset=offset, content=content, cap=cap
    )
    if appended is None:
        raise lease_lost(lease.attempt_id)
    there = stored_range(appended.size)
    headers = {RANGE: there} if there is not None else {}
    if appended.is_written:
        return web.Response(status=202, headers=headers)
    if offset + length > cap and offset == appended.size:
        return error(413, f"a log has at most {cap} bytes", headers=headers)
    return error(416, f"the log has {appended.size} bytes", headers=headers)


@operations.put(
    "/worker/v1/attempts/{attempt_id}/artifacts/{name}",
    summary="Upload an artifact of a running attempt",
    description="Again under the same name: in the place of the first.",
    access=Access.WORKER,
    raw_body=_BYTES,
    headers={
        LEASE_HEADER: _LEASE,
        "Content-Length": "Required.",
        CONTENT_DIGEST: "`sha-256=:<base64>:` (RFC 9530).",
    },
    answers={204: Answer(description="Stored."), 409: _LEASE_LOST},
)
async def put_artifact(request: web.Request) -> web.Response:
    lease = lease_of(request)
    limits = request.app[SETTINGS].limits
    announced = _announced(request, most=int(limits.artifact_bytes))
    proof = AttemptProof(lease.attempt_id, lease.token_hash)
    if await attempts.held(request.app[STORE], lease.worker_id, proof) is None:
        raise lease_lost(lease.attempt_id)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as content:
        await _receive(request, content, announced)
        placed = await blobs.place_artifact(
            request.app[STORE], lease, announced, content, at_most=limits.artifacts
        )
    if placed is Placed.LEASE_LOST:
        raise lease_lost(lease.attempt_id)
    if placed is Placed.TOO_MANY:
        raise Refused(413, f"an attempt has at most {limits.artifacts} artifacts")
    return web.Response(status=204)


def _announced(request: web.Request, *, most: int) -> Artifact:
    """Return what the headers say the body is."""
    try:
        name = _NAME.validate_python(request.match_info["name"])
    except ValidationError:
        raise invalid("name", "must be 1 to 128 of A-Z a-z 0-9 . _ -, no dot first") from None
    size = request.content_length
    if size is None:
        raise invalid("Content-Length", "must be given")
    if size > most:
        raise Refused(413, f"an artifact has at most {most} bytes")
    sha256 = parse_content_digest(request.headers.get(CONTENT_DIGEST, ""))
    if sha256 is None:
        raise invalid(CONTENT_DIGEST, "must be `sha-256=:<base64>:`")
    return Artifact(name, size, sha256)


async def _receive(request: web.Request, content: IO[bytes], announced: Artifact) -> None:
    sha256 = hashlib.sha256()
    async for piece in _pieces(request, most=announced.size_bytes):
        sha256.update(piece)
        await whole(content.write, piece)
    if sha256.digest() != announced.sha256:
        raise invalid(CONTENT_DIGEST, "is not that of the body")
    await whole(content.seek, 0)


async def whole(call: Callable[..., object], *arguments: object) -> None:
    """Make a call in a thread and see its end, also when cancelled: its file is closed after it."""
    work = asyncio.create_task(asyncio.to_thread(call, *arguments), name="upload-write")
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


async def _pieces(request: web.Request, *, most: int) -> AsyncIterator[bytes]:
    """Yield the body; refuse more than *most* bytes, an encoding, and a body that stalls."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, "send the body without Content-Encoding")
    received = 0
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await request.content.read(_PIECE_BYTES)
        except TimeoutError:
            raise Refused(408, f"nothing of the body arrived for {IDLE_S:g} s") from None
        except (ClientError, ConnectionError, web.PayloadAccessError):
            raise Refused(400, "the body ended early") from None
        if not piece:
            return
        received += len(piece)
        if received > most:
            raise Refused(400, f"the body is longer than the {most} bytes announced")
        yield piece
