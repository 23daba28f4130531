"""The soak: `python -m bench.soak`, or `make soak`: an hour at half the peak rate.

Whole jobs, from create over HTTP to closed, with an api, a scheduler and simulated workers that
upload a report a task. First the peak is found, closed loop; then half of it is offered on a
fixed schedule, and what matters is whether the last sixth of the time is as good as the first.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from bench.harness import page, results
from bench.harness.context import Context
from bench.harness.cpu import peak_rss_mb
from bench.harness.http import Connection
from bench.harness.load import simulated
from bench.harness.machine import machine, versions
from bench.harness.peers import Peers
from bench.harness.processes import ADMIN_TOKEN, Crew, Daemon
from bench.harness.results import Figure, Series, at_least, at_most, percentile
from bench.harness.seed import World, add_world
from bench.harness.server import Server
from bench.harness.sizes import FULL
from bench.run import RESULTS, scratch_folder, until_told
from core.runtime.logs import configure_logs
from core.runtime.settings import LogSettings

_SHARE_OF_PEAK = 0.5
_WORKERS, _SLOTS = 8, 10
_CALLERS = 32
#: More than there are open jobs: a scan that succeeds supersedes its project's older ones.
_PROJECTS = 1_000
#: Open jobs at which the search for the peak holds back its creates: full, and not drowning.
_MOST_OPEN = 500
_SETTLING_S = 3.0
#: The part of the time that is compared, at the begin and at the end.
_PART = 1 / 6

_CLOSED = "SELECT count(*) FROM jobs WHERE phase = 'closed'"
_OPEN = "SELECT count(*) FROM jobs WHERE phase <> 'closed'"
_HOT = ["task_ready", "task_leases", "task_pending", "worker_beats", "attempt_progress"]
_TABLES = """
SELECT
    coalesce(sum(n_dead_tup), 0)::bigint AS dead,
    coalesce(sum(pg_total_relation_size(relid)), 0)::bigint AS bytes
