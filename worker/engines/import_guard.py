"""Keep a Python tool from running code of the tree it analyses.

For drivers of tools that put the scanned tree on the import path (pylint and its like): import
what the tool needs first, answer later imports from the installation alone, and let an audit hook
refuse what would still run code of the tree, start a process or open a connection. Standard
library only. It contains the tool's mistakes, not native code: the sandbox does that.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: Events of the audit hook that no analysis causes.
_FORBIDDEN_EVENTS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
    }
)


class Refused(ImportError):
    """A module of the scanned tree was about to be run."""


class _RefusingLoader(importlib.abc.Loader):
    """Stands in for the loader of a module that must not run: found, but never executed."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise Refused(f"{spec.name} at {self._origin} is no part of the installation")

    def exec_module(self, module: ModuleType) -> None:
        raise Refused(f"{module.__name__} is no part of the installation")


class ImportGuard(importlib.abc.MetaPathFinder):
    """First on `sys.meta_path`: imports come from the installation, from nowhere else.

    astroid resolves modules by path, partly through `sys.meta_path`, and must go on finding
    those of the tree; so a foreign module is found with a loader that refuses to run it.
    """

    def __init__(self, trusted: Sequence[str], source: str) -> None:
        self._trusted = list(trusted)
        self._roots = tuple(os.path.realpath(path) + os.sep for path in trusted)
        self._source = os.path.realpath(source) + os.sep

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None:
            # A module of the installation wins over one of the tree with the same name.
            spec = self._find(fullname, self._trusted, target)
            if spec is not None and spec.loader is not None and spec.origin is not None:
                return spec
        spec = self._find(fullname, path, target)
        if spec is None or self._is_trusted(spec):
            return spec
        spec.loader = _RefusingLoader(str(spec.origin))
        return spec

    def _find(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                return spec
        return None

    def _is_trusted(self, spec: ModuleSpec) -> bool:
        if spec.origin is None or spec.origin in {"built-in", "frozen"}:
            # A namespace package has no code of its own.
            return True
        origin = os.path.realpath(spec.origin)
        return origin.startswith(self._roots) and not origin.startswith(self._source)


def trusted_paths(source: Path) -> list[str]:
    """Take what lies in *source* off the import path and return the rest.

    Raises:
        Refused: the standard library itself lies in *source*.
    """
    real = source.resolve()
    kept = [entry for entry in sys.path if entry and not _is_below(entry, real)]
    if _is_below(os.__file__, real):
        raise Refused(f"the running Python is installed below {source}")
    sys.path[:] = kept
    return kept


def import_whole(packages: Iterable[str], skip: Sequence[str] = ()) -> None:
    """Import every module of *packages*, those installed, except where a name holds a *skip*."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            continue
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}.", _pass):
            if not any(part in found.name for part in skip):
                _import_if_possible(found.name)


def guard(trusted: Sequence[str], source: Path) -> None:
    """Let imports be answered from *trusted* only, and nothing of *source* run."""
    sys.meta_path.insert(0, ImportGuard(trusted, str(source)))
    sys.addaudithook(_refuser(source))


def _refuser(source: Path) -> Any:
    """Return the audit hook: the second wall, which cannot be taken down again."""
    below = (f"{source}{os.sep}", f"{source.resolve()}{os.sep}")

    watched = _FORBIDDEN_EVENTS | {"exec", "import"}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        # Called for every `id()` and the like: the first line is all that most calls cost.
        if event not in watched:
            return
        if event in _FORBIDDEN_EVENTS:
            raise Refused(f"refused {event}")
        name = arguments[1] if event == "import" else getattr(arguments[0], "co_filename", None)
        if isinstance(name, str) and name.startswith(below):
            raise Refused(f"refused to run {name}")

    return refuse


def _import_if_possible(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        # It needs an optional package that is not installed: the tool cannot use it either.
        return


def _pass(_name: str) -> None:
    """Walk on past a package that cannot be imported."""


def _is_below(entry: str, folder: Path) -> bool:
    return Path(entry).resolve().is_relative_to(folder)
