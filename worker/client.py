"""The worker's end of the wire: each call of the protocol as a method, over HTTP.

Owns time-outs, retries and what a status means. Retries only what may work later: transport
errors, 5xx, 429; a bounded number of times, with full jitter, no sooner than `Retry-After`.
It keeps the worker's token, and shows it to nobody but the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import aiohttp
from pydantic import ValidationError

from core.domain.errors import KennelError, LeaseLost
from core.protocol.headers import (
    CONTENT_DIGEST,
    CONTENT_RANGE,
    RANGE,
    content_digest,
    content_range,
    parse_stored_range,
)
from core.protocol.messages import (
    LEASE_HEADER,
    PROTOCOL_VERSION,
    ArtifactRef,
    AttemptRef,
    AttemptResult,
    ClaimRequest,
    ClaimResponse,
    ErrorResponse,
    GoodbyeRequest,
    GoodbyeResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    Message,
    RegisterRequest,
    RegisterResponse,
    ResultsRequest,
    ResultsResponse,
    ResultVerdict,
    StartRequest,
    StartResponse,
    TaskSpec,
    TokenResponse,
)

PREFIX = "/worker/v1"

#: Tries of one call, where its caller says nothing else.
TRIES = 4
#: Bound of the pause after the first failed try, seconds; it doubles.
PAUSE_BASE_S = 0.2
PAUSE_CAP_S = 10.0
#: Longest `Retry-After` that is believed, seconds.
RETRY_AFTER_CAP_S = 60.0
CONNECT_S = 10.0
#: Longest an answer that is not held may take, seconds.
ANSWER_S = 30.0
#: Longest an upload may take, seconds.
UPLOAD_S = 300.0
#: Largest answer that is read, bytes.
ANSWER_BYTES = 32 << 20
#: Most bytes of a log in one call.
LOG_CHUNK = 512 * 1024

_CHUNK = 1 << 20
_Answered = TypeVar("_Answered", bound=Message)


class ServerUnavailable(KennelError):
    """No answer, or one that says: later. `retry_after_s` is what the server asked for."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthorized(KennelError):
    """The server does not accept the token."""