FROM pg_stat_user_tables WHERE relname = ANY($1::text[])
"""


@dataclass(slots=True)
class Sample:
    """What was seen at the end of one interval."""

    at_s: float
    closed: int
    open: int
    dead_rows: int
    hot_bytes: int
    database_bytes: int
    #: From when each create was due to its answer.
    create_p99_ms: float
    memory_mb: dict[str, float] = field(default_factory=dict)


class Offered:
    """Creates on a fixed schedule, or as fast as they are answered."""

    def __init__(self, api: Daemon, world: World) -> None:
        self._api = api
        self._world = world
        self._latencies_ms: list[float] = []
        self.sent = 0
        #: Cleared while too much is open.
        self.room = asyncio.Event()
        self.room.set()

    def latencies_ms(self) -> list[float]:
        """Return what was seen since the last call."""
        found, self._latencies_ms = self._latencies_ms, []
        return found

    async def run(self, rate: float | None) -> None:
        """Create until cancelled; *rate* None: as fast as there is room."""
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(self._call(begun, rate))

    async def _call(self, begun: float, rate: float | None) -> None:
        loop = asyncio.get_running_loop()
        body = {"force_create": True, "incr_scan": False, "revision": "a" * 40}
        async with Connection(self._api.url, f"Token {ADMIN_TOKEN}") as connection:
            while True:
                await self.room.wait()
                number, self.sent = self.sent, self.sent + 1
                due = loop.time() if rate is None else begun + number / rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                project = self._world.first_project + number % self._world.projects
                path = self._world.path(project) + "/scans/create/"
                status, answer = await connection.post(path, body)
                if status != 200:
                    raise RuntimeError(f"a create was answered {status}: {answer}")
                self._latencies_ms.append((loop.time() - due) * 1000)


async def soak(seconds: float, peak_s: float, every_s: float, folder: Path, scratch: Path) -> int:
    """Find the peak, offer half of it, write the results; 1 when a goal is missed."""
    begun, started_at = time.monotonic(), datetime.now(UTC)
    async with Server(scratch / "server") as server, AsyncExitStack() as stack:
        context = Context(FULL, server, scratch, Peers(), stack)
        settings = await server.settings()
        peak = await _peak(context, peak_s)
        rate = peak * _SHARE_OF_PEAK
        context.say(f"peak {peak:.0f} jobs/s; {rate:.0f} jobs/s for {seconds / 60:.0f} minutes")
        samples = await _steady(context, rate, seconds, every_s)
    figures = _figures(samples, rate, peak)
    document: dict[str, Any] = {
        "started_at": started_at.isoformat(timespec="seconds"),
        "size": f"soak of {seconds / 60:.0f} minutes",
        "seconds": time.monotonic() - begun,
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "missing": {},
        "figures": [figure.as_json() for figure in figures],
    }
    _, latest = results.write(document, folder, day=f"soak-{started_at:%Y-%m-%d}", latest="soak")
    page.write(document, latest.with_suffix(".html"))
    for figure in figures:
        print(
            f"   {figure.name}: {figure.value:.4g} {figure.unit}  {figure.goal_text()}"
            f"  {'; '.join(figure.shortfalls())}"
        )
    return int(any(figure.met is False for figure in figures))


async def _peak(context: Context, seconds: float) -> float:
    async with AsyncExitStack() as stack:
        crew, offered, connection = await _set_up(context, stack)
        async with asyncio.TaskGroup() as group:
            creating = group.create_task(offered.run(None))
            await asyncio.sleep(_SETTLING_S)
            before, begun = await connection.fetchval(_CLOSED), time.perf_counter()
            while time.perf_counter() - begun < seconds:
                await asyncio.sleep(0.2)
                is_full = await connection.fetchval(_OPEN) > _MOST_OPEN
                (offered.room.clear if is_full else offered.room.set)()
            closed = await connection.fetchval(_CLOSED) - before
            creating.cancel()
        crew.check()
        return float(closed / (time.perf_counter() - begun))


async def _steady(context: Context, rate: float, seconds: float, every_s: float) -> list[Sample]:
    samples = []
    async with AsyncExitStack() as stack:
        crew, offered, connection = await _set_up(context, stack)
        async with asyncio.TaskGroup() as group:
            creating = group.create_task(offered.run(rate))
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                await asyncio.sleep(every_s)
                crew.check()
                found = await _sample(crew, offered, connection, time.perf_counter() - begun)
                samples.append(found)
                context.say(
                    f"{found.at_s:6.0f} s: {found.closed:,} closed, {found.open} open,"
                    f" {found.dead_rows} dead rows, create p99 {found.create_p99_ms:.0f} ms"
                )
            creating.cancel()
    return samples


async def _set_up(
    context: Context, stack: AsyncExitStack
) -> tuple[Crew, Offered, asyncpg.Connection]:
    database = await stack.enter_async_context(context.server.database("soak"))
    crew = await stack.enter_async_context(Crew(context, database))
    api = await crew.api()
    await crew.scheduler()
    connection = await stack.enter_async_context(context.server.connected(database))
    world = await add_world(connection, _PROJECTS)
    await stack.enter_async_context(
        simulated(crew, [api], workers=_WORKERS, slots=_SLOTS, with_report=True)
    )
    return crew, Offered(api, world), connection


async def _sample(
    crew: Crew, offered: Offered, connection: asyncpg.Connection, at_s: float
) -> Sample:
    tables = await connection.fetchrow(_TABLES, _HOT)
    assert tables is not None
    return Sample(
        at_s=at_s,
        closed=await connection.fetchval(_CLOSED),
        open=await connection.fetchval(_OPEN),
        dead_rows=tables["dead"],
        hot_bytes=tables["bytes"],
        database_bytes=await connection.fetchval("SELECT pg_database_size(current_database())"),
        create_p99_ms=percentile(offered.latencies_ms() or [0.0], 0.99),
        memory_mb={daemon.kind: peak_rss_mb(daemon.pid) for daemon in crew.daemons},
    )


def _figures(samples: Sequence[Sample], rate: float, peak: float) -> list[Figure]:
    part = max(2, round(len(samples) * _PART))
    first, last = samples[:part], samples[-part:]
    ratio = _rate(last) / _rate(first)
    grown = _mean([s.hot_bytes for s in last]) / max(1.0, _mean([s.hot_bytes for s in first]))
    how = f"{rate:.0f} jobs/s, half of a peak of {peak:.0f}; {len(samples)} samples"
    memory = samples[-1].memory_mb
    return [
        Figure(
            "soak_rate_kept",
            ratio,
            "of the first part's rate",
            at_least(0.95),
            how=how,
            detail={"first": _rate(first), "last": _rate(last), "peak": peak},
            series=[_series("closed jobs", [(s.at_s, s.closed) for s in samples])],
        ),
        # A vacuum a minute leaves at most what two minutes kill: each job has two tasks, and
        # each task leaves a dead row in two tables.
        Figure(
            "soak_dead_rows",
            max(s.dead_rows for s in last),
            "rows",
            at_most(max(10_000.0, rate * 4 * 120)),
            how="of the hot tables, most in the last part",
            series=[_series("dead rows", [(s.at_s, s.dead_rows) for s in samples])],
        ),
        Figure(
            "soak_hot_tables",
            grown,
            "of the first part's size",
            at_most(1.5),
            how="bytes of the hot tables with their indexes",
            series=[_series("bytes", [(s.at_s, s.hot_bytes) for s in samples])],
        ),
        Figure(
            "soak_create_p99",
            max(s.create_p99_ms for s in last),
            "ms",
            how="from when a create was due to its answer; worst interval of the last part",
            series=[_series("ms", [(s.at_s, s.create_p99_ms) for s in samples])],
        ),
        Figure(
            "soak_bytes_a_job",
            (samples[-1].database_bytes - samples[0].database_bytes)
            / max(1, samples[-1].closed - samples[0].closed),
            "bytes",
            how="of the whole database, per job closed",
        ),
        *(
            Figure(f"soak_memory_{kind}", memory[kind], "MB", at_most(150), how="highest")
            for kind in sorted(memory)
        ),
    ]


def _rate(samples: Sequence[Sample]) -> float:
    seconds = samples[-1].at_s - samples[0].at_s
    return (samples[-1].closed - samples[0].closed) / seconds


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _series(label: str, points: Sequence[tuple[float, float]]) -> Series:
    return Series(label, points)


def main() -> int:
    """Run the soak; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--peak-seconds", type=float, default=60.0)
    parser.add_argument("--every-seconds", type=float, default=30.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.minutes * 60 < 4 * options.every_seconds:
        parser.error("--minutes must hold at least four samples of --every-seconds")
    configure_logs(LogSettings(level="error"), "bench", secrets=())
    with scratch_folder() as scratch:
        return asyncio.run(
            until_told(
                soak(
                    options.minutes * 60,
                    options.peak_seconds,
                    options.every_seconds,
                    options.results,
                    Path(scratch),
                )
            )
        )


if __name__ == "__main__":
    raise SystemExit(main())
