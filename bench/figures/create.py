"""Creates over HTTP: one job a request, authenticated, validated, durable when answered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.harness import floor, load
from bench.harness.context import Context
from bench.harness.costs import Costs
from bench.harness.load import Wrk
from bench.harness.peers import PeerFailed, created
from bench.harness.processes import Crew, Daemon
from bench.harness.profile import Profile
from bench.harness.results import Figure, at_least, at_most, median
from bench.harness.seed import World, add_world

_RATE, _P99 = at_least(8_000), at_most(20)
#: Projects the creates are spread over; creates of one project queue at its row.
_PROJECTS = 100


async def measure(context: Context) -> Sequence[Figure]:
    """Measure with one api process and with two; the better one counts and is named."""
    costs: dict[int, dict[str, float]] = {}
    found = {apis: await _runs(context, apis, costs) for apis in (1, 2)}
    best = max(found, key=lambda apis: median([run.rate for run in found[apis]]))
    alone = await _runs(context, best, {}, projects=1)
    rates = [run.rate for run in found[best]]
    p99s = [run.p99_ms for run in found[best]]
    is_missed = not (_RATE.is_met(median(rates)) and _P99.is_met(median(p99s)))
    profile = await _profiled(context, best) if is_missed else ""
    clients = context.sizes.connections
    least = await floor.inserts(
        context.server, clients=clients, seconds=context.sizes.run_s, folder=context.folder
    )
    how = (
        f"{best} api process{'es' if best > 1 else ''}, {clients} connections of wrk, "
        f"{_PROJECTS} projects, policy queue"
    )
    detail = {
        f"{apis}_api": {
            "rate": median([r.rate for r in runs]),
            "p50_ms": runs[0].p50_ms,
            "p99_ms": median([r.p99_ms for r in runs]),
        }
        for apis, runs in found.items()
    }
    return [
        Figure(
            "create_rate",
            median(rates),
            "1/s",
            _RATE,
            floor=least,
            peers=await _peers(context),
            runs=rates,
            how=how,
            detail=detail | {"costs": costs[best]},
            profile=profile,
        ),
        Figure("create_p99", median(p99s), "ms", _P99, runs=p99s, how=how, profile=profile),
        Figure(
            "create_rate_one_project",
            median([r.rate for r in alone]),
            "1/s",
            runs=[r.rate for r in alone],
            how=f"{best} api, all creates of one project",
        ),
    ]


async def _runs(
    context: Context,
    apis: int,
    costs: dict[int, dict[str, float]],
    projects: int = _PROJECTS,
) -> list[Wrk]:
    runs: list[Wrk] = []

    async def run() -> float:
        runs.append(await _run(context, apis, projects, costs))
        return runs[-1].rate

    rates = await context.repeated(run)
    context.say(f"{apis} api, {projects} projects: {', '.join(f'{r:.0f}/s' for r in rates)}")
    return runs


async def _profiled(context: Context, apis: int) -> str:
    async with AsyncExitStack() as stack:
        crew, daemons, world, database = await _set_up(context, stack, apis, _PROJECTS)
        pids = {f"api-{n}": daemon.pid for n, daemon in enumerate(daemons)}
        async with Profile(context.server, database, pids, crew.folder) as profile:
            await _load(context, daemons, world)
        return profile.text


async def _run(
    context: Context, apis: int, projects: int, costs: dict[int, dict[str, float]]
) -> Wrk:
    async with AsyncExitStack() as stack:
        crew, daemons, world, database = await _set_up(context, stack, apis, projects)
        async with Costs(context.server, crew) as spent:
            result = await _load(context, daemons, world)
        costs[apis] = spent.each(max(1, result.requests))
        async with context.server.connected(database) as connection:
            rows = await connection.fetchval("SELECT count(*) FROM jobs")
    # wrk leaves with one request a connection under way; their answers it does not count.
    uncounted = 2 * context.sizes.connections
    if not result.requests <= rows <= result.requests + uncounted:
        raise RuntimeError(f"{result.requests} creates were answered, {rows} jobs are there")
    return result


async def _set_up(
    context: Context, stack: AsyncExitStack, apis: int, projects: int
) -> tuple[Crew, list[Daemon], World, str]:
    database = await stack.enter_async_context(context.server.database("creates"))
    crew = await stack.enter_async_context(Crew(context, database))
    daemons = [await crew.api() for _ in range(apis)]
    async with context.server.connected(database) as connection:
        world = await add_world(connection, projects)
    return crew, daemons, world, database


async def _load(context: Context, daemons: list[Daemon], world: World) -> Wrk:
    return await load.wrk(
        daemons,
        "create.lua",
        connections=context.sizes.connections,
        seconds=context.sizes.run_s,
        arguments=[world.prefix, str(world.first_project), str(world.projects)],
    )


async def _peers(context: Context) -> dict[str, float]:
    """What the peers' own clients enqueue one at a time, without HTTP, by 16 callers."""
    found = {}
    for name in context.peers.names:
        try:
            found[name] = await created(
                context.peers, context.server, name, callers=16, seconds=context.sizes.run_s
            )
        except PeerFailed as error:
            context.say(str(error))
    return found
