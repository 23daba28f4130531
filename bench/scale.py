"""What a machine here cannot hold, from the unit costs one could measure: `python -m bench.scale`.

A model of a few lines, not a measurement: CPU a task, a job and a connected worker as the last
results have them, times how many there would be. It says which part is full first and how many of
it would do. `--write` puts its tables into docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.run import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
_BEGIN, _END = "<!-- from the results: bench.scale -->\n", "<!-- end -->"

_DAY_S = 86_400
#: A day is not flat: its busiest hour against its mean.
_PEAK = 3.0
#: Engine tasks of a job, beside its preparation.
_ENGINES = 4
#: How full a part may be at the peak before it counts as full.
_FULL = 0.6
#: What an api process holds at the same time (`api.middlewares.limits`); a worker holds two.
_HELD_AN_API, _HELD_A_WORKER = 8_192, 2
#: A large server of today, as one rents it: cores, and log it writes durably, bytes a second.
_POSTGRES_CORES, _WAL_BYTES_S = 32, 300e6
_RETENTION_DAYS = 30


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """What one of each costs: CPU seconds by part, log and disk in bytes."""

    create_api_s: float
    create_postgres_s: float
    create_wal: float
    task_api_s: float
    task_postgres_s: float
    task_wal: float
    #: Deciding about a job: resolve, plan, settle.
    job_scheduler_s: float
    job_postgres_s: float
    #: Cores of api and PostgreSQL that one connected, idle worker takes.
    worker_cores: float
    #: Disk a finished job with one task takes, indexes included.
    job_bytes: float


@dataclass(frozen=True, slots=True)
class Load:
    """A day's work."""

    tasks_a_day: int
    workers: int

    @property
    def tasks_s(self) -> float:
        """Tasks a second at the peak, preparations included."""
        return self.tasks_a_day / _DAY_S * _PEAK * (_ENGINES + 1) / _ENGINES

    @property
    def jobs_s(self) -> float:
        """Jobs a second at the peak."""
        return self.tasks_a_day / _ENGINES / _DAY_S * _PEAK


@dataclass(frozen=True, slots=True)
class Need:
    """What a load needs of each part."""

    api_cores: float
    scheduler_cores: float
    postgres_cores: float
    wal_bytes_s: float
    held: int
    disk_bytes: float

    @property
    def apis(self) -> int:
        """Processes of one core each, and of so many held requests."""
        return max(math.ceil(self.api_cores / _FULL), math.ceil(self.held / _HELD_AN_API))

    @property
    def schedulers(self) -> int:
        return max(1, math.ceil(self.scheduler_cores / _FULL))

    @property
    def servers(self) -> float:
        """The share of one large PostgreSQL that is taken: above 1 it does not do."""
        return max(self.postgres_cores / (_POSTGRES_CORES * _FULL), self.wal_bytes_s / _WAL_BYTES_S)


LOADS = (Load(1_000_000, 100), Load(10_000_000, 1_000), Load(100_000_000, 10_000))


def unit_costs(document: Mapping[str, Any]) -> UnitCosts:
    """Read the unit costs out of a results document.

    Raises:
        KeyError: a figure they come from is not in it.
    """
    figures = {figure["name"]: figure for figure in document["figures"]}
    create = figures["create_rate"]["detail"]["costs"]
    task = figures["claims_http"]["detail"]["costs"]
    # A whole job at an even pace: a create, two tasks (the preparation and one engine), and what
    # is decided about it.
    job = figures["create_to_claimed_p50"]["detail"]["costs"]
    many, few = figures["idle_cpu_1000_workers"], figures["idle_cpu"]
    history = figures["claims_beside_history"]["detail"]
    decided_us = job["postgres_cpu_us"] - create["postgres_cpu_us"] - 2 * task["postgres_cpu_us"]
    return UnitCosts(
        create_api_s=create["api_cpu_us"] / 1e6,
        create_postgres_s=create["postgres_cpu_us"] / 1e6,
        create_wal=create["wal_bytes"],
        task_api_s=task["api_cpu_us"] / 1e6,
        task_postgres_s=task["postgres_cpu_us"] / 1e6,
        task_wal=task["wal_bytes"],
        job_scheduler_s=job["scheduler_cpu_us"] / 1e6,
        job_postgres_s=max(0.0, decided_us) / 1e6,
        worker_cores=max(0.0, many["value"] - few["value"]) / 100 / many["detail"]["workers"],
        job_bytes=history["size_bytes"] / history["finished"],
    )


