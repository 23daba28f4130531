"""A plan is the seed's alone, and leaves no kind of fault out."""

from __future__ import annotations

import pytest

from tests.faults.adversary import KINDS, plan


def test_the_same_seed_makes_the_same_plan() -> None:
    assert plan(7, 600) == plan(7, 600)
    assert plan(7, 600) != plan(8, 600)


@pytest.mark.parametrize("seconds", [25, 60, 600])
def test_every_kind_of_fault_comes_once_before_any_comes_twice(seconds: float) -> None:
    for seed in range(20):
        kinds = [fault.kind for fault in plan(seed, seconds)]

        first = kinds[: len(KINDS)]
        assert len(first) == len(set(first))
        assert len(set(kinds)) >= 0.9 * len(KINDS)


def test_faults_come_in_order_within_the_time_and_to_whom_they_can_happen() -> None:
    faults = plan(3, 120)

    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert all(0 < fault.at_s < 120 for fault in faults)
    assert all(fault.target in KINDS[fault.kind].targets for fault in faults)


def test_a_worker_is_frozen_for_longer_than_its_leases() -> None:
    spans = [fault.lasts_s for fault in plan(5, 600) if fault.kind == "worker.frozen"]

    assert min(spans) > 4
