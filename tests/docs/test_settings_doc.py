"""docs/settings.md lists every setting with its name, default, unit and meaning, and no other."""

from __future__ import annotations

from pathlib import Path

from core.runtime.settings import VARIABLES, Settings
from scripts.generate_docs import stale_documents

DOC = Path(__file__).parents[2] / "docs" / "settings.md"


def rows() -> list[list[str]]:
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| `KENNEL_")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_tables_are_what_the_settings_are() -> None:
    assert DOC not in stale_documents()


def test_every_setting_has_exactly_one_row_and_no_other_row_stands() -> None:
    assert [name.strip("`") for name, *_ in rows()] == [variable.env for variable in VARIABLES]


def test_every_row_says_what_the_setting_means_and_in_which_unit() -> None:
    for name, default, unit, meaning in rows():
        assert default, name
        assert meaning.endswith("."), name
        assert (unit == "seconds") == name.endswith("_S`"), name
        assert (unit == "bytes") == name.endswith("_BYTES`"), name


def test_a_default_that_is_shown_is_the_default() -> None:
    settings = Settings().model_dump()
    shown = {name.strip("`"): default for name, default, *_ in rows()}

    for variable in VARIABLES:
        value = settings
        for part in variable.path:
            value = value[part]
        if shown[variable.env].startswith("`") and not variable.path[-1].endswith("_bytes"):
            assert str(value).removesuffix(".0").lower() == shown[variable.env].strip("`").lower()
