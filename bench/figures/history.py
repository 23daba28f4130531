"""What ten million finished tasks cost a claim, against an empty table.

Leaves the big database to the figures after it: loading it takes minutes, and is done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness import kennel
from bench.harness.bigdatabase import big_database
from bench.harness.context import Context
from bench.harness.costs import Costs
from bench.harness.results import Figure, at_least, median
from bench.harness.seed import World, add_ready, add_world
from bench.harness.simulated import ENGINE
from core.store import classes

_GOAL = at_least(0.9)
_BATCH, _WORKERS = 10, 4
#: Turns at least: the median of their ratios is not one slow moment of the disk.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class _Turn:
    """Tasks a second, and PostgreSQL's CPU microseconds a task."""

    rate: float
    cpu_us: float


async def measure(context: Context) -> Sequence[Figure]:
    """Measure claims beside the history and without it, in turns, both from the same beginnings."""
    big = await big_database(context)
    tasks = context.sizes.tasks_of_batch[_BATCH]
    beside: list[_Turn] = []
    alone: list[_Turn] = []
    for _ in range(max(_TURNS, context.sizes.runs)):
        beside.append(await _turn(context, big.name, big.world, tasks))
        async with context.server.database("alone") as name:
            async with context.server.connected(name) as connection:
                world = await add_world(connection, big.world.projects)
            alone.append(await _turn(context, name, world, tasks))
    ratios = [with_it.rate / without.rate for with_it, without in zip(beside, alone, strict=True)]
    with_cpu_us = median([turn.cpu_us for turn in beside])
    without_cpu_us = median([turn.cpu_us for turn in alone])
    context.say(
        f"{median([turn.rate for turn in beside]):.0f}/s beside {context.sizes.history:,},"
        f" {median([turn.rate for turn in alone]):.0f}/s alone; PostgreSQL's CPU a task"
        f" {with_cpu_us:.0f} and {without_cpu_us:.0f} µs"
    )
    return [
        Figure(
            "claims_beside_history",
            median(ratios),
            "of an empty table's rate",
            _GOAL,
            runs=ratios,
            how=f"through core.store, {_WORKERS} workers, batches of {_BATCH}, beside"
            f" {context.sizes.history:,} finished tasks; in turns",
            detail={
                "beside": [turn.rate for turn in beside],
                "alone": [turn.rate for turn in alone],
                # What another program does to the disk slows the commits, and not this.
                "database_cpu_us_a_task": {"beside": with_cpu_us, "alone": without_cpu_us},
                "loaded_in_s": big.loaded_in_s,
                "size_bytes": await _size(context, big.name),
                "finished": context.sizes.history,
            },
        ),
    ]


async def _turn(context: Context, database: str, world: World, tasks: int) -> _Turn:
    async with kennel.open_store(context.server, database, connections=_WORKERS) as store:
        class_id = await classes.ensure_class(store, classes.Requirement(ENGINE))
        async with context.server.connected(database) as connection:
            await add_ready(connection, world, tasks, class_id)
            await connection.execute("VACUUM (ANALYZE) task_ready, tasks, jobs")
        worker_ids = await kennel.add_workers(store, _WORKERS)
        await context.server.checkpoint()
        async with Costs(context.server) as costs:
            done, seconds = await kennel.work_off(store, worker_ids, batch=_BATCH)
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks were finished")
    return _Turn(done / seconds, costs.each(tasks)["postgres_cpu_us"])


async def _size(context: Context, database: str) -> int:
    async with context.server.connected() as connection:
        return int(await connection.fetchval("SELECT pg_database_size($1::text::name)", database))
