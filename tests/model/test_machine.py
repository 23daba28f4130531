"""The store against its model: any order of calls by several clients, schedulers and workers."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Postgres
from tests.model.machine import machine_on
from tests.model.many import AT_ONCE
from tests.model.operations import OPERATIONS
from tests.model.profiles import DAILY, LONG
from tests.model.session import session


@pytest.mark.timeout(600)
def test_the_store_does_what_the_model_says(postgres: Postgres, template: str) -> None:
    with session(postgres, template) as its:
        run_state_machine_as_test(machine_on(its), settings=DAILY)

        # The examples reach what they are about: everything there is to do.
        assert set(its.operations) == {operation.__name__ for operation in (*OPERATIONS, *AT_ONCE)}


@pytest.mark.long
def test_the_store_does_what_the_model_says_at_length(postgres: Postgres, template: str) -> None:
    with session(postgres, template) as its:
        run_state_machine_as_test(machine_on(its), settings=LONG)
