"""Run pylint over a list of files without running anything of the tree they lie in.

A process of its own: `python -I -B pylint_driver.py JOB` in the source, JOB being a JSON document
(see `Job`). pylint puts the scanned tree first on the import path and imports from there, so a
repository's `isort.py`, `gi/` or `_json.so` would run: `import_guard` keeps it from that.

The driver also checks exactly the files it is given (pylint would widen a package's `__init__.py`
to the whole package and read names as glob patterns), survives what one file makes pylint raise,
tells which files were analysed, and writes one progress line a file. Exit status: pylint's.
"""

from __future__ import annotations

import json
import os
import sys
import time
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pylint.checkers.symilar import Symilar
from pylint.config import find_default_config_files
from pylint.interfaces import HIGH
from pylint.lint import PyLinter, Run
from pylint.lint.expand_modules import _is_ignored_file
from pylint.lint.utils import augmented_sys_path
from pylint.reporters.json_reporter import JSON2Reporter
from pylint.typing import FileItem

if not __package__:  # run as a script: our own packages lie two folders above
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from worker.engines import import_guard

#: Imported whole before the tree can be on the import path.
_PACKAGES = ("pylint", "astroid", "isort", "tomlkit", "platformdirs", "dill", "colorama")
_MODULES = ("mccabe", "multiprocessing", "concurrent.futures", "encodings", "zipimport")
#: Parts of those that are programs or tests; and `dill.__diff`, which pylint has no use for and
#: which puts itself into `builtins.__import__` and walks through every object of every module.
_NOT_NEEDED = (
    *("__main__", "pyreverse", "testutils", "dill.tests", "dill.__diff", "colorama.tests"),
    "encodings.mbcs",
)

#: Every so many parsed files a line goes to the log, so that a long start is no silence.
_PARSED_STEP = 100
#: And every so many seconds while files are compared with one another, which is quadratic.
_COMPARING_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done. Paths of outputs are absolute."""

    #: Relative to the current directory, in order.
    files: list[str]
    #: Added to pylint's command line.
    options: list[str]
    rcfile: str
    report: str
    coverage: str
    progress: str
    #: Use the repository's own configuration, where it has one; it may run code.
    allow_repo_config: bool


@dataclass(slots=True)
class Covered:
    """What became of each file, by its place in the list."""

    analysed: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class ExactLinter(PyLinter):
    """Checks the files of the job: all of them, no other, each on its own account."""

    job: ClassVar[Job]
    source: ClassVar[Path]
    covered: ClassVar[Covered]
    progress: ClassVar[BinaryIO]

    def check(self, files_or_modules: Sequence[str]) -> None:  # noqa: ARG002 - a placeholder
        self.initialize()
        for checker in self.get_checkers():
            if isinstance(checker, Symilar):
                # pylint offers no hook there.
                setattr(checker, "_find_common", _audible(checker._find_common))  # noqa: B010, SLF001
        paths = [self.source / name for name in self.job.files]
        roots = list(dict.fromkeys(str(_package_root(path, self.source)) for path in paths))
        with augmented_sys_path(roots), self._astroid_module_checker() as check_module:
            items = [
                FileItem(name := _module_name(path, self.source), str(path), name) for path in paths
            ]
            modules = [self._parse(number, item) for number, item in enumerate(items)]
            for number, (item, module) in enumerate(zip(items, modules, strict=True)):
                if module is not None:
                    self._lint(number, item, module, check_module)

    def _parse(self, number: int, item: FileItem) -> Any:
        """Return the tree of a file; None when it is done with: no Python, ignored, failed."""
        if number % _PARSED_STEP == _PARSED_STEP - 1:
            sys.stderr.write(f"pylint: parsed {number + 1} of {len(self.job.files)} files\n")
        self.set_current_module(item.name, item.filepath)
        if self.job.allow_repo_config and self._is_ignored(item.filepath):
            self._skipped(number, "ignored by the repository's configuration")
            return None
        try:
            module = self.get_ast(item.filepath, item.name)
        except Exception as error:  # noqa: BLE001 - whatever one file makes pylint raise
            self._failed(number, error)
            return None
        if module is None:
            self._unparsed(number, item.filepath)
        return module

    def _lint(self, number: int, item: FileItem, module: Any, check_module: Any) -> None:
        try:
            self._lint_file(item, module, check_module)
        except Exception as error:  # noqa: BLE001 - whatever one file makes pylint raise
            self._failed(number, error)
            return
        if self._ignore_file:
            self._skipped(number, "skipped by a pragma in the file")
        else:
            self._analysed(number)

    def _unparsed(self, number: int, path: str) -> None:
        """Tell a file with a syntax error, which is a finding, from one that is no text."""
        problem = _unreadable(path)
        if problem is None:
            self._analysed(number)
        else:
            self.covered.failed[number] = problem
            self._done(number)

    def _analysed(self, number: int) -> None:
        self.covered.analysed.append(number)
        self._done(number)

    def _skipped(self, number: int, why: str) -> None:
        self.covered.skipped[number] = why
        self._done(number)

    def _failed(self, number: int, error: Exception) -> None:
        problem = error.__cause__ or error
        message = f"{type(problem).__name__}: {str(problem)[:500]}"
        self.covered.failed[number] = message
        self.add_message("astroid-error", args=(self.job.files[number], message), confidence=HIGH)
        self._done(number)

    def _is_ignored(self, path: str) -> bool:
        config = self.config
        relative = os.path.relpath(path, self.source)
        return _is_ignored_file(
            relative, config.ignore, config.ignore_patterns, config.ignore_paths
        )

    def _done(self, number: int) -> None:
        self.progress.write(json.dumps(self.job.files[number]).encode() + b"\n")


def _audible(compare: Callable[..., Any]) -> Callable[..., Any]:
    """Let the comparison of two files say now and then that it goes on."""
    said_at = -_COMPARING_STEP_S
    pairs = 0

    def comparing(*arguments: Any) -> Any:
        nonlocal said_at, pairs
        pairs += 1
        if time.monotonic() - said_at >= _COMPARING_STEP_S:
            said_at = time.monotonic()
            sys.stderr.write(f"pylint: comparing files, pair {pairs}\n")
        return compare(*arguments)

    return comparing


class ExactRun(Run):
    """pylint's own start-up, with our linter."""

    LinterClass = ExactLinter


