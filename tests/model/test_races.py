"""Two calls at once against the model: the outcome is that of one after the other."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Postgres
from tests.model.profiles import DAILY_RACES, LONG
from tests.model.races import race_machine_on
from tests.model.session import session


@pytest.mark.timeout(600)
def test_calls_at_once_are_as_if_one_came_first(postgres: Postgres, template: str) -> None:
    with session(postgres, template) as its:
        run_state_machine_as_test(race_machine_on(its), settings=DAILY_RACES)


@pytest.mark.long
def test_calls_at_once_are_as_if_one_came_first_at_length(
    postgres: Postgres, template: str
) -> None:
    with session(postgres, template) as its:
        run_state_machine_as_test(race_machine_on(its), settings=LONG)
