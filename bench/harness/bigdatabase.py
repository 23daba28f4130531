"""The database with millions of finished jobs, loaded once in a run and shared by figures."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.harness.context import Context
from bench.harness.kennel import open_store
from bench.harness.seed import World, add_history, add_world
from core.store import counting

#: Closed jobs counted at once: the scheduler counts them as they close, a few at a time.
_COUNTED = 200_000
#: The usual projects beside the big one, which has a tenth of all jobs.
_PROJECTS = 1_000


@dataclass(frozen=True, slots=True)
class BigDatabase:
    """A loaded database."""

    name: str
    #: Its first project is the big one, the rest are usual ones.
    world: World
    jobs_of_big_project: int
    loaded_in_s: float


async def big_database(context: Context) -> BigDatabase:
    """Return the loaded database, loading it at first; it lives until the run ends."""
    if context.big is None:
        context.big = await _load(context, context.stack)
    return context.big


async def _load(context: Context, stack: AsyncExitStack) -> BigDatabase:
    count = context.sizes.history
    context.say(f"loading {count:,} finished jobs; that takes a while")
    name = await stack.enter_async_context(context.server.database("big"))
    begun = time.perf_counter()
    async with context.server.connected(name) as connection:
        world = await add_world(connection, 1 + _PROJECTS)
        await add_history(connection, world, count)
        await connection.execute("VACUUM (ANALYZE)")
        await _count(context, name)
        await connection.execute("VACUUM (ANALYZE)")
        in_big = await connection.fetchval(
            "SELECT count(*) FROM jobs WHERE project_id = $1", world.first_project
        )
    await context.server.checkpoint()
    seconds = time.perf_counter() - begun
    context.say(f"loaded in {seconds:.0f} s")
    return BigDatabase(name, world, in_big, seconds)


async def _count(context: Context, name: str) -> None:
    """Have Kennel count what was loaded, as its scheduler would have over time."""
    async with open_store(context.server, name, connections=1) as store:
        while await counting.count_closed(store, limit=_COUNTED):
            pass
