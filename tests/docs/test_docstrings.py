"""Every module says what it owns; what others call says what for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "scheduler", "worker", "core", "cli")


def undocumented(text: str) -> Iterator[str]:
    """Yield the public classes and functions of a module that have no docstring.

    Nested and private ones, methods, and a class of a line or two (an error, an alias) speak for
    themselves; an operation of the api says it in its declaration.
    """
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_trivial = node.end_lineno is not None and node.end_lineno - node.lineno < 4
        if any(ast.unparse(one).startswith("operations.") for one in node.decorator_list):
            continue
        if not node.name.startswith("_") and not is_trivial and ast.get_docstring(node) is None:
            yield node.name


def test_every_module_opens_with_what_it_owns(sources: dict[Path, str]) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path, text in sources.items()
        if text.strip() and ast.get_docstring(ast.parse(text)) is None
    ]

    assert silent == []


def test_public_classes_and_functions_of_every_package_say_what_for(
    sources: dict[Path, str],
) -> None:
    silent = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in sources.items()
        if path.relative_to(ROOT).parts[0] in PACKAGES
        for name in undocumented(text)
    ]

    assert silent == []


def test_a_public_function_without_docstring_is_seen() -> None:
    text = (
        "def f():\n    a = 1\n    b = 2\n    c = 3\n    return a + b + c\n\ndef _g():\n"
        + "    x = 1\n" * 9
    )

    assert list(undocumented(text)) == ["f"]
