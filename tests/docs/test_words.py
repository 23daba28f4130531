"""One word, one meaning: the glossary is whole and the names in the code keep to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GLOSSARY_WORDS = [
    "project", "scheme", "scan", "job", "task", "attempt", "queue", "claim", "lease", "heartbeat",
    "finish", "requeue", "retry", "expire", "reap", "cancel", "drain", "engine", "finding",
    "outcome", "reason", "worker", "slot", "state", "phase",
]  # fmt: skip

#: Parts of names that say nothing, or that have a word of the glossary in their place.
UNWANTED = {"manager", "helper", "helpers", "util", "utils", "impl", "misc", "dequeue", "plugin"}


def names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the functions and classes of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def parts(name: str) -> set[str]:
    """Split snake_case and CamelCase into lower-case words."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@pytest.mark.parametrize("word", GLOSSARY_WORDS)
def test_the_glossary_defines_every_word_of_the_system(word: str) -> None:
    rows = (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
    defined = {
        found
        for row in rows
        for found in re.findall(r"\*\*(.+?)\*\*", row.split("|", 2)[1:2][0] if "|" in row else "")
    }

    assert word in defined


def test_no_module_function_or_class_has_a_name_that_says_nothing(sources: dict[Path, str]) -> None:
    # Python's and the service manager's own words are not ours to choose.
    allowed = {"ServiceManager", "read_service_manager"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in sources.items()
        for name in [path.stem, *names(ast.parse(text))]
        if name not in allowed and parts(name) & UNWANTED
    ]

    assert found == []


def test_names_are_split_into_their_words() -> None:
    assert parts("JobManager") == {"job", "manager"}
    assert parts("dequeue_task") == {"dequeue", "task"}
    assert parts("HTTPHelper") == {"http", "helper"}
