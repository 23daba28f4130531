"""The other end of the worker's wire: a real HTTP server that speaks the protocol as a test scripts it.

It keeps what it is told, in order, and can be made to fail where a network or a server fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from core.protocol.headers import (
    content_digest,
    parse_content_range,
    stored_range,
)
from core.protocol.messages import (
    LEASE_HEADER,
    AttemptResult,
    ClaimRequest,
    HeartbeatRequest,
    RegisterRequest,
    ResultsRequest,
    StartRequest,
    TaskSpec,
)

WITHIN_S = 30.0


@dataclass
class Peer:
    """A scripted server. `async with` starts it on a port of the system's choice."""

    enrolment_token: str = field(default_factory=lambda: "kne_" + secrets.token_urlsafe(24))
    intervals: dict[str, float] = field(
        default_factory=lambda: {
            "claim_s": 2.0, "heartbeat_s": 0.2, "lease_s": 8.0, "fence_s": 6.0, "start_s": 5.0, "log_s": 0.05,
        }
    )  # fmt: skip
    limits: dict[str, int] = field(
        default_factory=lambda: {"log_bytes": 1 << 20, "artifact_bytes": 8 << 20, "artifacts": 8}
    )
    token_expires_in_s: float = 3600.0
    #: What happened, in order: ("register", …), ("start", attempt_id), …
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    registrations: list[RegisterRequest] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    claims: list[ClaimRequest] = field(default_factory=list)
    beats: list[HeartbeatRequest] = field(default_factory=list)
    logs: dict[int, bytearray] = field(default_factory=dict)
    log_refusals: list[int] = field(default_factory=list)
    artifacts: dict[tuple[int, str], bytes] = field(default_factory=dict)
    results: list[AttemptResult] = field(default_factory=list)
    goodbyes: int = 0
    #: Offered, by attempt.
    offered: dict[int, TaskSpec] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    #: Attempts about which every call is answered `lease_lost`.
    lost: set[int] = field(default_factory=set)
    orders: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    directives: list[str] = field(default_factory=list)
    quarantine: dict[str, Any] | None = None
    #: Paths that are answered 503, by a part of them.
    failing: set[str] = field(default_factory=set)
    #: Paths whose next call is carried out but gets no answer.
    deaf_once: set[str] = field(default_factory=set)
    #: Every call's connection is cut.
    is_down: bool = False
    #: Every call is accepted and gets no answer.
    is_hanging: bool = False
    #: Answers a claim with all there is, whatever was asked for.
    is_generous: bool = False
    enrolment_uses: int | None = None
    #: Verdicts to give before the usual ones: attempt → list of them.
    verdicts: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    #: Called while a heartbeat is under way.
    on_heartbeat: Callable[[], object] = lambda: None
    #: Attempts whose log is lost before their next verdict.
    forgetting: set[int] = field(default_factory=set)
    port: int = 0

    def __post_init__(self) -> None:
        self._ids = itertools.count(1 + secrets.randbelow(2**40))
        self._queue: list[TaskSpec] = []
        self._answers: dict[str, list[TaskSpec]] = {}
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(middlewares=[self._fail], client_max_size=64 << 20)
        app.add_routes(
            [
                web.post("/worker/v1/register", self._register),
                web.post("/worker/v1/token", self._rotate),
                web.post("/worker/v1/claim", self._claim),
                web.post("/worker/v1/start", self._start),
                web.post("/worker/v1/heartbeat", self._heartbeat),
                web.patch("/worker/v1/attempts/{id}/log", self._log),
                web.put("/worker/v1/attempts/{id}/artifacts/{name}", self._artifact),
                web.post("/worker/v1/results", self._results),
                web.post("/worker/v1/goodbye", self._goodbye),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- what a test does --------------------------------------------------------------------

    async def offer(self, spec: dict[str, Any]) -> int:
        """Queue one attempt; return its id."""
        attempt_id = next(self._ids)
        full = {
            "task_id": 1000 + attempt_id, "attempt_id": attempt_id, "attempt": 1, "job_id": 7,
            "lease_token": secrets.token_urlsafe(32), "kind": "engine", **spec,
        }  # fmt: skip
        self._queue.append(TaskSpec.model_validate(full))
        await self.note()
        return attempt_id

    async def order(self, attempt_id: int, mode: str = "abort") -> None:
        """Cancel an attempt as the server does: its lease is gone at once, the order follows."""
        self.lost.add(attempt_id)
        self.orders.append({"attempt_id": attempt_id, "mode": mode, "reason": "cancelled"})
        await self.note()

    async def disown(self, attempt_id: int) -> None:
        self.lost.add(attempt_id)
        self.unknown.append(attempt_id)
        await self.note()

    async def note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
        """Wait until a call has made *holds* true; return what it returned."""
        async with asyncio.timeout(within_s), self._changed:
            while not (found := holds()):
                await self._changed.wait()
            return found

    async def result(self, attempt_id: int, *, within_s: float = WITHIN_S) -> AttemptResult:
        """Wait for the accepted result of an attempt."""
        found = await self.until(
            lambda: [r for r in self.results if r.attempt_id == attempt_id], within_s=within_s
        )
        return found[0]

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == name]

    def log_of(self, attempt_id: int) -> str:
        return self.logs.get(attempt_id, b"").decode()

    async def pid(self, attempt_id: int) -> int:
        """Wait for the process id that an attempt's command wrote into its log."""
        found = await self.until(lambda: re.search(r"pid (\d+)\n", self.log_of(attempt_id)))
        return int(found[1])

    # --- the calls ---------------------------------------------------------------------------

    @web.middleware
    async def _fail(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.is_down:
            self._cut(request)
        if self.is_hanging:
            await self.until(lambda: not self.is_hanging, within_s=2 * WITHIN_S)
        if any(part in request.path for part in self.failing):
            self.calls.append(("failed", request.path))
            await self.note()
            return web.json_response({"status_code": 503, "code": 503, "msg": "later"}, status=503)
        is_registration = request.path.endswith("/register")
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        good = [self.enrolment_token] if is_registration else self.tokens[-2:]
        if shown not in good or (is_registration and self.enrolment_uses == 0):
            self.calls.append(("unauthorized", request.path))
            await self.note()
            return web.json_response(
                {"status_code": 401, "code": 401, "msg": "no such token"}, status=401
            )
        response = await handler(request)
        await self.note()
        deaf = [part for part in self.deaf_once if part in request.path]
        if deaf or self.is_down:
            self.deaf_once -= set(deaf)
            self._cut(request)
        return response

    def _cut(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError

    async def _register(self, request: web.Request) -> web.Response:
        body = RegisterRequest.model_validate_json(await request.read())
        if self.enrolment_uses:
            self.enrolment_uses -= 1
        self.registrations.append(body)
        self.calls.append(("register",))
        # Registering gives the leases of the earlier life away.
        self.lost |= set(self.offered)
        return web.json_response(
            {
                "worker_id": 5,
                **self._new_token(),
                "protocol": 1,
                "intervals": self.intervals,
                "limits": self.limits,
            },
            status=201,
        )

    async def _rotate(self, request: web.Request) -> web.Response:
        self.calls.append(("token",))
        return web.json_response(self._new_token())

    def _new_token(self) -> dict[str, Any]:
        self.tokens.append("knw_" + secrets.token_urlsafe(24))
        return {"token": self.tokens[-1], "token_expires_in_s": self.token_expires_in_s}

    async def _claim(self, request: web.Request) -> web.Response:
        body = ClaimRequest.model_validate_json(await request.read())
        self.claims.append(body)
        self.calls.append(("claim", body.claim_id, body.slots))
        if body.claim_id not in self._answers:
            with suppress(TimeoutError):
                await self.until(lambda: self._queue, within_s=self.intervals["claim_s"])
            count = len(self._queue) if self.is_generous else body.slots
            self._answers[body.claim_id], self._queue = self._queue[:count], self._queue[count:]
        tasks = self._answers[body.claim_id]
        self.offered.update({task.attempt_id: task for task in tasks})
        if not tasks:
            return web.Response(status=204)
        return web.json_response({"tasks": [task.model_dump(mode="json") for task in tasks]})

    async def _start(self, request: web.Request) -> web.Response:
        body = StartRequest.model_validate_json(await request.read())
        verdicts = []
        for ref in body.attempts:
            held = self._holds(ref.attempt_id, ref.lease_token)
            if held:
                self.running.add(ref.attempt_id)
            self.calls.append(("start", ref.attempt_id))
            verdicts.append(
                {"attempt_id": ref.attempt_id, "verdict": "running" if held else "lease_lost"}
            )
        return web.json_response({"attempts": verdicts})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = HeartbeatRequest.model_validate_json(await request.read())
        self.beats.append(body)
        self.calls.append(("heartbeat",))
        self.on_heartbeat()
        await self.note()
        if body.hold:
            within_s = self.intervals["heartbeat_s"]
            if body.hold_s is not None and not body.attempts:
                within_s = min(body.hold_s, self.intervals["lease_s"] * 2 / 3)
            with suppress(TimeoutError):
                await self.until(lambda: self.orders or self.unknown, within_s=within_s)
        orders, self.orders = self.orders, []
        unknown, self.unknown = self.unknown, []
        known = [beat.attempt_id for beat in body.attempts if beat.attempt_id not in self.lost]
        return web.json_response(
            {
                "known": known,
                "cancel": orders,
                "unknown": unknown,
                "directives": self.directives,
                "quarantine": self.quarantine,
                "intervals": self.intervals,
            }
        )

    async def _log(self, request: web.Request) -> web.Response:
        attempt_id = int(request.match_info["id"])
        if not self._holds(attempt_id, request.headers[LEASE_HEADER]):
            return self._lease_lost()
        place = parse_content_range(request.headers["Content-Range"])
        content = await request.read()
        log = self.logs.setdefault(attempt_id, bytearray())
        assert place is not None
        assert place[1] == len(content)
        is_right = place[0] == len(log)
        if is_right:
            log += content
        else:
            self.log_refusals.append(attempt_id)
        header = stored_range(len(log))
        return web.Response(
            status=202 if is_right else 416, headers={"Range": header} if header else {}
        )

    async def _artifact(self, request: web.Request) -> web.Response:
        attempt_id, name = int(request.match_info["id"]), request.match_info["name"]
        if not self._holds(attempt_id, request.headers[LEASE_HEADER]):
            return self._lease_lost()
        content = await request.read()
        if len(content) > self.limits["artifact_bytes"]:
            return web.json_response(
                {"status_code": 413, "code": 413, "msg": "too large"}, status=413
            )
        assert request.content_length == len(content)
        assert request.headers["Content-Digest"] == content_digest(hashlib.sha256(content).digest())
        self.calls.append(("artifact", attempt_id, name))
        self.artifacts[attempt_id, name] = content
        return web.Response(status=201)

    async def _results(self, request: web.Request) -> web.Response:
        body = ResultsRequest.model_validate_json(await request.read())
        return web.json_response({"results": [self._judge(result) for result in body.results]})

    def _judge(self, result: AttemptResult) -> dict[str, Any]:
        attempt_id = result.attempt_id
        self.calls.append(("result", attempt_id, result.reason))
        if attempt_id in self.forgetting:
            self.forgetting.discard(attempt_id)
            self.logs.pop(attempt_id, None)
        scripted = self.verdicts.get(attempt_id)
        if scripted:
            return {"attempt_id": attempt_id, **scripted.pop(0)}
        if not self._holds(attempt_id, result.lease_token):
            return {"attempt_id": attempt_id, "verdict": "lease_lost"}
        stored = len(self.logs.get(attempt_id, b""))
        if stored < result.log_bytes:
            return {"attempt_id": attempt_id, "verdict": "log_incomplete", "log_bytes": stored}
        if any((attempt_id, artifact.name) not in self.artifacts for artifact in result.artifacts):
            return {"attempt_id": attempt_id, "verdict": "artifact_missing"}
        self.results.append(result)
        self.running.discard(attempt_id)
        self.lost.add(attempt_id)
        return {"attempt_id": attempt_id, "verdict": "accepted"}

    async def _goodbye(self, request: web.Request) -> web.Response:
        self.goodbyes += 1
        self.calls.append(("goodbye",))
        return web.json_response({"released": 0})

    def _holds(self, attempt_id: int, lease_token: str) -> bool:
        spec = self.offered.get(attempt_id)
        return spec is not None and attempt_id not in self.lost and spec.lease_token == lease_token

    def _lease_lost(self) -> web.Response:
        return web.json_response(
            {"status_code": 409, "code": "lease_lost", "msg": "over"}, status=409
        )