class CallRefused(KennelError):
    """The server understood and refuses; the same call again would be refused again."""

    def __init__(self, status: int, code: int | str, message: str) -> None:
        super().__init__(f"the server refused ({status}, {code}): {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def read(self, model: type[_Answered]) -> _Answered:
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            # Where it is wrong, never what it was: answers carry secrets.
            places = {".".join(map(str, wrong["loc"])) for wrong in error.errors()}
            shown = ", ".join(sorted(places)[:5]) or "its form"
            raise ServerUnavailable(f"the answer is no {model.__name__}: {shown}") from None


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    body: bytes | Path
    timeout_s: float = ANSWER_S
    tries: int = TRIES
    headers: Mapping[str, str] = field(default_factory=dict)
    #: In place of the worker token of the moment; never shown.
    token: str | None = field(default=None, repr=False)
    #: Statuses beyond 2xx that the caller reads itself.
    also: frozenset[int] = frozenset()
    #: Whose lease a 409 is about.
    attempt_id: int = 0


class WorkerClient:
    """One worker's connection to its server. `async with` opens and closes it."""

    def __init__(
        self, server_url: str, *, version: str = "", chance: random.Random | None = None
    ) -> None:
        self.server_url = server_url.rstrip("/")
        #: The worker token; "" before the first registration.
        self.token = ""
        self._agent = f"kennel-worker/{version or '0'}"
        self._chance = chance or random.Random()  # noqa: S311 - jitter is no secret
        self._control: aiohttp.ClientSession | None = None
        self._bulk: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Two pools: a heartbeat never waits behind an upload.
        self._control = self._session(connections=16)
        self._bulk = self._session(connections=16)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in (self._control, self._bulk):
            if session is not None:
                await session.close()
        self._control = self._bulk = None

    def _session(self, *, connections: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent, "Accept": "application/json"},
            trust_env=False,
        )

    # --- identity ----------------------------------------------------------------------------

    async def register(self, request: RegisterRequest, enrolment_token: str) -> RegisterResponse:
        """Buy an identity; the client uses its token from here on.

        Raises:
            CallRefused: also when the server answers with a protocol we do not speak.
        """
        call = _Call("POST", f"{PREFIX}/register", _json(request), tries=1, token=enrolment_token)
        answer = (await self._send(call)).read(RegisterResponse)
        if answer.protocol != PROTOCOL_VERSION:
            raise CallRefused(
                200,
                "protocol",
                f"it speaks version {answer.protocol} of the worker protocol, this worker "
                f"{PROTOCOL_VERSION}: install the same version of Kennel on both",
            )
        self.token = answer.token
        return answer

    async def rotate(self) -> TokenResponse:
        """Exchange the token for a new one, which the client uses from here on."""
        answer = await self._post("token", None, TokenResponse)
        self.token = answer.token
        return answer

    async def goodbye(self, reason: str) -> int:
        """Give back what was only offered; return how many that were."""
        request = GoodbyeRequest(reason=reason[:500])
        return (await self._post("goodbye", request, GoodbyeResponse, tries=2)).released

    # --- work --------------------------------------------------------------------------------

    async def claim(self, claim_id: str, slots: int, *, hold_s: float) -> list[TaskSpec]:
        """Ask for up to *slots* tasks; held by the server while it has none. One try."""
        request = ClaimRequest(claim_id=claim_id, slots=slots)
        call = _Call(
            "POST",
            f"{PREFIX}/claim",
            _json(request),
            timeout_s=hold_s + CONNECT_S,
            tries=1,
        )
        answer = await self._send(call)
        return [] if answer.status == HTTPStatus.NO_CONTENT else answer.read(ClaimResponse).tasks

    async def start(self, refs: Sequence[AttemptRef]) -> frozenset[int]:
        """Announce that attempts begin; return the ids of those that may."""
        answer = await self._post("start", StartRequest(attempts=list(refs)), StartResponse)
        return frozenset(one.attempt_id for one in answer.attempts if one.verdict == "running")

    async def heartbeat(self, request: HeartbeatRequest, *, timeout_s: float) -> HeartbeatResponse:
        """Say what this worker holds, hear orders. One try: the next heartbeat is the retry."""
        return await self._post(
            "heartbeat", request, HeartbeatResponse, timeout_s=timeout_s, tries=1
        )

    async def append_log(self, ref: AttemptRef, offset: int, content: bytes) -> int:
        """Send bytes of a log; return how many the server has, whatever *offset* was.

        Raises:
            LeaseLost: the attempt is over for the server.
        """
        call = _Call(
            "PATCH",
            f"{PREFIX}/attempts/{ref.attempt_id}/log",
            content,
            headers={
                LEASE_HEADER: ref.lease_token,
                CONTENT_RANGE: content_range(offset, len(content)),
                "Content-Type": "application/octet-stream",
            },
            also=frozenset({416}),
            attempt_id=ref.attempt_id,
        )
        answer = await self._send(call, bulk=True)
        size = parse_stored_range(answer.headers.get(RANGE))
        if size is None:
            raise ServerUnavailable("the answer does not say how much of the log it has")
        return size

    async def put_artifact(self, ref: AttemptRef, artifact: ArtifactRef, file: Path) -> None:
        """Upload one artifact; the same again changes nothing.

        Raises:
            LeaseLost: the attempt is over for the server.
            CallRefused: too large, or not what its digest says.
        """
        call = _Call(
            "PUT",
            f"{PREFIX}/attempts/{ref.attempt_id}/artifacts/{artifact.name}",
            file,
            timeout_s=UPLOAD_S,
            headers={
                LEASE_HEADER: ref.lease_token,
                CONTENT_DIGEST: content_digest(bytes.fromhex(artifact.sha256)),
                "Content-Length": str(artifact.size_bytes),
                "Content-Type": "application/octet-stream",
            },
            attempt_id=ref.attempt_id,
        )
        await self._send(call, bulk=True)

    async def results(self, results: Sequence[AttemptResult]) -> list[ResultVerdict]:
        """Report how attempts ended; the same again gets the same verdicts."""
        request = ResultsRequest(results=list(results))
        return (await self._post("results", request, ResultsResponse)).results

    # --- transport ---------------------------------------------------------------------------

    async def _post(
        self,
        name: str,
        request: Message | None,
        model: type[_Answered],
        *,
        timeout_s: float = ANSWER_S,
        tries: int = TRIES,
    ) -> _Answered:
        body = b"{}" if request is None else _json(request)
        call = _Call("POST", f"{PREFIX}/{name}", body, timeout_s, tries)
        return (await self._send(call)).read(model)

    async def _send(self, call: _Call, *, bulk: bool = False) -> _Answer:
        session = self._bulk if bulk else self._control
        if session is None:
            raise RuntimeError("WorkerClient is used outside its `async with`")
        for number in range(1, call.tries):
            try:
                return await self._once(session, call)
            except ServerUnavailable as error:
                await asyncio.sleep(self.pause_s(number, error.retry_after_s))
        return await self._once(session, call)

    def pause_s(self, failures: int, at_least_s: float = 0.0) -> float:
        """Return the pause after *failures* in a row: full jitter below a doubling bound."""
        bound = min(PAUSE_CAP_S, PAUSE_BASE_S * 2 ** min(failures - 1, 16))
        return at_least_s + self._chance.uniform(0.0, bound)

    async def _once(self, session: aiohttp.ClientSession, call: _Call) -> _Answer:
        try:
            # Opened here: each try sends the file from its beginning.
            if isinstance(call.body, Path):
                with call.body.open("rb") as file:
                    answer = await self._exchange(session, call, file)
            else:
                answer = await self._exchange(session, call, call.body)
        except (aiohttp.ClientError, TimeoutError) as error:
            # Some of these have no text; their class then says it.
            raise ServerUnavailable(str(error) or type(error).__name__) from None
        return _judge(call, answer)

    async def _exchange(
        self, session: aiohttp.ClientSession, call: _Call, body: bytes | IO[bytes]
    ) -> _Answer:
        headers = {
            "Content-Type": "application/json",
            **call.headers,
            # Read at each try: the token may be rotated between two.
            "Authorization": f"Bearer {call.token or self.token}",
        }
        timeout = aiohttp.ClientTimeout(total=call.timeout_s, sock_connect=CONNECT_S)
        # No redirects: a token goes to the configured server and nowhere else.
        async with session.request(
            call.method,
            f"{self.server_url}{call.path}",
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            content = await _read_bounded(response)
            return _Answer(response.status, response.headers, content)


def digest(file: Path, name: str) -> ArtifactRef:
    """Return what identifies a file as an artifact. Blocks while it reads it."""
    sha256 = hashlib.sha256()
    size = 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            sha256.update(chunk)
            size += len(chunk)
    return ArtifactRef(name=name, size_bytes=size, sha256=sha256.hexdigest())


def _json(message: Message) -> bytes:
    return message.model_dump_json().encode()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        content += chunk
        if len(content) > ANSWER_BYTES:
            raise ServerUnavailable(f"the answer is larger than {ANSWER_BYTES} bytes")
    return bytes(content)


def _judge(call: _Call, answer: _Answer) -> _Answer:
    """Return a good answer; raise what any other means."""
    status = answer.status
    if 200 <= status < 300 or status in call.also:
        return answer
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        raise ServerUnavailable(
            f"the server answered {status}", _retry_after_s(answer.headers.get("Retry-After"))
        )
    try:
        refusal = ErrorResponse.model_validate_json(answer.body)
    except ValidationError:
        refusal = ErrorResponse(status_code=status, code=status, msg="no reason given")
    if status == HTTPStatus.UNAUTHORIZED:
        raise Unauthorized(refusal.msg[:500])
    if status == HTTPStatus.CONFLICT and refusal.code == "lease_lost":
        raise LeaseLost(call.attempt_id)
    raise CallRefused(status, refusal.code, refusal.msg[:500])


def _retry_after_s(value: str | None) -> float:
    # The form with a date would need a clock that agrees with the server's.
    if value is None or not (value.isascii() and value.isdigit() and len(value) < 10):
        return 0.0
    return min(float(value), RETRY_AFTER_CAP_S)
