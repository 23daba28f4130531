"""Kennel under fire: real processes, every kind of fault, and a history without a violation."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.adversary import KINDS
from tests.faults.campaign import Verdict, campaign, show

#: Engine tasks and preparations a second that a campaign must come to in the end; ten thousand in
#: ten minutes is seventeen, on a machine that has nothing else to do.
_TASKS_A_SECOND = 2


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the database's own user may pass through; pytest's are private."""
    folder = Path(tempfile.mkdtemp(prefix="kennel-chaos-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def judged(verdict: Verdict, seconds: float) -> None:
    show(verdict, print)
    sys.stdout.write(f"{verdict.line()}\n")
    assert verdict.violations == []
    assert verdict.tasks >= _TASKS_A_SECOND * seconds


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_happens_twice_whatever_breaks(home: Path) -> None:
    seconds = 25.0
    verdict = await campaign(home / "seed-1", seed=1, seconds=seconds, say=print)

    judged(verdict, seconds)
    # Some find nobody to harm: the plan does not know who is there.
    assert len(verdict.faults) + len(verdict.skipped) >= 0.8 * len(KINDS)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
async def test_three_minutes_of_faults_leave_no_trace(home: Path, seed: int) -> None:
    seconds = 180.0
    verdict = await campaign(home / f"seed-{seed}", seed=seed, seconds=seconds, say=print)

    judged(verdict, seconds)
    assert set(verdict.faults) | {what.partition(" ")[0] for what in verdict.skipped} == set(KINDS)
