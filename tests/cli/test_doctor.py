"""`kennel doctor` says what works here, and what to do about what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import core.runtime.git
from cli.examination import examine
from cli.exits import Exit
from tests.cli.commandline import CommandLine


def levels(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["level"] for check in document["checks"]}


def test_a_machine_that_can_scan_is_green(kennel: CommandLine) -> None:
    ended = kennel("doctor", "--json")

    found = levels(ended.json())
    assert (ended.status, ended.json()["ok"]) == (Exit.OK, True)
    assert list(found) == [
        "python", "settings", "git", "isolation", "lines", "pylint", "ruff", "database",
    ]  # fmt: skip
    assert {found[name] for name in ("python", "git", "lines", "database")} == {"good"}
    assert not kennel.data_dir.exists(), "looking makes nothing"
    assert kennel.processes() == {}


async def test_a_machine_without_git_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.runtime.git, "_PATH", str(tmp_path))

    checks = await examine(tmp_path / "data", with_database=False)

    (found,) = [check for check in checks if check.name == "git"]
    assert (found.level, "install the package git" in found.text) == ("bad", True)


def test_what_is_wrong_is_named_and_makes_it_red(kennel: CommandLine) -> None:
    settings = {"KENNEL_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}

    ended = kennel("doctor", "--json", settings=settings)
    unreadable = kennel("doctor", settings={"KENNEL_LEASE__LEASE_S": "-1"})

    assert (ended.status, levels(ended.json())["database"]) == (Exit.FAILED, "bad")
    assert (unreadable.status, "KENNEL_LEASE__LEASE_S" in unreadable.out) == (Exit.FAILED, True)
    assert "Kennel cannot scan here yet." in unreadable.out


def test_a_named_database_is_asked_for_its_schema(
    kennel: CommandLine, database_url: str, empty_database_url: str
) -> None:
    good = kennel("doctor", "--json", settings={"KENNEL_DATABASE_URL": database_url})
    empty = kennel("doctor", settings={"KENNEL_DATABASE_URL": empty_database_url})

    assert levels(good.json())["database"] == "good"
    assert empty.status == Exit.FAILED
    assert "run `kennel db upgrade`" in empty.out
