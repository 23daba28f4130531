"""Capability classes are found in the order asked for, and made where they are new."""

from __future__ import annotations

from core.domain.states import Isolation
from core.store import classes
from core.store.classes import Requirement
from core.store.store import Store

LINES = Requirement("lines")
RUFF = Requirement("ruff", ">=0.14", "linux", Isolation.BWRAP)
PYLINT = Requirement("pylint")


async def test_classes_come_in_the_order_asked_for_whether_old_or_new(store: Store) -> None:
    ruff = await classes.ensure_class(store, RUFF)

    found = await classes.ensure_classes(store, [LINES, RUFF, PYLINT, LINES])

    assert found[1] == ruff
    assert found[0] == found[3]
    assert len(set(found)) == 3
    assert await classes.ensure_classes(store, [PYLINT, RUFF, LINES]) == [found[2], ruff, found[0]]


async def test_what_differs_in_one_thing_only_is_another_class(store: Store) -> None:
    alike = [
        Requirement("ruff", "", "linux", Isolation.BWRAP),
        Requirement("ruff", ">=0.14", "", Isolation.BWRAP),
        Requirement("ruff", ">=0.14", "linux", Isolation.GROUP),
        Requirement("lint", ">=0.14", "linux", Isolation.BWRAP),
    ]

    assert len(set(await classes.ensure_classes(store, [RUFF, *alike]))) == 5


async def test_no_requirement_has_no_class(store: Store) -> None:
    assert await classes.ensure_classes(store, []) == []
