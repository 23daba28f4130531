"""`kennel api`, `kennel scheduler`, `kennel worker`: the three daemons, each on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.running import read_settings, run

if TYPE_CHECKING:
    from core.runtime.loops import LoopHealth
    from core.runtime.settings import Settings
    from core.runtime.signals import StopSignals

#: A scheduler whose loops all stand still for so long gives no more signs of life, seconds.
_STALE_S = 180.0


def api() -> None:
    """Serve the HTTP API. Needs KENNEL_DATABASE_URL; every setting is an environment variable.

    Ready (for systemd: Type=notify) once it listens. SIGTERM or Ctrl-C: held requests are answered,
    others may end, then it ends.
    """
    run(_api(read_settings()), on_uvloop=True)


def scheduler() -> None:
    """Run the scheduler's loops. Needs KENNEL_DATABASE_URL; any number of them share the work.

    Ready (for systemd: Type=notify) once its loops run. SIGTERM or Ctrl-C ends it; nothing is lost.
    """
    run(_scheduler(read_settings()), on_uvloop=True)


def worker(
    server_url: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Where the api listens. Default: KENNEL_WORKER__SERVER_URL.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Default: KENNEL_WORKER__NAME.", show_default=False),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="Attempts run at the same time. Default: KENNEL_WORKER__SLOTS.",
            show_default=False,
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Identity, spool and mirrors. Default: KENNEL_WORKER__STATE_DIR.",
            show_default=False,
        ),
    ] = None,
    hand_back_within: Annotated[
        float | None, typer.Option(metavar="SECONDS", hidden=True, min=0.1)
    ] = None,
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a worker: it dials the api, opens no port and needs no database.

    The first start needs KENNEL_WORKER__ENROLMENT_TOKEN (or …_FILE), which
    `kennel tokens create NAME --enrolment` makes. A first SIGTERM or Ctrl-C drains (what runs is
    finished), a second aborts (what runs returns to the queue).
    """
    given = {"server_url": server_url, "name": name, "slots": slots, "state_dir": state_dir}
    settings = read_settings(worker={key: value for key, value in given.items() if value})
    # Never uvloop: a worker's life is starting processes.
    run(_worker(settings, hand_back_within, with_parent=with_parent))


async def _api(settings: Settings) -> None:
    from api.service import run_api
    from core.runtime import systemd
    from core.runtime.collecting import settle
    from core.runtime.logs import configure_logs
    from core.store.store import open_store

    configure_logs(settings.log, "api", secrets=settings.secrets())

    def ready(address: str) -> None:
        settle()
        systemd.ready(f"listening at {address}")

    async with (
        _stop_signals() as stop,
        open_store(
            settings,
            application_name="kennel-api",
            pool_size=settings.api.pool_size,
            statement_timeout_s=settings.api.statement_timeout_s,
        ) as store,
    ):
        await _alive(
            run_api(settings, store, stop=stop.drain, on_ready=ready),
            stop,
        )


async def _scheduler(settings: Settings) -> None:
    from core.runtime import systemd
    from core.runtime.logs import configure_logs
    from core.runtime.loops import LoopHealth
    from core.store.store import open_store
    from scheduler.service import run_scheduler

    configure_logs(settings.log, "scheduler", secrets=settings.secrets())
    health = LoopHealth()
    async with (
        _stop_signals() as stop,
        open_store(
            settings,
            application_name="kennel-scheduler",
            pool_size=settings.scheduler.pool_size,
            statement_timeout_s=settings.scheduler.statement_timeout_s,
        ) as store,
    ):
        await _alive(
            run_scheduler(
                settings,
                store,
                stop=stop.drain,
                health=health,
                on_ready=lambda: systemd.ready("deciding"),
            ),
            stop,
            health,
        )


async def _worker(
    settings: Settings, hand_back_within_s: float | None, *, with_parent: bool
) -> None:
    from core.runtime.logs import configure_logs
    from worker.service import run_worker

    configure_logs(settings.log, "worker", secrets=settings.secrets())
    async with _stop_signals() as stop:
        if with_parent:
            _follow_parent(stop)
        status = await run_worker(settings, stop=stop, hand_back_within_s=hand_back_within_s)
    if status:
        raise SystemExit(status)


def _stop_signals() -> StopSignals:
    from core.runtime.signals import StopSignals

    return StopSignals()


async def _alive(service: object, stop: StopSignals, health: LoopHealth | None = None) -> None:
    """Run a service beside its signs of life for the service manager."""
    import asyncio
    from collections.abc import Coroutine

    from core.runtime import systemd

    assert isinstance(service, Coroutine)

    def is_healthy() -> bool:
        return health is None or not health.stale(_STALE_S)

    async def tell_the_end() -> None:
        await stop.drain.wait()
        systemd.stopping("stopping")

    signs = [
        asyncio.create_task(systemd.watchdog(is_healthy), name="kennel-watchdog"),
        asyncio.create_task(tell_the_end(), name="kennel-ending"),
    ]
    try:
        await service
    finally:
        for sign in signs:
            sign.cancel()


def _follow_parent(stop: StopSignals) -> None:
    """Abort at the end of standard input: the parent is gone, and the server with it."""
    import asyncio
    import os
    import sys

    loop = asyncio.get_running_loop()
    channel = sys.stdin.fileno()
    os.set_blocking(channel, False)

    def read() -> None:
        try:
            ended = not os.read(channel, 1024)
        except BlockingIOError:
            return
        if ended:
            loop.remove_reader(channel)
            stop.drain.set()
            stop.abort.set()

    loop.add_reader(channel, read)