def need(costs: UnitCosts, load: Load) -> Need:
    """Return what *load* needs at its peak."""
    idle = load.workers * costs.worker_cores
    return Need(
        # How a held worker's cost is shared between the two is not known: counted for both.
        api_cores=load.jobs_s * costs.create_api_s + load.tasks_s * costs.task_api_s + idle,
        scheduler_cores=load.jobs_s * costs.job_scheduler_s,
        postgres_cores=load.jobs_s * (costs.create_postgres_s + costs.job_postgres_s)
        + load.tasks_s * costs.task_postgres_s
        + idle,
        wal_bytes_s=load.jobs_s * costs.create_wal + load.tasks_s * costs.task_wal,
        held=load.workers * _HELD_A_WORKER,
        disk_bytes=load.tasks_a_day * (_ENGINES + 1) / _ENGINES * costs.job_bytes * _RETENTION_DAYS,
    )


def capacities(costs: UnitCosts) -> list[tuple[str, float]]:
    """Return what one of each part holds, in tasks a day; the smallest is full first."""
    one = Load(_DAY_S, 0)
    needed = need(costs, one)
    parts = [
        ("one scheduler process", needed.scheduler_cores / _FULL),
        ("one api process", needed.api_cores / _FULL),
        ("the log of one PostgreSQL", needed.wal_bytes_s / _WAL_BYTES_S),
        ("the processors of one PostgreSQL", needed.postgres_cores / (_POSTGRES_CORES * _FULL)),
    ]
    found = [(part, _DAY_S / share) for part, share in parts if share > 0]
    return sorted(found, key=lambda entry: entry[1])


def tables(document: Mapping[str, Any]) -> str:
    """Return the model's tables as Markdown."""
    costs = unit_costs(document)
    day, size = document["started_at"][:10], document["size"]
    return "\n\n".join(
        (
            f"From the results of {day} (kind of run: {size}; {document['machine']['processor']}).",
            _unit_table(costs),
            _need_table(costs, LOADS),
            _capacity_table(costs),
        )
    )


def _unit_table(costs: UnitCosts) -> str:
    rows = [
        ("a create", costs.create_api_s, 0.0, costs.create_postgres_s, costs.create_wal),
        (
            "a task: claim, start, finish",
            costs.task_api_s,
            0.0,
            costs.task_postgres_s,
            costs.task_wal,
        ),
        ("the decisions about a job", 0.0, costs.job_scheduler_s, costs.job_postgres_s, 0.0),
    ]
    lines = [
        "| unit | api, µs | scheduler, µs | PostgreSQL, µs | log, bytes |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {api * 1e6:.0f} | {scheduler * 1e6:.0f} | {postgres * 1e6:.0f} | {wal:.0f} |"
        for name, api, scheduler, postgres, wal in rows
    ]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"A connected, idle worker takes {costs.worker_cores * 1e6:.0f} µs of CPU a"
                f" second; a finished job with one task {costs.job_bytes:,.0f} bytes of disk."
            ),
        ]
    )


def _need_table(costs: UnitCosts, loads: Sequence[Load]) -> str:
    lines = [
        (
            "| tasks a day | workers | tasks/s at the peak | api | scheduler | PostgreSQL, cores |"
            " log, MB/s | one large PostgreSQL is full by | disk for 30 days, TB |"
        ),
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for load in loads:
        found = need(costs, load)
        lines.append(
            f"| {load.tasks_a_day:,} | {load.workers:,} | {load.tasks_s:,.0f} | {found.apis} |"
            f" {found.schedulers} | {found.postgres_cores:.1f} | {found.wal_bytes_s / 1e6:.1f} |"
            f" {found.servers:.0%} | {found.disk_bytes / 1e12:.1f} |"
        )
    return "\n".join(lines)


def _capacity_table(costs: UnitCosts) -> str:
    lines = ["| full first | at tasks a day |", "|---|--:|"]
    lines += [f"| {part} | {tasks / 1e6:,.0f} million |" for part, tasks in capacities(costs)]
    return "\n".join(lines)


def write(document: Mapping[str, Any], file: Path = PAGE) -> None:
    """Renew the tables in the page."""
    before, _, rest = file.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{file} has no place for the tables")
    file.write_text(f"{before}{_BEGIN}\n{tables(document)}\n\n{_END}{after}", encoding="utf-8")


def main() -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "latest.json")
    parser.add_argument("--write", action="store_true", help="renew docs/scale.md")
    options = parser.parse_args()
    if not options.results.exists():
        parser.error(f"{options.results} is not there: `make bench` writes it")
    document = json.loads(options.results.read_text(encoding="utf-8"))
    try:
        found = tables(document)
    except (KeyError, TypeError) as error:
        parser.error(f"{options.results} lacks a figure the model needs: {error}")
    print(found)
    if options.write:
        write(document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
