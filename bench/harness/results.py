"""Figures and the file they are written to.

A figure without a value was not measured; `how` then says why. Its goal counts as not met: what
was not shown is not claimed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound a figure is to keep."""

    bound: float
    is_least: bool

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.is_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(bound, is_least=True)


def at_most(bound: float) -> Goal:
    return Goal(bound, is_least=False)


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a plot: points in time, or in order."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, what it should be, and what it is beside."""

    name: str
    #: None: not measured; `how` says why.
    value: float | None
    unit: str
    goal: Goal | None = None
    #: The same on this machine without Kennel; in the figure's unit.
    floor: float | None = None
    #: The same of other queues, by name; in the figure's unit.
    peers: Mapping[str, float] = field(default_factory=dict)
    #: Peers that must be behind for the goal to be met.
    is_ahead_of: Sequence[str] = ()
    #: The bound as a share of the floor, where the goal is one.
    least_share: float | None = None
    #: All runs; the value is their median.
    runs: Sequence[float] = ()
    #: The configuration, in words.
    how: str = ""
    #: Whatever else was seen: percentiles, counts.
    detail: Mapping[str, Any] = field(default_factory=dict)
    series: Sequence[Series] = ()
    #: Where the time goes, for a goal that is not met.
    profile: str = ""

    @property
    def share(self) -> float | None:
        """The value as a share of the floor."""
        if self.value is None or not self.floor:
            return None
        return self.value / self.floor

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None: there is none. What was not measured is not met."""
        if self.value is None:
            return False
        if self.goal is None and self.least_share is None and not self.is_ahead_of:
            return None
        return not self.shortfalls()

    def shortfalls(self) -> list[str]:
        """Say in what the figure misses its goal."""
        if self.value is None:
            return ["not measured"]
        found = []
        if self.goal is not None and not self.goal.is_met(self.value):
            found.append(f"{self.value:.4g} {self.unit} is not {self.goal}")
        if self.least_share is not None and (self.share is None or self.share < self.least_share):
            seen = "unknown" if self.share is None else f"{self.share:.2f}"
            found.append(f"{seen} of the floor is not ≥ {self.least_share:g}")
        found += [
            f"{peer} has {self.peers[peer]:.4g} {self.unit}"
            if peer in self.peers
            else f"{peer} was not measured"
            for peer in self.is_ahead_of
            if peer not in self.peers or self.peers[peer] >= self.value
        ]
        return found

    def goal_text(self) -> str:
        """Return the goal in words."""
        parts = [] if self.goal is None else [str(self.goal)]
        if self.least_share is not None:
            parts.append(f"≥ {self.least_share:g} of the floor")
        if self.is_ahead_of:
            parts.append(f"ahead of {', '.join(self.is_ahead_of)}")
        if self.value is None and not parts:
            return "to be measured"
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "goal": self.goal_text() or None,
            "met": self.met,
            "floor": self.floor,
            "peers": dict(self.peers),
            "share_of_floor": self.share,
            "shortfalls": self.shortfalls() if self.met is False else [],
            "runs": list(self.runs),
            "how": self.how,
            "detail": dict(self.detail),
            "series": [{"label": s.label, "points": list(s.points)} for s in self.series],
            "profile": self.profile,
        }


def unmeasured(name: str, unit: str, why: str, *, goal: Goal | None = None) -> Figure:
    """A figure that could not be taken."""
    return Figure(name, None, unit, goal=goal, how=f"not measured: {why}")


def median(runs: Sequence[float]) -> float:
    return statistics.median(runs)


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least *share* of them do not exceed (nearest rank)."""
    if not samples:
        raise ValueError("no samples")
    ranked = sorted(samples)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


def write(
    document: Mapping[str, Any], folder: Path, *, day: str, latest: str = "latest"
) -> tuple[Path, Path]:
    """Write the results of a day, and as the latest ones; return both files."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    files = folder / f"{day}.json", folder / f"{latest}.json"
    for file in files:
        draft = file.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    return files
