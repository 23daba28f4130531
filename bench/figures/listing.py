"""The job list and the detail over the big database: filters, exact counts, deep pages."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from bench.harness import load
from bench.harness.bigdatabase import BigDatabase, big_database
from bench.harness.context import Context
from bench.harness.load import Wrk, in_turn, paced
from bench.harness.processes import Crew, Daemon
from bench.harness.profile import Profile
from bench.harness.results import Figure, Goal, at_least, at_most, percentile

_LIST, _TEXT = at_most(20), at_most(300)
_PAGES, _DETAILS, _DETAIL_P99 = at_least(3_000), at_least(3_000), at_most(15)
#: Details and first pages asked for in turn.
_PATHS = 2_000

_EXACT = {
    "none": {},
    "state": {"state": "2"},
    "states": {"state": "0,1,2,3"},
    "times": {"create_time_gte": "2020-01-01", "create_time_lte": "2100-01-01"},
    "recent_times": {"create_time_gte": "{recent}"},
    "codes": {"result_code_gte": "100", "result_code_lte": "299"},
    "state_and_codes": {"state": "2", "result_code_gte": "1", "result_code_lte": "1"},
}
_SUBSTRINGS = {
    "creator": {"creator": "SER7"},
    "created_from": {"created_from": "enkin"},
    "result_msg": {"result_msg": "number 77"},
    "rare_result_msg": {"result_msg": "is nowhere"},
}


async def measure(context: Context) -> Sequence[Figure]:
    """Ask a real api, one request at a time for the lists, with wrk for the rates."""
    big = await big_database(context)
    async with Crew(context, big.name) as crew:
        api = await crew.api()
        return [
            await _lists(context, crew, api, big, "list_exact", _EXACT, _LIST),
            await _lists(context, crew, api, big, "list_substring", _SUBSTRINGS, _TEXT),
            await _deep(context, api, big),
            *await _rates(context, crew, api, big),
        ]


async def _lists(
    context: Context,
    crew: Crew,
    api: Daemon,
    big: BigDatabase,
    name: str,
    filters: dict[str, dict[str, str]],
    goal: Goal,
) -> Figure:
    """Ask with each filter; the slowest filter's p99 counts."""
    found: dict[str, float] = {}
    recent = await _recent(context, big)
    for label, values in filters.items():
        query = {key: value.format(recent=recent) for key, value in values.items()}
        path = _list_path(big, query)
        answer = await crew.get(api, path)
        await in_turn(api, [path] * 3)
        samples = await in_turn(api, [path] * context.sizes.requests)
        found[label] = percentile(samples, 0.99) * 1000
        context.say(f"{name} {label}: p99 {found[label]:.1f} ms, {answer['data']['count']} jobs")
        if label == "none":
            await _check_count(context, big, answer["data"]["count"])
    worst = max(found, key=lambda label: found[label])
    profile = ""
    if not goal.is_met(found[worst]):
        query = {k: v.format(recent=recent) for k, v in filters[worst].items()}
        path = _list_path(big, query)
        async with Profile(context.server, big.name, {"api": api.pid}, crew.folder) as looked:
            await in_turn(api, [path] * 20)
        profile = f"filter {worst}\n\n{looked.text}"
    return Figure(
        f"{name}_p99",
        found[worst],
        "ms",
        goal,
        how=f"project of {big.jobs_of_big_project:,} among {context.sizes.history:,} jobs, with the"
        f" exact count, one request at a time; the slowest filter: {worst}",
        detail={f"{label}_p99_ms": value for label, value in found.items()},
        profile=profile,
    )


async def _check_count(context: Context, big: BigDatabase, told: int) -> None:
    async with context.server.connected(big.name) as connection:
        there = await connection.fetchval(
            "SELECT count(*) FROM jobs WHERE project_id = $1", big.world.first_project
        )
    if told != there:
        raise RuntimeError(f"the list counts {told} jobs, there are {there}")


