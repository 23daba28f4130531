"""The scheduler as a daemon: which loops run, what wakes each, how they start and stop.

Any number of schedulers may run: every decision is one guarded statement, so that two that see
the same job do not both act on it. Nothing depends on a wake-up arriving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from core.runtime.git import Git
from core.runtime.logs import get_logger
from core.runtime.loops import LoopHealth, LoopRun, run_loops
from core.runtime.sealing import open_sealer
from core.runtime.settings import Settings
from core.store.pool import is_unavailable
from core.store.store import Store
from scheduler.admitter import Admitter
from scheduler.expirer import Expirer
from scheduler.lookout import Lookout
from scheduler.planner import Planner
from scheduler.promoter import Promoter
from scheduler.pruner import INTERVAL_S, Pruner
from scheduler.reaper import Reaper
from scheduler.settler import Settler
from scheduler.tallier import Tallier
from scheduler.vacuumer import Vacuumer

log = get_logger(__name__)

#: Longest a loop rests that nobody wakes, seconds.
_REST_S = 150.0


async def run_scheduler(
    settings: Settings,
    store: Store,
    *,
    stop: asyncio.Event,
    health: LoopHealth | None = None,
    on_ready: Callable[[], object] | None = None,
) -> None:
    """Run all loops until *stop* is set; what was being resolved is left to another scheduler.

    Args:
        settings: The process's settings.
        store: Open, with its schema checked.
        stop: Ends it.
        health: Where the loops note their successes; for health checks.
        on_ready: Called once, when the loops run.
    """
    loops = asyncio.create_task(_run(settings, store, health or LoopHealth()), name="kennel-loops")
    stopping = asyncio.create_task(stop.wait(), name="kennel-stop")
    try:
        log.info("scheduler.started")
        if on_ready is not None:
            on_ready()
        await asyncio.wait({loops, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loops.done():
            loops.result()
    finally:
        for task in (loops, stopping):
            task.cancel()
        await asyncio.gather(loops, stopping, return_exceptions=True)
        log.info("scheduler.stopped")


async def _run(settings: Settings, store: Store, health: LoopHealth) -> None:
    tick_s = settings.scheduler.tick_s
    git = Git(allow_local=settings.allow_local_repos)
    with ExitStack() as stack:
        # Without a topic a loop is woken by a reconnected listener only, and by its interval.
        housekeeping, uncounted, dead_rows = (
            stack.enter_context(store.signals.subscribe()) for _ in range(3)
        )
        waiting, planning, settlement, delayed, lease_end, deadline, told = (
            stack.enter_context(store.signals.subscribe(*topics))
            for topics in (["jobs"], ["prepared"], ["settle"], ["delayed"], [], [], ["delayed"])
        )
        admitter = Admitter(
            store, settings.scheduler, git=git, sealer=open_sealer(settings), waker=waiting
        )
        # An end of a task makes room below a limit: said by one of these.
        ends = stack.enter_context(store.signals.subscribe("settle", "prepared", "jobs"))
        promoter = Promoter(store, delayed, ends=ends)
        lookout = Lookout(
            store,
            settings,
            {
                "admitter": waiting,
                "planner": planning,
                "settler": settlement,
                "promoter": delayed,
                "reaper": lease_end,
                "sweeper": lease_end,
                "expirer": deadline,
                "tallier": uncounted,
                "vacuumer": dead_rows,
            },
            told,
        )
        # They are woken when there is work; by the lookout, if by nobody else.
        rest_s = max(_REST_S, tick_s)
        async with admitter:
            await run_loops(
                [
                    LoopRun(lookout, lookout, tick_s),
                    LoopRun(admitter, waiting, rest_s),
                    LoopRun(Planner(store), planning, rest_s),
                    LoopRun(Settler(store), settlement, rest_s),
                    LoopRun(promoter, promoter, rest_s),
                    LoopRun(Reaper(store, settings), lease_end, rest_s),
                    LoopRun(Expirer(store, settings.scheduler), deadline, rest_s),
                    LoopRun(Pruner(store, settings.scheduler), housekeeping, INTERVAL_S),
                    LoopRun(Tallier(store), uncounted, rest_s),
                    LoopRun(Vacuumer(store), dead_rows, rest_s),
                ],
                health,
                is_outage=is_unavailable,
            )
