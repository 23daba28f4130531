"""What ten million finished tasks cost a claim, against an empty table.

Leaves the big database to the figures after it: loading it takes minutes, and is done once.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import kennel
from bench.harness.bigdatabase import big_database
from bench.harness.context import Context
from bench.harness.results import Figure, at_least, median
from bench.harness.seed import add_ready
from bench.harness.simulated import ENGINE
from core.domain.ids import WorkerId
from core.store import classes
from core.store.store import Store

_GOAL = at_least(0.9)
_BATCH, _WORKERS = 10, 4


async def measure(context: Context) -> Sequence[Figure]:
    """Measure claims beside the history and without it, in turns."""
    big = await big_database(context)
    tasks = context.sizes.tasks_of_batch[_BATCH]
    beside: list[float] = []
    async with kennel.open_store(context.server, big.name, connections=_WORKERS) as store:
        worker_ids = await kennel.add_workers(store, _WORKERS)

        async def run() -> float:
            beside.append(await _beside(context, store, worker_ids, tasks))
            return await kennel.claim_rate(
                context.server, tasks=tasks, batch=_BATCH, connections=_WORKERS
            )

        alone = await context.repeated(run)
    ratios = [with_history / without for with_history, without in zip(beside, alone, strict=True)]
    context.say(
        f"{median(beside):.0f}/s beside {context.sizes.history:,}, {median(alone):.0f}/s alone"
    )
    return [
        Figure(
            "claims_beside_history",
            median(ratios),
            "of an empty table's rate",
            _GOAL,
            runs=ratios,
            how=f"through core.store, {_WORKERS} workers, batches of {_BATCH}, beside"
            f" {context.sizes.history:,} finished tasks",
            detail={
                "beside": beside,
                "alone": alone,
                "loaded_in_s": big.loaded_in_s,
                "size_bytes": await _size(context, big.name),
                "finished": context.sizes.history,
            },
        ),
    ]


async def _beside(
    context: Context, store: Store, worker_ids: Sequence[WorkerId], tasks: int
) -> float:
    big = await big_database(context)
    class_id = await classes.ensure_class(store, classes.Requirement(ENGINE))
    async with context.server.connected(big.name) as connection:
        await add_ready(connection, big.world, tasks, class_id)
        await connection.execute("VACUUM (ANALYZE) task_ready")
    await context.server.checkpoint()
    done, seconds = await kennel.work_off(store, worker_ids, batch=_BATCH)
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks were finished")
    return done / seconds


async def _size(context: Context, database: str) -> int:
    async with context.server.connected() as connection:
        return int(await connection.fetchval("SELECT pg_database_size($1::text::name)", database))
