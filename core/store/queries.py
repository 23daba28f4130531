"""The SQL of the store: one statement a file, `core/store/sql/<noun>/<verb>.sql`.

A module binds its statements once, when it is imported, so that a wrong name is met at start
and not at three in the morning: `CLAIM = query("tasks/claim")`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z_]+/[a-z0-9_]+")


@cache
def query(name: str) -> str:
    """Return the text of the statement *name*, written `noun/verb`."""
    if not _NAME.fullmatch(name):
        raise LookupError(f"a statement is named noun/verb, got {name!r}")
    try:
        return (_folder() / f"{name}.sql").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LookupError(f"core/store/sql/{name}.sql does not exist") from None


def all_queries() -> dict[str, str]:
    """Return every statement by its name: for tests and for whoever prepares them all."""
    return {
        name: query(name)
        for noun in _folder().iterdir()
        if noun.is_dir()
        for file in noun.iterdir()
        if file.name.endswith(".sql")
        for name in [f"{noun.name}/{file.name.removesuffix('.sql')}"]
    }


def _folder() -> Traversable:
    return resources.files("core.store") / "sql"
