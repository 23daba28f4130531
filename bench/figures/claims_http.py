"""Claim, start and finish over HTTP, by simulated workers of ten slots."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from bench.harness import floor, kennel
from bench.harness.context import Context
from bench.harness.costs import Costs
from bench.harness.load import simulated
from bench.harness.processes import Crew, Daemon
from bench.harness.profile import Profile
from bench.harness.results import Figure, at_least, median

_GOAL = at_least(4_000)
_SLOTS = 10


async def measure(context: Context) -> Sequence[Figure]:
    """Measure with one api process and with two, then once with a report uploaded a task."""
    found: dict[int, list[float]] = {}
    costs: dict[int, dict[str, float]] = {}
    for apis in (1, 2):
        found[apis] = await context.repeated(partial(_rate, context, apis, costs))
        context.say(f"{apis} api: {', '.join(f'{rate:.0f}/s' for rate in found[apis])}")
    best = max(found, key=lambda apis: median(found[apis]))
    rate = median(found[best])
    profile = "" if _GOAL.is_met(rate) else await _profiled(context, best)
    least = await floor.claim_loop(
        context.server, tasks=context.sizes.tasks_of_batch[10], batch=10, connections=4
    )
    reports = await context.repeated(partial(_rate, context, best, {}, with_report=True))
    how = (
        f"{best} api, {context.sizes.workers} workers of {_SLOTS} slots in one client process,"
        " heartbeats held beside; "
    )
    return [
        Figure(
            "claims_http",
            rate,
            "1/s",
            _GOAL,
            floor=least,
            runs=found[best],
            how=how + "an engine that fails closes its task without an upload; floor: the bare"
            " claim loop, batches of 10, 4 connections",
            detail={f"{apis}_api": median(runs) for apis, runs in found.items()}
            | {"costs": costs[best]},
            profile=profile,
        ),
        Figure(
            "claims_http_with_reports",
            median(reports),
            "1/s",
            runs=reports,
            how=how + "each success uploads a small result.json first",
        ),
    ]


async def _rate(
    context: Context,
    apis: int,
    costs: dict[int, dict[str, float]],
    *,
    with_report: bool = False,
) -> float:
    async with AsyncExitStack() as stack:
        crew, daemons, database, tasks = await _set_up(context, stack, apis)
        async with Costs(context.server, crew) as spent:
            seen = await _work(context, crew, daemons, tasks, with_report=with_report)
        costs[apis] = spent.each(tasks)
        async with context.server.connected(database) as connection:
            closed = await connection.fetchval("SELECT count(*) FROM task_outcomes")
    if closed < tasks or seen["finished"] < tasks:
        raise RuntimeError(f"{seen['finished']} of {tasks} were finished, {closed} are closed")
    return float(seen["finished"] / (seen["ended_at"] - seen["started_at"]))


async def _profiled(context: Context, apis: int) -> str:
    async with AsyncExitStack() as stack:
        crew, daemons, database, tasks = await _set_up(context, stack, apis)
        pids = {f"api-{n}": daemon.pid for n, daemon in enumerate(daemons)}
        async with Profile(context.server, database, pids, crew.folder) as profile:
            await _work(context, crew, daemons, tasks)
        return profile.text


async def _set_up(
    context: Context, stack: AsyncExitStack, apis: int
) -> tuple[Crew, list[Daemon], str, int]:
    tasks = context.sizes.tasks_of_batch[10]
    database = await stack.enter_async_context(context.server.database("claims"))
    crew = await stack.enter_async_context(Crew(context, database))
    daemons = [await crew.api() for _ in range(apis)]
    async with kennel.open_store(context.server, database, connections=2) as store:
        await kennel.add_tasks(context.server, database, store, tasks)
    return crew, daemons, database, tasks


async def _work(
    context: Context, crew: Crew, daemons: list[Daemon], tasks: int, *, with_report: bool = False
) -> dict[str, Any]:
    async with simulated(
        crew,
        daemons,
        workers=context.sizes.workers,
        slots=_SLOTS,
        tasks=tasks,
        with_report=with_report,
    ) as workers:
        seen = await workers.result(within_s=600)
    crew.check()
    return seen