async def _deep(context: Context, api: Daemon, big: BigDatabase) -> Figure:
    path = _list_path(big, {"offset": str(context.sizes.deep)})
    await in_turn(api, [path] * 3)
    samples = await in_turn(api, [path] * context.sizes.requests)
    return Figure(
        "list_deep_p99",
        percentile(samples, 0.99) * 1000,
        "ms",
        _TEXT,
        how=f"a page {context.sizes.deep:,} rows deep in {big.jobs_of_big_project:,}",
    )


async def _rates(context: Context, crew: Crew, api: Daemon, big: BigDatabase) -> list[Figure]:
    chance = random.Random(1)
    usual = range(big.world.first_project + 1, big.world.first_project + big.world.projects)
    pages = [_list_path(big, project=chance.choice(usual)) for _ in range(_PATHS)]
    details = await _detail_paths(context, big, chance)
    page_rate, page_profile = await _rate(context, crew, api, big, pages, _PAGES)
    detail_rate, detail_profile = await _rate(context, crew, api, big, details, _DETAILS)
    half = detail_rate.rate / 2
    samples = await paced(
        api,
        lambda n: details[n % len(details)],
        rate=half,
        count=max(20, round(half * context.sizes.run_s)),
        connections=context.sizes.connections,
    )
    with_api = f"one api, {context.sizes.connections} connections of wrk"
    return [
        Figure(
            "first_page_rate",
            page_rate.rate,
            "1/s",
            _PAGES,
            how=f"first page of a usual project, drawn by chance; {with_api}",
            detail={"p99_ms": page_rate.p99_ms},
            profile=page_profile,
        ),
        Figure(
            "detail_rate",
            detail_rate.rate,
            "1/s",
            _DETAILS,
            how=f"drawn by chance; {with_api}",
            detail={"p99_ms": detail_rate.p99_ms},
            profile=detail_profile,
        ),
        Figure(
            "detail_p99_at_half",
            percentile(samples, 0.99) * 1000,
            "ms",
            _DETAIL_P99,
            how=f"at {half:.0f}/s, on a fixed schedule, from when each was due",
        ),
    ]


async def _rate(
    context: Context, crew: Crew, api: Daemon, big: BigDatabase, paths: list[str], goal: Goal
) -> tuple[Wrk, str]:
    """Return the median run, and a profile of another one where the goal is missed."""
    file = crew.folder / "paths"
    file.write_text("\n".join(paths) + "\n")
    runs: list[Wrk] = []

    async def run() -> float:
        runs.append(
            await load.wrk(
                [api],
                "get.lua",
                connections=context.sizes.connections,
                seconds=context.sizes.run_s,
                arguments=[str(file)],
            )
        )
        return runs[-1].rate

    await context.repeated(run)
    middle = sorted(runs, key=lambda one: one.rate)[len(runs) // 2]
    if goal.is_met(middle.rate):
        return middle, ""
    async with Profile(context.server, big.name, {"api": api.pid}, crew.folder) as profile:
        await run()
    return middle, profile.text


async def _detail_paths(context: Context, big: BigDatabase, chance: random.Random) -> list[str]:
    ids = [chance.randint(1, context.sizes.history) for _ in range(_PATHS)]
    async with context.server.connected(big.name) as connection:
        rows = await connection.fetch(
            "SELECT id, project_id FROM jobs WHERE id = ANY($1::bigint[])", ids
        )
    return [f"{big.world.path(row['project_id'])}/jobs/{row['id']}/detail/" for row in rows]


async def _recent(context: Context, big: BigDatabase) -> str:
    """The moment before which nine tenths of all jobs were created."""
    async with context.server.connected(big.name) as connection:
        at = await connection.fetchval(
            "SELECT created_at FROM jobs WHERE id = $1", context.sizes.history * 9 // 10
        )
    return str(at.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _list_path(
    big: BigDatabase, query: Mapping[str, str] | None = None, *, project: int | None = None
) -> str:
    path = f"{big.world.path(project)}/jobs/"
    return f"{path}?{urlencode(query)}" if query else path