def run(job: Job, source: Path) -> int:
    """Check the files of *job* and return pylint's exit status."""
    covered = Covered()
    unfinished = Path(f"{job.report}.part")
    with (
        Path(job.progress).open("ab", buffering=0) as progress,
        unfinished.open("w", encoding="utf-8") as report,
    ):
        ExactLinter.job, ExactLinter.source = job, source
        ExactLinter.covered, ExactLinter.progress = covered, progress
        options = [f"--rcfile={_rcfile(job, source)}", "--jobs=1", "--persistent=no"]
        options += ["--reports=no", "--score=no", *job.options, "."]
        outcome = ExactRun(options, reporter=JSON2Reporter(report), exit=False)
    Path(job.coverage).write_text(
        json.dumps(
            {"analysed": covered.analysed, "skipped": covered.skipped, "failed": covered.failed}
        )
    )
    # Whole or not there: a report that was cut off is never taken for a whole one.
    unfinished.replace(job.report)
    return outcome.linter.msg_status


def _rcfile(job: Job, source: Path) -> str:
    if not job.allow_repo_config:
        return job.rcfile
    found = (path.resolve() for path in find_default_config_files())
    return next((str(path) for path in found if path.is_relative_to(source)), job.rcfile)


def _package_root(path: Path, source: Path) -> Path:
    """Return the folder above the outermost package *path* lies in; never one above *source*."""
    folder = path.parent
    while folder != source and (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _module_name(path: Path, source: Path) -> str:
    """Return the dotted name that imports of *path* would use."""
    parts = path.with_suffix("").relative_to(_package_root(path, source)).parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def _unreadable(path: str) -> str | None:
    """Tell why the file at *path* is no text; None when it is."""
    try:
        with tokenize.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, UnicodeError, SyntaxError, LookupError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(arguments: list[str]) -> int:
    """Do the job whose description is at the path in *arguments*."""
    if arguments == ["--version"]:
        import pylint

        sys.stdout.write(json.dumps({"pylint": pylint.__version__}) + "\n")
        return 0
    job = Job(**json.loads(Path(arguments[0]).read_bytes()))
    source = Path.cwd()
    trusted = import_guard.trusted_paths(source)
    import_guard.import_whole((*_PACKAGES, *_MODULES), _NOT_NEEDED)
    if not job.allow_repo_config:
        import_guard.guard(trusted, source)
    return run(job, source)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
