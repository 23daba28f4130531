"""Claim, start and finish through `core.store`, beside the bare claim loop and the peers."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import floor, kennel
from bench.harness.context import Context
from bench.harness.peers import PeerFailed, drained
from bench.harness.profile import Profile
from bench.harness.results import Figure, median

_LEAST_SHARE = 0.5
#: Connections by batch: what the product uses is one worker a connection.
_SEVERAL = 4


async def measure(context: Context) -> Sequence[Figure]:
    """Measure each batch on one connection and on several, the floor in between."""
    return [
        figure for batch in context.sizes.tasks_of_batch for figure in await _batch(context, batch)
    ]


async def _batch(context: Context, batch: int) -> list[Figure]:
    peers = await _peers(context, batch)
    figures = []
    for connections in (1, _SEVERAL):
        tasks = context.sizes.tasks_of_batch[batch]
        floors: list[float] = []
        cpu_us: list[float] = []

        async def run(
            connections: int = connections,
            tasks: int = tasks,
            floors: list[float] = floors,
            cpu_us: list[float] = cpu_us,
        ) -> float:
            # In turns, so that a slow minute of the machine is both's.
            floors.append(
                await floor.claim_loop(
                    context.server, tasks=tasks, batch=batch, connections=connections
                )
            )
            before = context.server.cpu_s()
            rate = await kennel.claim_rate(
                context.server, tasks=tasks, batch=batch, connections=connections
            )
            cpu_us.append((context.server.cpu_s() - before) / tasks * 1e6)
            return rate

        rates = await context.repeated(run)
        context.say(
            f"batch {batch}, {connections} connections: {median(rates):.0f}/s, "
            f"floor {median(floors):.0f}/s"
        )
        is_missed = median(rates) < _LEAST_SHARE * median(floors)
        is_ahead_of = _ahead_of(batch, connections)
        figures.append(
            Figure(
                f"claims_store_batch_{batch}_connections_{connections}",
                median(rates),
                "1/s",
                floor=median(floors),
                peers=peers,
                least_share=_LEAST_SHARE,
                is_ahead_of=is_ahead_of,
                runs=rates,
                how=f"one process, {connections} workers with a connection each, claims of {batch};"
                " finishes fail the engine, one task a job; floor: the bare claim loop, the same"
                " batch and connections",
                detail={"floor_runs": floors, "database_cpu_us_a_task": median(cpu_us)},
                profile=await _profiled(context, batch, connections) if is_missed else "",
            )
        )
    return figures


def _ahead_of(batch: int, connections: int) -> tuple[str, ...]:
    """One process against one process, each as its documents advise: several connections."""
    if connections == 1:
        return ()
    return (
        ("procrastinate", "pgqueuer", "graphile") if batch == 100 else ("procrastinate", "pgqueuer")
    )


async def _profiled(context: Context, batch: int, connections: int) -> str:
    tasks = context.sizes.tasks_of_batch[batch]
    async with (
        context.server.database("profiled") as database,
        kennel.open_store(context.server, database, connections=connections) as store,
    ):
        await kennel.add_tasks(context.server, database, store, tasks)
        worker_ids = await kennel.add_workers(store, connections)
        async with Profile(context.server, database, {}, context.folder) as profile:
            await kennel.work_off(store, worker_ids, batch=batch)
        return profile.text


async def _peers(context: Context, batch: int) -> dict[str, float]:
    """Each in one process with its own batch: procrastinate's parallel jobs, pgqueuer's batch.

    graphile-worker has its batching on at 100, and takes jobs singly below.
    """
    found = {}
    for name in context.peers.names:
        is_batched = name == "graphile" and batch == 100
        jobs = context.sizes.peer_jobs[name]
        jobs = jobs if batch > 1 or name == "procrastinate" else jobs // 10
        try:
            found[name] = await drained(
                context.peers,
                context.server,
                name,
                jobs=jobs,
                batch=batch,
                is_batched=is_batched,
            )
        except PeerFailed as error:
            context.say(str(error))
    return found
