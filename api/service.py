"""The api as a daemon: listen, say that it is ready, serve, answer what is held, close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from api.app import build_app
from api.bootstrap import ensure_bootstrap_token
from api.envelope import error
from api.keys import ReadinessCheck
from api.middlewares.limits import Limits
from core.domain.errors import SettingError
from core.runtime.logs import get_logger
from core.runtime.settings import Settings
from core.store.pool import patiently
from core.store.store import Store

log = get_logger(__name__)

#: Longest the requests under way may take once the process is asked to stop, seconds.
SHUTDOWN_S = 8.0
#: A connection nobody uses is closed after this, seconds.
_KEEPALIVE_S = 75.0
#: The rest of a refused body is read for so long, so that the caller gets to its answer, seconds.
_LINGER_S = 2.0
_BACKLOG = 1024


async def run_api(
    settings: Settings,
    store: Store,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], object] | None = None,
    limits: Limits | None = None,
    readiness_checks: Sequence[ReadinessCheck] = (),
) -> None:
    """Serve until *stop* is set; held requests are then answered, others may end in time.

    Args:
        settings: The process's settings.
        store: Open, with its schema checked.
        stop: Ends it.
        on_ready: Called once, with the address it listens at.
        limits: Requests at the same time.
        readiness_checks: What else must be there for `/readyz`.

    Raises:
        SettingError: it cannot listen where it should, or nobody could administer it.
    """
    await patiently(lambda: ensure_bootstrap_token(settings, store))
    app = build_app(settings, store, limits=limits, readiness_checks=readiness_checks)
    runner = _Runner(
        app,
        access_log=None,
        keepalive_timeout=_KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
        lingering_time=_LINGER_S,
        # A body may be small on the wire and large in memory; `api.bodies` refuses such.
        auto_decompress=False,
    )
    await runner.setup()
    try:
        address = await _listen(runner, settings)
        log.info("api.started", address=address)
        if on_ready is not None:
            on_ready(address)
        await stop.wait()
        log.info("api.stopping")
    finally:
        await runner.cleanup()
        log.info("api.stopped")


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    host, port = settings.api.host, settings.api.port
    site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
    try:
        await site.start()
    except OSError as failure:
        raise SettingError(
            f"KENNEL_API__HOST, KENNEL_API__PORT: cannot listen at {host}:{port}: "
            f"{failure.strerror}"
        ) from None
    bound = runner.addresses[0]
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return f"http://{shown}:{bound[1]}"


class _Runner(web.AppRunner):
    """aiohttp answers what it cannot read by itself, in plain text; ours is an error like others.

    It has no hook for that; a test on a raw socket notices should a release of it change.
    """

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,  # noqa: SLF001 - see the class
        )


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class _RequestHandler(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote what was sent
    ) -> web.StreamResponse:
        """Answer a request that never reached the application, or an answer that failed."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, an error cannot follow it")
        if status >= 500:
            log.error("request.failed", exc_info=exc)
            text = "internal error"
        else:
            # Anybody can send garbage: one short line, without it.
            log.info("request.unreadable", remote=request.remote, error=type(exc).__name__)
            text = "the request cannot be read as HTTP"
        answer = error(status, text)
        answer.force_close()
        return answer
