"""From ready to claimed by an idle worker, twenty jobs a second, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from bench.harness.context import Context, eventually
from bench.harness.costs import Costs
from bench.harness.load import simulated
from bench.harness.peers import PeerFailed, latencies_ms
from bench.harness.processes import Crew, Daemon
from bench.harness.results import Figure, Goal, at_most, percentile
from bench.harness.seed import World, add_world

_P50, _P99 = at_most(4), at_most(15)
_RATE = 20.0
#: What makes a job's preparation, and its engine tasks, ready.
_READY = "SELECT job_id, kind, at FROM events WHERE kind IN ('job.resolved', 'job.planned')"
_EVENT_OF = {"prepare": "job.resolved", "engine": "job.planned"}


async def measure(context: Context) -> Sequence[Figure]:
    """Create jobs through a real api, with a real scheduler, for one simulated worker."""
    ready_ms, create_ms, costs = await _kennel(context)
    peers = await _peers(context)
    how = (
        f"one api, one scheduler, one idle worker with a held claim, {_RATE:g} jobs/s created over"
        " HTTP; from the transaction that made the task ready to its arrival at the worker"
    )
    return [
        _figure("ready_to_claimed_p50", ready_ms, 0.5, how, peers, _P50),
        _figure("ready_to_claimed_p99", ready_ms, 0.99, how, peers, _P99),
        _figure(
            "create_to_claimed_p50",
            create_ms,
            0.5,
            "from sending the create to the arrival of the preparation at the worker",
            peers,
            costs=costs,
        ),
    ]


def _figure(
    name: str,
    samples: list[float],
    share: float,
    how: str,
    peers: dict[str, list[float]],
    goal: Goal | None = None,
    costs: dict[str, float] | None = None,
) -> Figure:
    detail: dict[str, Any] = {
        f"p{place:g}": percentile(samples, place / 100) for place in (50, 90, 99, 100)
    }
    return Figure(
        name,
        percentile(samples, share),
        "ms",
        goal,
        peers={peer: percentile(found, share) for peer, found in peers.items()},
        how=how + "; peers: from enqueue to begin, without HTTP",
        detail=detail | {"samples": len(samples)} | ({"costs": costs} if costs else {}),
    )


async def _kennel(context: Context) -> tuple[list[float], list[float], dict[str, float]]:
    async with context.server.database("latency") as database, Crew(context, database) as crew:
        api = await crew.api()
        await crew.scheduler()
        async with context.server.connected(database) as connection:
            world = await add_world(connection, 1)
        async with simulated(crew, [api], workers=1, slots=64, with_arrivals=True) as worker:
            async with (
                Costs(context.server, crew) as spent,
                context.server.connected(database) as connection,
            ):
                sent = await _create(crew, api, world, context.sizes.samples)
                await _closed(connection, len(sent))
            async with context.server.connected(database) as connection:
                rows = await connection.fetch(_READY)
            seen = await worker.end()
        crew.check()
    ready = {(row["job_id"], row["kind"]): row["at"].timestamp() for row in rows}
    arrived = {(job, kind): at for job, kind, at in seen["arrivals"]}
    ready_ms = [(at - ready[(job, _EVENT_OF[kind])]) * 1000 for (job, kind), at in arrived.items()]
    create_ms = [(arrived[(job, "prepare")] - at) * 1000 for job, at in sent.items()]
    if len(ready_ms) != 2 * len(sent):
        raise RuntimeError(f"{len(sent)} jobs made {len(ready_ms)} arrivals, not twice as many")
    return ready_ms, create_ms, spent.each(len(sent))


async def _create(crew: Crew, api: Daemon, world: World, count: int) -> dict[int, float]:
    """Create jobs at an even pace; return when each was sent."""
    loop = asyncio.get_running_loop()
    begun, sent = loop.time(), {}
    body = {"force_create": True, "revision": "a" * 40, "created_from": "bench"}
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / _RATE - loop.time()))
        at = datetime.now(UTC).timestamp()
        answer = await crew.post(api, world.path() + "/scans/create/", body)
        sent[answer["job"]["id"]] = at
    return sent


async def _closed(connection: asyncpg.Connection, count: int) -> None:
    async def all_closed() -> bool:
        done = await connection.fetchval("SELECT count(*) FROM jobs WHERE phase = 'closed'")
        return bool(done == count)

    await eventually(all_closed, within_s=120, what=f"{count} jobs are closed")


async def _peers(context: Context) -> dict[str, list[float]]:
    found = {}
    for name in context.peers.names:
        try:
            found[name] = await latencies_ms(
                context.peers, context.server, name, jobs=context.sizes.samples, rate=_RATE
            )
        except PeerFailed as error:
            context.say(str(error))
    return found
