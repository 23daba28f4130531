"""One project submits thousands, then another a few: how long the few wait, against alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from bench.harness.context import Context, eventually
from bench.harness.http import Connection
from bench.harness.load import simulated
from bench.harness.processes import ADMIN_TOKEN, Crew, Daemon
from bench.harness.results import Figure, at_most, percentile
from bench.harness.seed import World, add_world

_GOAL = at_most(2.0)
_WORKERS, _SLOTS, _SERVICE_S = 2, 10, 0.05
_CALLERS = 32
#: Jobs of the modest project, so often alone and so often beside the greedy one: a 99th percentile
#: of ten waits would be the one that was unlucky.
_ROUNDS = 3

_WAITS = """
SELECT extract(epoch FROM started_at - created_at)::float8 AS wait_s
FROM jobs WHERE project_id = $1 AND started_at IS NOT NULL
"""
_OPEN = "SELECT count(*) FROM jobs WHERE project_id = $1 AND phase <> 'closed'"
_STARTED = "SELECT count(*) FROM jobs WHERE project_id = $1 AND started_at IS NOT NULL"


async def measure(context: Context) -> Sequence[Figure]:
    """Take the modest project's waits from its creates to the start of its engines."""
    sizes = context.sizes
    async with (
        context.server.database("fairness") as database,
        Crew(context, database) as crew,
        context.server.connected(database) as connection,
    ):
        api = await crew.api()
        await crew.scheduler()
        greedy, modest = await add_world(connection, 1), await add_world(connection, 3)
        warm, alone, beside = (modest.first_project + n for n in range(3))
        async with simulated(
            crew, [api], workers=_WORKERS, slots=_SLOTS, service_s=_SERVICE_S
        ) as workers:
            # The first jobs of all make plans, classes and connections.
            await _create(api, modest, warm, sizes.modest)
            await _none_open(connection, warm)
            for _ in range(_ROUNDS):
                await _create(api, modest, alone, sizes.modest)
                await _none_open(connection, alone)
            await _create(api, greedy, greedy.first_project, sizes.greedy)
            await _some_started(connection, greedy.first_project)
            open_before = await connection.fetchval(_OPEN, greedy.first_project)
            for _ in range(_ROUNDS):
                await _create(api, modest, beside, sizes.modest)
                await _none_open(connection, beside)
            open_after = await connection.fetchval(_OPEN, greedy.first_project)
            alone_s = [row["wait_s"] for row in await connection.fetch(_WAITS, alone)]
            beside_s = [row["wait_s"] for row in await connection.fetch(_WAITS, beside)]
            await workers.end()
        crew.check()
    if not open_after:
        raise RuntimeError("the greedy project was done before the modest one: nothing to share")
    if {len(beside_s), len(alone_s)} != {_ROUNDS * sizes.modest}:
        raise RuntimeError(f"{len(alone_s)} and {len(beside_s)} waits were seen")
    base, found = percentile(alone_s, 0.99), percentile(beside_s, 0.99)
    return [
        Figure(
            "fairness_p99_wait",
            found / base,
            "× alone",
            _GOAL,
            how=f"A creates {sizes.greedy:,} jobs at once, then B {sizes.modest}, {_ROUNDS} times;"
            f" {_WORKERS}"
            f" workers of {_SLOTS} slots, {_SERVICE_S * 1000:g} ms an attempt; from create to the"
            " start of the engine",
            detail={
                "alone_p99_s": base,
                "beside_p99_s": found,
                "open_of_a_before_and_after": [open_before, open_after],
            },
        )
    ]


async def _create(api: Daemon, world: World, project: int, count: int) -> None:
    path = world.path(project) + "/scans/create/"
    body = {"force_create": True, "revision": "a" * 40, "created_from": "bench"}
    numbers = iter(range(count))

    async def caller() -> None:
        async with Connection(api.url, f"Token {ADMIN_TOKEN}") as connection:
            for _ in numbers:
                status, answer = await connection.post(path, body)
                if status != 200:
                    raise RuntimeError(f"a create was answered {status}: {answer}")

    async with asyncio.TaskGroup() as group:
        for _ in range(min(count, _CALLERS)):
            group.create_task(caller())


async def _none_open(connection: asyncpg.Connection, project: int) -> None:
    async def look() -> bool:
        return not await connection.fetchval(_OPEN, project)

    await eventually(look, within_s=600, what=f"the jobs of project {project} are closed")


async def _some_started(connection: asyncpg.Connection, project: int) -> None:
    async def look() -> bool:
        return bool(await connection.fetchval(_STARTED, project))

    await eventually(look, within_s=600, what="the greedy project's first job has started")
