from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from worker.engines import import_guard

#: Installs the guard over the current directory, puts that first on the path, tries one thing.
PROGRAM = """
import importlib, importlib.util, json, os, socket, subprocess, sys
from pathlib import Path
sys.path.append({root!r})
from worker.engines import import_guard
source = Path.cwd()
import_guard.guard(import_guard.trusted_paths(source), source)
sys.path.insert(0, str(source))
try:
    print(json.dumps(str({attempt})))
except import_guard.Refused:
    print(json.dumps("refused"))
"""


def attempt(source: Path, expression: str) -> str:
    root = str(Path(import_guard.__file__).resolve().parents[2])
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM.format(root=root, attempt=expression)],
        cwd=source,
        capture_output=True,
        timeout=60,
        check=True,
    )
    answer = json.loads(ran.stdout)
    assert isinstance(answer, str)
    return answer


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "pkg").mkdir(parents=True)
    (folder / "space").mkdir()
    for name in ("evil.py", "wsgiref.py", "pkg/__init__.py", "pkg/part.py", "space/part.py"):
        (folder / name).write_text("raise SystemExit('it ran')\n")
    (folder / "elsewhere.py").symlink_to(tmp_path / "outside.py")
    (tmp_path / "outside.py").write_text("raise SystemExit('it ran')\n")
    return folder


@pytest.mark.parametrize(
    "expression",
    [
        "importlib.import_module('evil')",
        "__import__('pkg.part')",
        "importlib.import_module('space.part')",
        "importlib.import_module('elsewhere')",
        "importlib.util.find_spec('pkg.part')",
        "exec(compile('1', str(source / 'evil.py'), 'exec'))",
        "importlib._bootstrap._load(importlib.util.spec_from_file_location('x', 'evil.py'))",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()",
        "socket.create_connection(('127.0.0.1', 9))",
    ],
)
def test_nothing_of_the_source_runs_and_no_process_starts(source: Path, expression: str) -> None:
    assert attempt(source, expression) == "refused"


def test_a_module_of_the_installation_wins_over_one_of_the_source(source: Path) -> None:
    origin = attempt(source, "importlib.import_module('wsgiref').__file__")

    assert origin.endswith("wsgiref/__init__.py")


def test_modules_of_the_source_are_still_found(source: Path) -> None:
    assert attempt(source, "importlib.util.find_spec('evil').origin") == str(source / "evil.py")
    assert attempt(source, "importlib.util.find_spec('space').origin") == "None"


def test_a_source_that_holds_the_interpreter_is_refused() -> None:
    with pytest.raises(import_guard.Refused):
        import_guard.trusted_paths(Path(json.__file__).parents[1])
