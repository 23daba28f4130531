"""How a worker gets and keeps its identity: register, rotate the token, register again.

Owns the rules the server set (intervals, limits) and whether the token is good. Who meets a
401 says so here (`refuse`); all loops rest until a new identity is there. Without an enrolment
token a refused identity is the end, with an error that says what to do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from core.domain.clock import Clock
from core.domain.errors import KennelError
from core.protocol.messages import Intervals, Limits, RegisterRequest, RegisterResponse
from core.runtime.logs import get_logger
from worker.client import CallRefused, ServerUnavailable, Unauthorized, WorkerClient
from worker.identity import StateDir

log = get_logger(__name__)

#: Part of a token's life after which it is exchanged.
ROTATE_AT = 0.75
#: Longest sleep in one piece, seconds: sleeping does not count the time a host is suspended.
_NAP_S = 60.0
_GET_ONE = (
    "set KENNEL_WORKER__ENROLMENT_TOKEN (or …_FILE) to an enrolment token of that server: "
    "`kennel tokens create NAME --enrolment` makes one"
)

_Answered = TypeVar("_Answered")


class EnrolmentRefused(KennelError):
    """The server does not take this worker; the message says what to do. Ends the process."""

    #: EX_NOPERM of sysexits.h: starting again without a change is of no use.
    exit_code = 77


class Reachability:
    """Says once when the server cannot be reached, and once when it can again."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._is_reached = True

    def lost(self, error: Exception) -> None:
        """Note a call without an answer."""
        if self._is_reached:
            log.warning("server.lost", server=self._server_url, error=str(error))
        self._is_reached = False

    def reached(self) -> None:
        """Note a call with an answer."""
        if not self._is_reached:
            log.info("server.reached", server=self._server_url)
        self._is_reached = True


class Enrolment:
    """The identity of a running worker."""

    def __init__(
        self,
        client: WorkerClient,
        state: StateDir,
        request: RegisterRequest,
        *,
        enrolment_token: str | None,
        clock: Clock,
    ) -> None:
        self.reachability = Reachability(client.server_url)
        #: Set while the token is good.
        self.valid = asyncio.Event()
        #: When the request that got the current identity was sent, by the clock's `monotonic`.
        self.registered_at = 0.0
        self._refused = asyncio.Event()
        self._client = client
        self._state = state
        self._request = request
        self._enrolment_token = enrolment_token
        self._clock = clock
        self._registration = state.load_registration(client.server_url)
        self._rotate_at = 0.0
        if self._registration is not None:
            client.token = self._registration.token

    @property
    def registration(self) -> RegisterResponse:
        """The identity; only after `open`."""
        assert self._registration is not None
        return self._registration

    @property
    def intervals(self) -> Intervals:
        """The intervals the server set last."""
        return self.registration.intervals

    @property
    def limits(self) -> Limits:
        """What the server accepts of one attempt."""
        return self.registration.limits

    def set_intervals(self, intervals: Intervals) -> None:
        """Keep to these from now on."""
        self._registration = self.registration.model_copy(update={"intervals": intervals})

    def refuse(self, error: Unauthorized) -> None:
        """Note that the server refused the token."""
        if self.valid.is_set():
            log.warning("worker.token_refused", error=str(error))
            self.valid.clear()
            self._refused.set()

    async def open(self) -> None:
        """Get an identity, however long the server cannot be reached.

        Raises:
            EnrolmentRefused: it does not take this worker.
        """
        sent_at = self._clock.monotonic()
        if self._enrolment_token is not None:
            sent_at = await self._register(self._enrolment_token)
        elif self._registration is None:
            raise EnrolmentRefused(
                f"this worker is not known to {self._client.server_url}: {_GET_ONE}"
            )
        else:
            sent_at = await self._resume(None)
        self.registered_at = sent_at
        self._refused.clear()
        self.valid.set()
        log.info("worker.registered", worker_id=self.registration.worker_id)

    async def rotate(self) -> None:
        """Exchange the token once."""
        answer = await self._client.rotate()
        await self._keep(self.registration.model_copy(update=answer.model_dump()))

    async def keep(self, before_registering: Callable[[], Awaitable[None]]) -> None:
        """Rotate the token in time and register again when it is refused, until cancelled.

        *before_registering* ends all attempts: registering gives their leases away.

        Raises:
            EnrolmentRefused: the server takes this worker no more.
        """
        failures = 0
        while True:
            left_s = self._rotate_at - self._clock.monotonic()
            if self._refused.is_set():
                await before_registering()
                await self.open()
            elif left_s > 0:
                await _wait(self._refused, min(left_s, _NAP_S))
            else:
                failures = await self._try_rotating(failures)

    async def _try_rotating(self, failures: int) -> int:
        try:
            await self.rotate()
        except Unauthorized as error:
            self.refuse(error)
        except (ServerUnavailable, CallRefused) as error:
            if not failures:
                log.warning("worker.rotation_failed", error=str(error))
            await _wait(self._refused, 1.0 + self._client.pause_s(failures + 1))
            return failures + 1
        return 0

    async def _register(self, enrolment_token: str) -> float:
        """Register; return when the request was sent."""
        # The same in each try, so that a late one is known for what it is.
        request = self._request.model_copy(update={"registration_id": str(uuid.uuid4())})

        async def register() -> float:
            sent_at = self._clock.monotonic()
            await self._keep(await self._client.register(request, enrolment_token))
            return sent_at

        try:
            return await self.patiently(register)
        except CallRefused as refusal:
            raise EnrolmentRefused(f"{self._client.server_url}: {refusal}") from refusal
        except Unauthorized as refusal:
            return await self._resume(refusal)

    async def _resume(self, refusal: Unauthorized | None) -> float:
        """Go on with the identity of the last run, when the server still knows its token."""
        sent_at = None if self._refused.is_set() else await self.try_last_identity()
        if sent_at is None and refusal is not None:
            raise EnrolmentRefused(
                f"{self._client.server_url} refused the enrolment token ({refusal}); it may have "
                f"expired or been used: {_GET_ONE}"
            )
        if sent_at is None:
            raise EnrolmentRefused(
                f"{self._client.server_url} no longer knows this worker: {_GET_ONE}"
            )
        if refusal is not None:
            log.warning("worker.enrolment_refused", error=str(refusal), identity="the last one")
        return sent_at

    async def try_last_identity(self) -> float | None:
        """Exchange the token of the last run; return when it was sent, None when refused."""

        async def rotate() -> float:
            sent_at = self._clock.monotonic()
            await self.rotate()
            return sent_at

        if self._registration is None:
            return None
        try:
            return await self.patiently(rotate)
        except (Unauthorized, CallRefused) as error:
            log.info("identity.refused", error=str(error))
            return None

    async def _keep(self, registration: RegisterResponse) -> None:
        life_s = registration.token_expires_in_s
        self._rotate_at = self._clock.monotonic() + max(1.0, life_s * ROTATE_AT)
        self._registration = registration
        try:
            await asyncio.to_thread(
                self._state.save_registration, self._client.server_url, registration
            )
        except OSError:
            # A full disk: it is good while this process lives, the next one registers anew.
            log.exception("registration.not_kept")

    async def patiently(self, call: Callable[[], Awaitable[_Answered]]) -> _Answered:
        """Repeat *call* until the server answers it."""
        failures = 0
        while True:
            try:
                answered = await call()
            except ServerUnavailable as error:
                failures += 1
                self.reachability.lost(error)
                await asyncio.sleep(self._client.pause_s(failures, error.retry_after_s))
                continue
            self.reachability.reached()
            return answered


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
