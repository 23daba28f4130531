"""What is committed speaks of Kennel alone: no path of a machine, no index, no loose end."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

# Put together here, so that this file does not hold what it looks for.
FOLDERS = "|".join(["ro" + "ot", "wo" + "rk", "home/[a-z]", "Us" + "ers"])
MACHINE_PATH = re.compile(rf"(^|[^\w.$}}-])/(?:{FOLDERS})/", re.MULTILINE)
INDEX = re.compile("|".join(["index" + "-url", "find" + "-links", r"registry *= *.?https?:"]))
LOOSE_END = re.compile(
    r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError"]) + r")\b"
)
BARE_IGNORE = re.compile("# type: " + r"ignore(?!\[)")
SLEEP = re.compile(r"\b(?:asyncio|time)\." + r"sleep\(")


def texts(files: list[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        try:
            yield str(path.relative_to(ROOT)), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # an image or a fixture of bytes


def hits(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{name}: {line.strip()[:120]}"
        for name, text in texts(files)
        for line in text.splitlines()
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_a_machine(repository_files: list[Path]) -> None:
    assert hits(MACHINE_PATH, repository_files) == []


def test_no_file_names_a_package_index(repository_files: list[Path]) -> None:
    assert hits(INDEX, repository_files) == []


def test_nothing_is_left_open_in_the_code(repository_files: list[Path]) -> None:
    python = [path for path in repository_files if path.suffix == ".py"]

    assert hits(LOOSE_END, python) == []
    assert hits(BARE_IGNORE, python) == []


def test_no_test_sleeps(repository_files: list[Path]) -> None:
    tests = [path for path in repository_files if path.is_relative_to(ROOT / "tests")]

    assert hits(SLEEP, [path for path in tests if path.suffix == ".py"]) == []


def test_paths_of_machines_are_recognised() -> None:
    name = "wo" + "rk"

    assert MACHINE_PATH.search(f"cd /{name}/kennel")
    assert not MACHINE_PATH.search(f"https://example.org/{name}er/v1")
    assert not MACHINE_PATH.search("POST /worker/v1/claim")


def test_constraints_pin_versions_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", pin)] == []
    assert pins == sorted(pins, key=lambda pin: pin.partition("==")[0].lower())


def needed_packages() -> set[str]:
    """Return all that Kennel, its engines and its developers need here, at any remove."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    waiting = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["engines"],
        *project["dependency-groups"]["dev"],
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asked = Requirement(waiting.pop())
        key = (canonicalize_name(asked.name), frozenset(asked.extras))
        if key in seen:
            continue
        seen.add(key)
        environments = [{"extra": extra} for extra in ("", *asked.extras)]
        waiting += [
            text
            for text in requires(asked.name) or []
            if (marker := Requirement(text).marker) is None
            or any(marker.evaluate(environment) for environment in environments)
        ]
    return {name for name, _ in seen}


def test_constraints_pin_everything_that_is_needed() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    needed = needed_packages()

    assert {"aiohttp", "pylint", "pytest", "yarl"} <= needed
    assert sorted(needed - pinned) == []


def test_hooks_before_a_commit_download_nothing() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")

    assert re.findall(r"repo: *(\S+)", hooks) == ["local"]
    assert set(re.findall(r"language: *(\S+)", hooks)) == {"system"}
