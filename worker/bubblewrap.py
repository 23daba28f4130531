"""The command line of bubblewrap: what an engine sees of the host at isolation level `bwrap`.

It sees /usr read-only, the interpreter Kennel runs on, what the engine asks to read, the source
read-only, and its output folder; no network, no other process, no capability.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_PROGRAM = "bwrap"
_PROGRAM_PATH = "/usr/local/bin:/usr/bin:/bin"
_TMP_BYTES = 256 << 20
_MAX_LINKS = 40
_HOST_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")


def wrap(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    source: Path,
    out: Path,
    readable: Sequence[Path],
) -> list[str]:
    """Return *argv* wrapped so that it runs contained, with every path as outside."""
    view = _View()
    for path in (*interpreter_paths(), *readable):
        view.show(path)
    view.show(source)
    command = [
        *(_program(), "--unshare-all", "--unshare-user", "--disable-userns"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
    ]
    for name, value in env.items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr", *_merged_usr()]
    for file in _HOST_FILES:
        command += ["--ro-bind-try", file, file]
    # Before the binds: the folders bound may lie below /tmp.
    command += ["--dev", "/dev", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    command += view.arguments()
    real_out = str(out.resolve())
    command += [*_link_arguments(out, view.shown), "--bind", real_out, real_out]
    return [*command, "--chdir", str(source), "--", *argv]


def interpreter_paths() -> list[Path]:
    """Return what a process of this interpreter reads: prefix, base prefix, links between."""
    paths = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix)]
    link = Path(sys.executable)
    for _ in range(_MAX_LINKS):
        if not link.is_symlink():
            break
        link = link.parent / link.readlink()
        paths.append(link)
    return paths


def bubblewrap_problem() -> str:
    """Tell why bubblewrap does not work here and what to do; "" when it works. Blocks ≤ 10 s."""
    if shutil.which(_PROGRAM, path=_PROGRAM_PATH) is None:
        return "bwrap is not installed: install the package bubblewrap"
    with tempfile.TemporaryDirectory(prefix="kennel-") as folder:
        source, out = Path(folder, "source"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        program = [sys.executable, "-I", "-S", "-c", "pass"]
        env = {"PATH": _PROGRAM_PATH}
        command = wrap(program, env=env, source=source, out=out, readable=())
        try:
            done = subprocess.run(
                command,
                check=False,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap cannot be run: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip()[-300:]
    return f"bwrap fails ({said}): user namespaces must be allowed to this service"


class _View:
    """Folders shown read-only at their own place, parents first, none twice."""

    def __init__(self) -> None:
        self.shown: list[Path] = []
        self._paths: list[Path] = []

    def show(self, path: Path) -> None:
        if path == Path("/"):
            raise ValueError("the root folder cannot be shown to an engine")
        self._paths.append(path)

    def arguments(self) -> list[str]:
        arguments: list[str] = []
        for path in sorted(self._paths, key=lambda path: len(path.resolve().parts)):
            real = path.resolve()
            if real.exists() and not _is_shown(real, self.shown):
                arguments += ["--ro-bind", str(real), str(real)]
                self.shown.append(real)
        for path in self._paths:
            arguments += _link_arguments(path, self.shown)
        return arguments


def _is_shown(path: Path, shown: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in (Path("/usr"), *shown))


def _link_arguments(path: Path, shown: list[Path]) -> list[str]:
    """Recreate the links on the way to *path*, so that its unresolved name works inside too."""
    arguments: list[str] = []
    current = Path("/")
    for part in path.parts[1:]:
        current /= part
        is_given = current in shown or _is_shown(current, shown) or current.parts[1] in _ROOTS
        if current.is_symlink() and not is_given:
            shown.append(current)
            arguments += ["--symlink", os.readlink(current), str(current)]  # noqa: PTH115
            return arguments + _link_arguments(current.resolve(), shown)
    return arguments


_ROOTS = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}


def _merged_usr() -> list[str]:
    """Show /bin, /lib and their like as the host has them: links into /usr, or folders."""
    arguments: list[str] = []
    for name in sorted(_ROOTS - {"usr"}):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]  # noqa: PTH115
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _program() -> str:
    return shutil.which(_PROGRAM, path=_PROGRAM_PATH) or f"/usr/bin/{_PROGRAM}"
