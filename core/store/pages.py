"""One page of a list, and how many items all pages hold: the common form of list statements.

Such a statement answers at least one row: `total` beside nulls when the page is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of the items, and the number of all."""

    count: int
    items: Sequence[Item]


def page_of(rows: Sequence[Any], make: Callable[[Any], Item]) -> Page[Item]:
    """Return the page that a list statement's *rows* are."""
    return Page(rows[0]["total"], [make(row) for row in rows if row["id"] is not None])
