"""The claim rate while another session holds a snapshot, as a dump or a long report does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from bench.harness import kennel
from bench.harness.context import Context
from bench.harness.peers import PeerFailed
from bench.harness.profile import Profile
from bench.harness.results import Figure, Series, at_least
from bench.harness.server import Server
from core.runtime.settings import SchedulerSettings
from core.store import maintenance
from core.store.store import Store

_GOAL = at_least(0.8)
_BATCH, _WORKERS = 10, 4
#: The share of the held time, at its end, whose rate counts: that is where it has got to.
_TAIL = 1 / 3


async def measure(context: Context) -> Sequence[Figure]:
    """Count tasks second by second before and under a snapshot; so with each peer."""
    counts, cpu_us, profile = await _kennel(context)
    before_s = round(context.sizes.before_s)
    value, before, held = _ratio(counts, before_s)
    context.say(f"{before:.0f}/s before, {held:.0f}/s at the end of the held time")
    peers, series = {}, [_series("kennel", counts)]
    if context.sizes.peers_held:
        for name in context.peers.names:
            try:
                found = await _peer(context, name)
            except PeerFailed as error:
                context.say(str(error))
                continue
            peers[name] = _ratio(found, before_s)[0]
            series.append(_series(name, found))
    return [
        Figure(
            "claims_under_a_held_snapshot",
            value,
            "of the rate before",
            _GOAL,
            peers=peers,
            how=f"through core.store, {_WORKERS} workers, batches of {_BATCH}, a backlog of"
            f" {context.sizes.backlog:,}, dead rows looked after as by a scheduler; snapshot held"
            f" for {context.sizes.held_s:g} s, the rate of the last third counts",
            # What another program does to the disk slows the commits, and not this.
            detail={"before": before, "held": held, "database_cpu_us_a_task": cpu_us},
            series=series,
            profile="" if _GOAL.is_met(value) else profile,
        )
    ]


def _ratio(counts: Sequence[int], before_s: int) -> tuple[float, float, float]:
    """Return the ratio of the rates, and both, from the numbers done by each second."""
    rates = [second - first for first, second in zip([0, *counts], counts, strict=False)]
    # The first second is a warm-up where there are more.
    before = rates[1:before_s] or rates[:before_s]
    held = rates[before_s:]
    tail = held[-max(1, round(len(held) * _TAIL)) :]
    mean_before, mean_held = sum(before) / len(before), sum(tail) / len(tail)
    if not mean_before:
        raise RuntimeError("nothing was claimed before the snapshot")
    return mean_held / mean_before, mean_before, mean_held


def _series(label: str, counts: Sequence[int]) -> Series:
    rates = [second - first for first, second in zip([0, *counts], counts, strict=False)]
    return Series(label, [(float(n), float(rate)) for n, rate in enumerate(rates, 1)])


@asynccontextmanager
async def _held_snapshot(server: Server, database: str) -> AsyncIterator[None]:
    async with (
        server.connected(database) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.fetchval("SELECT count(*) FROM pg_class")
        yield


async def _kennel(context: Context) -> tuple[list[int], dict[str, float], str]:
    """Return the tasks done by each second, CPU a task before and at the end, and the profile."""
    sizes = context.sizes
    async with (
        context.server.database("snapshot") as database,
        kennel.open_store(context.server, database, connections=_WORKERS) as store,
        AsyncExitStack() as stack,
    ):
        await kennel.add_tasks(context.server, database, store, sizes.backlog)
        worker_ids = await kennel.add_workers(store, _WORKERS)
        keeper = await stack.enter_async_context(
            kennel.open_store(context.server, database, connections=1)
        )
        await context.server.checkpoint()
        count, stop, counts = Counter[str](), asyncio.Event(), []
        async with asyncio.TaskGroup() as group:
            group.create_task(
                kennel.work_off(store, worker_ids, batch=_BATCH, stop=stop, count=count)
            )
            group.create_task(_keep_house(keeper, stop))
            cpu = [context.server.cpu_s()]
            counts += await _seconds(count, sizes.before_s)
            cpu.append(context.server.cpu_s())
            async with (
                _held_snapshot(context.server, database),
                Profile(context.server, database, {}, context.folder) as profile,
            ):
                tail_s = max(1.0, sizes.held_s * _TAIL)
                counts += await _seconds(count, sizes.held_s - tail_s)
                at_tail = counts[-1]
                cpu.append(context.server.cpu_s())
                counts += await _seconds(count, tail_s)
                cpu.append(context.server.cpu_s())
            stop.set()
        closed = await store.db.fetchval("SELECT count(*) FROM task_outcomes")
        left = await store.db.fetchval("SELECT count(*) FROM task_ready")
    if closed < counts[-1] or not left:
        raise RuntimeError(f"{counts[-1]} finished, {closed} closed, {left} left: no backlog")
    cpu_us = {
        "before": (cpu[1] - cpu[0]) / max(1, counts[round(sizes.before_s) - 1]) * 1e6,
        "held": (cpu[3] - cpu[2]) / max(1, counts[-1] - at_tail) * 1e6,
    }
    return counts, cpu_us, profile.text


async def _keep_house(store: Store, stop: asyncio.Event) -> None:
    """Do what a scheduler does for the tables of the queue, as often."""
    while not stop.is_set():
        await maintenance.vacuum_hot_tables(store)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SchedulerSettings().tick_s)


async def _seconds(count: Counter[str], seconds: float) -> list[int]:
    found = []
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        found.append(count["tasks"])
    return found


async def _peer(context: Context, name: str) -> list[int]:
    sizes = context.sizes
    seconds = sizes.before_s + sizes.held_s
    is_batched = name == "graphile"
    # More than it can work off in that time, by what it did in the other figures.
    jobs = {"procrastinate": 1_500, "pgqueuer": 9_000, "graphile": 30_000}[name] * seconds
    async with context.peers.database(context.server, name) as peer:
        await peer.ask("fill", jobs=jobs)
        options = {"batch": _BATCH, "seconds": seconds} | ({"batched": 1} if is_batched else {})
        async with peer.asked("consume", **options) as consuming:
            await peer.ready(consuming)
            await asyncio.sleep(sizes.before_s)
            async with _held_snapshot(context.server, urlsplit(peer.url).path[1:]):
                found = await peer.answer(consuming)
    return [int(n) for n in found["counts"]]
