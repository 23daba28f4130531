"""One campaign from its start to its verdict: fleet, load, adversary, then the judgement."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.faults import adversary
from tests.faults.adversary import Adversary
from tests.faults.fleet import APIS, Fleet
from tests.faults.history import TABLES, read_history
from tests.faults.load import Load
from tests.faults.rules import RULES, Violation, check
from tests.faults.waiting import within

#: Longest until every job is closed once nothing is broken any more, seconds.
HEALED_WITHIN_S = 120.0
_LOOK_S = 0.5
_MOST_SHOWN = 20
_MOST_EVIDENCE = 12

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a campaign."""

    seed: int
    seconds: float
    tasks: int
    jobs: int
    faults: dict[str, int]
    skipped: dict[str, int]
    violations: list[Violation]

    def line(self) -> str:
        """Return the verdict in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        span = f"{self.seconds / 60:g} min" if self.seconds >= 60 else f"{self.seconds:g} s"
        return (
            f"chaos: seed {self.seed}, {span}, {self.tasks:,} tasks, {self.jobs:,} jobs, "
            f"{sum(self.faults.values()):,} faults ({kinds}): {len(self.violations)} violations"
        )


async def campaign(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    say: Say,
    spoilt: Mapping[str, Mapping[str, str]] | None = None,
) -> Verdict:
    """Run a campaign in *folder*, which must not exist; its files stay there.

    *spoilt*: settings by role that make Kennel wrong.
    """
    folder.mkdir(parents=True)
    faults = adversary.plan(seed, seconds)
    plan = [asdict(fault) for fault in faults]
    (folder / "plan.json").write_text(json.dumps({"seed": seed, "seconds": seconds, "plan": plan}))
    async with Fleet(folder, seed, spoilt=spoilt) as fleet:
        clients = [fleet.client(number) for number in range(1, APIS + 1)]
        with (
            Load(folder, clients, seed) as load,
            (folder / "faults.jsonl").open("a") as fault_log,
        ):
            await load.prepare()
            villain = Adversary(fleet, faults, fault_log)
            say(f"chaos: seed {seed}: {len(faults)} faults in {seconds:g} s, files in {folder}")
            await _fight(fleet, load, villain, seconds, say)
        await _until_closed(fleet, say)
        await fleet.stop()
        await _keep_tables(fleet)
    fleet.clear()
    return judge(folder, villain.done, villain.skipped)


def judge(folder: Path, done: Counter[str], skipped: Counter[str]) -> Verdict:
    """Return the verdict on what a campaign left in *folder*."""
    history = read_history(folder)
    plan = json.loads((folder / "plan.json").read_text())
    return Verdict(
        seed=plan["seed"],
        seconds=plan["seconds"],
        tasks=len(history.tasks),
        jobs=len(history.jobs),
        faults=dict(done),
        skipped=dict(skipped),
        violations=check(history),
    )


def faults_done(folder: Path) -> Counter[str]:
    """Return how often each kind of fault was done, from a campaign's own log."""
    lines = map(json.loads, (folder / "faults.jsonl").read_text().splitlines())
    return Counter(line["kind"] for line in lines if line["event"] == "begun")


def show(verdict: Verdict, say: Say) -> None:
    """Show each violation with its evidence."""
    for what, count in sorted(verdict.skipped.items()):
        say(f"chaos: left out {count} times: {what}")
    for violation in verdict.violations[:_MOST_SHOWN]:
        sentence = next(rule.sentence for rule in RULES if rule.name == violation.rule)
        say(f"VIOLATION of {violation.rule} ({sentence}): {violation.text}")
        for one in violation.evidence[:_MOST_EVIDENCE]:
            say(f"    {one}")
    left = len(verdict.violations) - _MOST_SHOWN
    if left > 0:
        say(f"chaos: and {left} more violations")


async def _fight(fleet: Fleet, load: Load, villain: Adversary, seconds: float, say: Say) -> None:
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(), name="load")
        group.create_task(_narrate(load, villain, over, say), name="narrator")
        await villain.run(seconds)
        load.enough.set()
        over.set()


async def _narrate(load: Load, villain: Adversary, over: asyncio.Event, say: Say) -> None:
    begun = time.monotonic()
    while not await within(over, 30.0):
        faults = sum(villain.done.values())
        say(f"  {time.monotonic() - begun:4.0f} s: {load.created:,} jobs created, {faults} faults")


async def _until_closed(fleet: Fleet, say: Say) -> None:
    """Wait until every job is closed; those that are not are the checker's to tell."""
    never = asyncio.Event()
    ends_at = time.monotonic() + HEALED_WITHIN_S
    while time.monotonic() < ends_at:
        try:
            connection = await fleet.connect()
        except (OSError, asyncpg.PostgresError):
            await within(never, _LOOK_S)  # still recovering from the last fault
            continue
        still = await connection.fetchval("SELECT count(*) FROM jobs WHERE phase <> 'closed'")
        await connection.close()
        if not still:
            return
        await within(never, _LOOK_S)
    say(f"chaos: not all jobs closed within {HEALED_WITHIN_S:g} s after the last fault")


async def _keep_tables(fleet: Fleet) -> None:
    connection = await fleet.connect()
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, sql in TABLES.items():
        tables[name] = [dict(row) for row in await connection.fetch(sql)]
    await connection.close()
    (fleet.folder / "tables.json").write_text(json.dumps(tables))
