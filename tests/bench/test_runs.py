"""The bench runs: a figure in its smallest form on real processes, and the model after it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import scale
from bench.figures import FIGURES
from bench.harness.sizes import SIZES

ROOT = Path(__file__).parents[2]
DOCUMENTED = {"name", "value", "unit", "goal", "met", "floor", "peers"}


async def bench(results: Path, figures: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.run", "--size", "smoke"),
        *("--only", figures, "--results", str(results)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.slow
async def test_a_run_writes_its_results_and_its_page(tmp_path: Path) -> None:
    status, output = await bench(tmp_path, "snapshot,memory")

    found = json.loads((tmp_path / "latest.json").read_text("utf-8"))
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert {"machine", "versions", "figures"} <= found.keys()
    assert found["settings"]["fsync"] == found["settings"]["synchronous_commit"] == "on"
    assert all(figure.keys() >= DOCUMENTED for figure in figures.values())
    assert figures["claims_under_a_held_snapshot"]["value"] > 0, output
    # No process of Kennel ran here, and the results say so instead of making something up.
    assert figures["memory_api"]["value"] is None
    assert figures["memory_api"]["met"] is False
    assert "memory_api" in (tmp_path / "latest.html").read_text("utf-8")
    assert status == 1


async def test_an_unknown_figure_is_refused_with_those_there_are(tmp_path: Path) -> None:
    status, output = await bench(tmp_path, "nonsense")

    assert status == 2
    assert "nonsense" in output
    assert all(name in output for name in FIGURES)


def test_every_size_has_the_figures_batches() -> None:
    assert {tuple(sizes.tasks_of_batch) for sizes in SIZES.values()} == {(1, 10, 100)}


def measured(**values: dict[str, Any]) -> dict[str, Any]:
    figures = [{"name": name} | figure for name, figure in values.items()]
    return {
        "started_at": "2026-11-23T01:00:00+00:00",
        "size": "full",
        "machine": {"processor": "a processor"},
        "figures": figures,
    }


COSTS = measured(
    create_rate={
        "detail": {"costs": {"api_cpu_us": 100, "postgres_cpu_us": 50, "wal_bytes": 1000}}
    },
    claims_http={
        "detail": {"costs": {"api_cpu_us": 200, "postgres_cpu_us": 100, "wal_bytes": 2000}}
    },
    create_to_claimed_p50={
        "detail": {"costs": {"scheduler_cpu_us": 1000, "postgres_cpu_us": 750, "wal_bytes": 9000}}
    },
    idle_cpu={"value": 0.5},
    idle_cpu_1000_workers={"value": 4.5, "detail": {"workers": 1000}},
    claims_beside_history={"detail": {"size_bytes": 2_000_000, "finished": 1_000}},
)


def test_the_model_adds_up_what_a_load_costs() -> None:
    costs = scale.unit_costs(COSTS)
    # A job a second and, with its preparation, five tasks, when the peak is three times the mean.
    load = scale.Load(tasks_a_day=4 * 86_400 // 3, workers=1_000)

    found = scale.need(costs, load)

    assert found.scheduler_cores == pytest.approx(0.001)
    assert found.api_cores == pytest.approx(0.0001 + 5 * 0.0002 + 0.04)
    assert found.postgres_cores == pytest.approx(0.00005 + 0.0005 + 5 * 0.0001 + 0.04)
    assert found.wal_bytes_s == pytest.approx(1_000 + 5 * 2_000)
    assert found.held == 2_000


def test_more_work_never_needs_less() -> None:
    costs = scale.unit_costs(COSTS)
    needs = [scale.need(costs, load) for load in scale.LOADS]

    for attribute in ("apis", "schedulers", "servers", "disk_bytes"):
        found = [getattr(one, attribute) for one in needs]
        assert found == sorted(found)


def test_the_page_gets_the_models_tables(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text((ROOT / "docs" / "scale.md").read_text("utf-8"), "utf-8")

    scale.write(COSTS, page)
    scale.write(COSTS, page)

    text = page.read_text("utf-8")
    assert text.count("| 100,000,000 | 10,000 |") == 1
    assert "one scheduler process" in text
    assert "What gives first" in text
