"""A repository whose every part tries to run in whoever scans it; what runs leaves a canary."""

from __future__ import annotations

import importlib.machinery
import shutil
import subprocess
from pathlib import Path

#: Named like what pylint imports, what astroid looks up, what Python runs at its start, and like
#: parts of the standard library that nothing has imported yet.
MODULES = (
    "isort.py",
    "colorama.py",
    "dill.py",
    "astroid/__init__.py",
    "astroid_brain.py",
    "pylint/__init__.py",
    "tomlkit.py",
    "tomllib.py",
    "json.py",
    "typing_extensions.py",
    "platformdirs.py",
    "mccabe.py",
    "sitecustomize.py",
    "usercustomize.py",
    "pylint_django.py",
    "conftest.py",
    "evil.py",
    "enchant.py",
    "_strptime.py",
    "unicodedata.py",
    "lib2to3/__init__.py",
    "encodings/__init__.py",
    "encodings/evil.py",
    "gi/__init__.py",
    "gi/repository/__init__.py",
    "gi/repository/Gtk.py",
    "wsgiref/__init__.py",
    "distutils/__init__.py",
    "xml/__init__.py",
    "six.py",
    "numpy/__init__.py",
    "nested/isort.py",
    "nested/__init__.py",
)

#: In the standard library of another system: astroid would load it from the tree.
FOREIGN_EXTENSION = "msvcrt"

MAIN = """\
# pylint: load-plugins=evil
# pylint: init-hook="import evil"
import os
import msvcrt
import wsgiref.nothing
import xml.nothing
import lib2to3.nothing
import distutils.core
import isort, colorama, dill, astroid, numpy, six
from gi.repository import Gtk
from six.moves import urllib
msvcrt.getch()
Gtk.main()
print(isort.RAN, numpy.array([1]).shape)
"""


def write(source: Path, canaries: Path) -> None:
    """Write the repository; each part that runs makes a file below *canaries*."""
    for name in MODULES:
        _write(source / name, _canary(canaries, name) + f"\nRAN = {name!r}\n")
    hook = _canary(canaries, "init-hook").replace("\n", "; ").replace("%", "%%")
    ini = f"init-hook={hook}\nload-plugins=evil,pylint_django\n"
    _write(source / ".pylintrc", f"[MAIN]\n{ini}")
    _write(source / "pylintrc", f"[MASTER]\n{ini}")
    _write(source / "setup.cfg", f"[pylint.main]\n{ini}")
    _write(source / "tox.ini", f"[pylint.main]\n{ini}")
    toml = f"[tool.pylint.main]\ninit-hook = '''{hook}'''\nload-plugins = ['evil']\n"
    _write(source / "pyproject.toml", toml)
    _write(source / "pylintrc.toml", toml)
    _write(source / "main.py", MAIN)
    _write(source / "coded.py", "# -*- coding: evil -*-\nx = 1\n")
    _write_extension(source, canaries)


def _canary(canaries: Path, name: str) -> str:
    path = str(canaries / name.replace("/", "__"))
    return f"import io\nio.open({path!r}, 'w').close()"


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _write_extension(source: Path, canaries: Path) -> None:
    """Compile a library that runs as soon as it is loaded, where there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return
    code = source.parent / "extension.c"
    code.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void ran(void)\n"
        f'{{ creat("{canaries}/extension", 0600); }}\n'
    )
    target = source / f"{FOREIGN_EXTENSION}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, code], check=True, timeout=60)
