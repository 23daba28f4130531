"""What Kennel costs while nothing happens: one of each process, then a thousand idle workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.harness.context import Context
from bench.harness.load import simulated
from bench.harness.processes import Crew
from bench.harness.results import Figure, at_most

_CPU, _TRANSACTIONS, _CPU_OF_MANY = at_most(0.5), at_most(1.0), at_most(5.0)


async def measure(context: Context) -> Sequence[Figure]:
    """Measure the CPU of every process of Kennel and of PostgreSQL over a minute."""
    baseline = await _server_alone(context)
    cpu, transactions = await _idle(context, 0)
    many, many_transactions = await _idle(context, context.sizes.idle_workers)
    seconds = f"over {context.sizes.idle_s:g} s"
    by_proc = f"{seconds}, by /proc, all of PostgreSQL included"
    return [
        Figure(
            "idle_cpu",
            cpu,
            "% of a core",
            _CPU,
            floor=baseline,
            how=f"one api, scheduler and worker, {by_proc}; floor: PostgreSQL alone",
        ),
        Figure(
            "idle_transactions",
            transactions,
            "1/s",
            _TRANSACTIONS,
            how=f"of Kennel's database, by pg_stat_database, {seconds}",
        ),
        Figure(
            "idle_cpu_1000_workers",
            many,
            "% of a core",
            _CPU_OF_MANY,
            how=f"with {context.sizes.idle_workers} more workers, idle, their claims and"
            f" heartbeats held, whose own process is not counted; {by_proc}",
            detail={
                "transactions_a_second": many_transactions,
                "workers": context.sizes.idle_workers,
            },
        ),
    ]


async def _server_alone(context: Context) -> float:
    await asyncio.sleep(context.sizes.settling_s)
    before, begun = context.server.cpu_s(), time.perf_counter()
    await asyncio.sleep(context.sizes.idle_s)
    return (context.server.cpu_s() - before) / (time.perf_counter() - begun) * 100


async def _idle(context: Context, workers: int) -> tuple[float, float]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(context.server.database("idle"))
        crew = await stack.enter_async_context(Crew(context, database))
        api = await crew.api()
        await crew.scheduler()
        await crew.worker(api, "idle")
        if workers:
            await stack.enter_async_context(simulated(crew, [api], workers=workers, slots=1))
        await asyncio.sleep(context.sizes.settling_s)
        await context.server.checkpoint()

        def cpu_s() -> float:
            return context.server.cpu_s() + sum(daemon.cpu_s() for daemon in crew.daemons)

        cpu, done = cpu_s(), await context.server.transactions(database)
        begun = time.perf_counter()
        await asyncio.sleep(context.sizes.idle_s)
        seconds = time.perf_counter() - begun
        cpu_after, done_after = cpu_s(), await context.server.transactions(database)
        if workers:
            live = (await crew.get(api, "/api/v1/workers/?limit=1"))["data"]["count"]
            if live < workers:
                raise RuntimeError(f"{live} of {workers} workers are there")
    return (cpu_after - cpu) / seconds * 100, (done_after - done) / seconds
