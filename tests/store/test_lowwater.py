from __future__ import annotations

from core.store.lowwater import RESCAN_S, SHARE, LowWater


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def marked(clock: Clock, *, took_s: float = 0.01) -> LowWater:
    low_water = LowWater(clock)
    assert low_water.hints() == {}
    low_water.note([(1, 70), (1, 50), (2, 60)], is_short=False, was_full=True, took_s=took_s)
    return low_water


def test_a_claim_begins_at_the_first_task_of_the_last_one_in_each_class() -> None:
    low_water = marked(Clock())

    assert low_water.hints() == {1: 50, 2: 60}

    low_water.note([(2, 90), (2, 80)], is_short=False, was_full=False, took_s=0)
    assert low_water.hints() == {1: 50, 2: 80}


def test_looks_at_everything_take_a_small_share_of_the_time() -> None:
    clock = Clock()
    low_water = marked(clock, took_s=0.01)

    clock.now += 0.9 * 0.01 / SHARE
    assert low_water.hints() == {1: 50, 2: 60}
    clock.now += 0.2 * 0.01 / SHARE
    assert low_water.hints() == {}


def test_everything_is_looked_at_once_a_second_however_long_it_takes() -> None:
    clock = Clock()
    low_water = marked(clock, took_s=10.0)

    clock.now += RESCAN_S

    assert low_water.hints() == {}


def test_a_claim_that_finds_too_little_is_followed_by_a_look_at_everything() -> None:
    low_water = marked(Clock())

    low_water.note([(1, 90)], is_short=True, was_full=False, took_s=0)

    assert low_water.hints() == {}


def test_a_slow_look_at_everything_is_not_made_for_every_short_claim() -> None:
    clock = Clock()
    low_water = marked(clock, took_s=0.1)

    low_water.note([(1, 90)], is_short=True, was_full=False, took_s=0)
    assert low_water.hints() == {1: 90, 2: 60}

    clock.now += RESCAN_S / 2
    assert low_water.hints() != {}
    clock.now += RESCAN_S / 2
    assert low_water.hints() == {}


def test_what_a_full_look_found_replaces_what_was_known() -> None:
    low_water = marked(Clock())

    low_water.note([(2, 10)], is_short=False, was_full=True, took_s=0.01)

    assert low_water.hints() == {2: 10}
