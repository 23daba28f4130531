"""The results have the documented shape, and the page names the goals that are not met."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.harness import page, results
from bench.harness.results import Figure, Series, at_least, at_most, percentile, unmeasured

ROOT = Path(__file__).parents[2]
DOCUMENTED = {"name", "value", "unit", "goal", "met", "floor", "peers"}


def document(*figures: Figure) -> dict[str, Any]:
    return {
        "started_at": "2026-11-23T01:00:00+00:00",
        "size": "smoke",
        "seconds": 60.0,
        "machine": {"processors": "2"},
        "versions": {"python": "3.11"},
        "settings": {"fsync": "on"},
        "missing": {},
        "figures": [figure.as_json() for figure in figures],
    }


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)


@pytest.mark.parametrize(
    ("figure", "is_met"),
    [
        (Figure("rate", 9_000, "1/s", at_least(8_000)), True),
        (Figure("rate", 7_999, "1/s", at_least(8_000)), False),
        (Figure("p99", 20, "ms", at_most(20)), True),
        (Figure("p99", 20.1, "ms", at_most(20)), False),
        (Figure("shown", 3, "1/s"), None),
        (Figure("share", 50, "1/s", floor=100, least_share=0.5), True),
        (Figure("share", 49, "1/s", floor=100, least_share=0.5), False),
        (Figure("share", 49, "1/s", least_share=0.5), False),
        (Figure("ahead", 5, "1/s", peers={"a": 4}, is_ahead_of=["a"]), True),
        (Figure("ahead", 5, "1/s", peers={"a": 6}, is_ahead_of=["a"]), False),
        (Figure("ahead", 5, "1/s", is_ahead_of=["a"]), False),
        (unmeasured("lost", "s", "its server ended", goal=at_most(1)), False),
        (unmeasured("lost", "s", "its server ended"), False),
    ],
)
def test_a_goal_is_met_only_where_that_was_shown(figure: Figure, is_met: bool | None) -> None:
    assert figure.met is is_met
    assert bool(figure.as_json()["shortfalls"]) is (is_met is False)


def test_every_figure_has_the_documented_keys() -> None:
    found = document(Figure("rate", 9_000, "1/s", at_least(8_000)), unmeasured("lost", "s", "away"))

    assert all(figure.keys() >= DOCUMENTED for figure in found["figures"])


def test_the_documents_name_every_key_of_a_figure() -> None:
    said = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    figure = Figure("rate", 1, "1/s").as_json()

    assert [key for key in figure if f"`{key}`" not in said] == []


def test_results_are_written_under_their_day_and_as_the_latest(tmp_path: Path) -> None:
    made = document(Figure("rate", 9_000, "1/s", at_least(8_000)))

    files = results.write(made, tmp_path, day="2026-11-23")

    assert [file.name for file in files] == ["2026-11-23.json", "latest.json"]
    assert all(json.loads(file.read_text("utf-8")) == made for file in files)


def test_the_page_names_goals_that_are_not_met_and_shows_why() -> None:
    slow = Figure("creates", 400, "1/s", at_least(8_000), profile="80% in <parse>")
    lost = unmeasured("starts", "ms", "no worker", goal=at_most(60))
    fine = Figure("cancels", 90, "ms", at_most(250))

    shown = text_of(page.render(document(slow, lost, fine)))

    head, _, _ = shown.partition("All figures")
    assert "Goals not met: 2" in head
    assert "400 1/s is not ≥ 8000" in head
    assert "80% in &lt;parse&gt;" in head
    assert "starts" in head
    assert "cancels" not in head


def test_the_page_says_so_when_every_goal_is_met() -> None:
    fine = Figure("cancels", 90, "ms", at_most(250))

    assert "Every goal is met" in page.render(document(fine))


def test_the_page_plots_floor_peers_and_series_and_loads_nothing() -> None:
    figure = Figure(
        "rate", 9, "1/s", floor=10, peers={"peer": 3}, series=[Series("kennel", [(1, 5), (2, 6)])]
    )

    shown = page.render(document(figure))

    assert shown.count("<rect") == 3
    assert "<polyline" in shown
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", shown)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100), (0.001, 1)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    samples = [float(n) for n in range(100, 0, -1)]

    assert percentile(samples, share) == expected
