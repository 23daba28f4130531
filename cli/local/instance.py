"""Everything on one machine: database, api, scheduler and workers, begun and ended in order.

api and scheduler share this process's loop and store; workers are children. Ending goes the
other way round: the workers hand back what they run while there is still somebody to take it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api.service import run_api
from cli.local.crew import Crew, posts_for
from cli.local.database import open_database
from cli.local.place import Card, Kind, Place
from cli.local.tokens import ensure_local_token
from core.runtime.collecting import settle
from core.runtime.logs import configure_logs, get_logger
from core.runtime.settings import Settings
from core.store import schema
from core.store.store import Store, open_store
from scheduler.service import run_scheduler

log = get_logger(__name__)

#: What the api and the scheduler have to end within once they are told to.
_SERVICES_END_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run."""

    kind: Kind
    workers: int = 1
    #: Slots of each worker; None: the machine's processors, shared.
    slots: int | None = None
    #: Logs go to this file, begun anew, and not to standard error.
    log_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """What runs."""

    card: Card
    crew: Crew
    #: The local token was made by this start.
    is_first: bool


@asynccontextmanager
async def running(
    settings: Settings,
    plan: Plan,
    *,
    abort: asyncio.Event,
    on_begin: Callable[[], object] = lambda: None,
) -> AsyncIterator[Instance]:
    """Run everything for the block; *abort* shortens the end.

    *on_begin* is called once the data directory is ours.

    Raises:
        PlaceTaken: a server runs on the data directory.
        KennelError: something cannot start; the message says what to do.
    """
    place = Place(settings.data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(place.held())
        on_begin()
        output = _configure_logs(settings, plan, stack)
        database_url = await stack.enter_async_context(open_database(settings))
        await schema.upgrade(database_url)
        store = await stack.enter_async_context(_store(settings, database_url))
        is_first = await ensure_local_token(place, store)
        async with _served(settings, store, plan, output) as (address, crew):
            card = Card(address, os.getpid(), str(place.token_file), plan.kind)
            with place.announced(card):
                try:
                    yield Instance(card, crew, is_first)
                finally:
                    await crew.stop(abort)


def _configure_logs(settings: Settings, plan: Plan, stack: AsyncExitStack) -> IO[str] | None:
    stream = None
    if plan.log_file is not None:
        plan.log_file.unlink(missing_ok=True)
        stream = stack.enter_context(plan.log_file.open("w", encoding="utf-8"))
        plan.log_file.chmod(0o600)
    configure_logs(settings.log, plan.kind, secrets=settings.secrets(), stream=stream)
    return stream


def _store(settings: Settings, database_url: str) -> contextlib.AbstractAsyncContextManager[Store]:
    api, scheduler = settings.api, settings.scheduler
    return open_store(
        settings,
        application_name="kennel",
        pool_size=api.pool_size + scheduler.pool_size,
        statement_timeout_s=max(api.statement_timeout_s, scheduler.statement_timeout_s),
        database_url=database_url,
    )


@asynccontextmanager
async def _served(
    settings: Settings, store: Store, plan: Plan, output: IO[str] | None
) -> AsyncIterator[tuple[str, Crew]]:
    """Run api, scheduler and workers; whichever fails ends the block with its error."""
    stop = asyncio.Event()
    crews: list[Crew] = []

    async def no_worker() -> str | None:
        return await crews[0].missing() if crews else "no worker has been started yet"

    async with asyncio.TaskGroup() as group:
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        api = run_api(
            settings,
            store,
            stop=stop,
            on_ready=listening.set_result,
            readiness_checks=[no_worker],
        )
        services = [
            group.create_task(api, name="kennel-api"),
            group.create_task(run_scheduler(settings, store, stop=stop), name="kennel-scheduler"),
        ]
        address = await listening
        settle()
        posts = posts_for(settings, reachable(address), workers=plan.workers, slots=plan.slots)
        crews.append(Crew(settings, store, posts, output=output))
        crew_task = group.create_task(crews[0].run(), name="kennel-crew")
        try:
            yield reachable(address), crews[0]
        finally:
            crew_task.cancel()
            stop.set()
            await _bounded(asyncio.wait(services), _SERVICES_END_S)
            for service in services:
                service.cancel()


async def _bounded(waiting: Awaitable[object], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting


def reachable(address: str) -> str:
    """Return where this machine reaches a server that listens at *address*."""
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
