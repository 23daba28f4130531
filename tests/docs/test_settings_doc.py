"""docs/settings.md lists every setting with its name, default, unit and meaning, and no other."""

from __future__ import annotations

from pathlib import Path

from pydantic import ByteSize
from pydantic_core import PydanticUndefined

from core.runtime.environment import Variable
from core.runtime.settings import VARIABLES

DOC = Path(__file__).parents[2] / "docs" / "settings.md"


def unit_of(variable: Variable) -> str:
    name = variable.path[-1]
    return "seconds" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""


def default_of(variable: Variable) -> str:
    default = variable.field.default
    if default is PydanticUndefined:
        return "see there"
    if default is None:
        return "none"
    if default == ():
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, ByteSize):
        return f"`{default.human_readable().replace('.0', '')}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default!s}`"


def row_of(variable: Variable) -> str:
    cells = (f"`{variable.env}`", default_of(variable), unit_of(variable))
    return f"| {' | '.join(cells)} | {variable.field.description} |".replace("|  |", "| |")


def test_every_setting_has_its_true_row_and_no_other_row_stands() -> None:
    rows = [line for line in DOC.read_text().splitlines() if line.startswith("| `KENNEL_")]

    assert rows == [row_of(variable) for variable in VARIABLES]


def test_every_setting_has_a_meaning_that_ends_as_a_sentence() -> None:
    for variable in VARIABLES:
        description = variable.field.description
        assert description, variable.env
        assert description.endswith("."), variable.env


def test_every_secret_is_listed_with_its_credential() -> None:
    text = DOC.read_text()
    listed = {
        line.split("`")[1]: line.split("`")[3]
        for line in text.splitlines()
        if line.startswith("* `KENNEL_")
    }

    assert listed == {v.env: v.credential for v in VARIABLES if v.is_secret}
