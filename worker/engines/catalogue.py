"""The engines a worker brings along, and which of them work on its host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.engines.base import Engine, Probe
from worker.engines.lines import LinesEngine
from worker.engines.pylint import PylintEngine
from worker.engines.ruff import RuffEngine


@dataclass(frozen=True, slots=True)
class Probed:
    """An engine and what its probe said."""

    engine: Engine
    probe: Probe


def load_engines() -> list[Engine]:
    """Return every built-in engine, whether or not it works here."""
    return [LinesEngine(), PylintEngine(), RuffEngine()]


def probe_all(engines: Iterable[Engine] | None = None) -> list[Probed]:
    """Probe *engines* (the built-in ones by default). Blocks; up to 30 s an engine.

    Those whose `probe.is_usable` is false are not to be offered; `probe.problem` says why.
    """
    chosen = load_engines() if engines is None else engines
    return [Probed(engine, engine.probe()) for engine in chosen]
