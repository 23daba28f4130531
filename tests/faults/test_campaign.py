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
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that the database's own user may pass through; pytest's are private.

    After a failure it is kept: what the campaign says names it.
    """
    folder = Path(tempfile.mkdtemp(prefix="kennel-chaos-"))
    folder.chmod(0o711)
    failed_before = request.session.testsfailed
    yield folder
    if request.session.testsfailed == failed_before:
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


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("spoilt", "rule"),
    [
        # It answers before it has written: what it answered last is gone with the process.
        (
            {"postgres": {"synchronous_commit": "off", "wal_writer_delay": "10s"}},
            "nothing_answered_is_gone",
        ),
        # Tasks are given to others long before a worker that is not heard kills its own.
        (
            {
                "scheduler": {
                    "KENNEL_LEASE__LEASE_S": "0.8",
                    "KENNEL_LEASE__FENCE_S": "0.7",
                    "KENNEL_LEASE__HEARTBEAT_S": "0.3",
                }
            },
            "one_attempt_at_a_time",
        ),
    ],
    ids=["a database that forgets", "leases that end too soon"],
)
async def test_a_kennel_that_is_spoilt_is_caught(
    home: Path, spoilt: dict[str, dict[str, str]], rule: str
) -> None:
    verdict = await campaign(home / "spoilt", seed=4, seconds=60, say=print, spoilt=spoilt)

    assert rule in {violation.rule for violation in verdict.violations}
