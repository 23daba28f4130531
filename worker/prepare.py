"""Answer what a job needs to know of its commit before any engine runs: files, languages, change.

Works on the mirror alone, without a work tree. Decides nothing about full or incremental: it
gives the facts and the verdict on the base.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, ParamSpec, TypeVar

from core.domain.errors import ScmError
from core.domain.languages import HEAD_BYTES, language_of, needs_head
from core.domain.outcomes import Reason
from core.protocol.messages import PrepareReport, TaskSpec
from worker.mirror import Mirror, checkout_failed
from worker.scope import Change, PathFilter, Scope, parse_changes

#: Files without a telling name whose first bytes are read; the rest stay unclassified.
_MAX_HEADS = 5_000
_MAX_HEAD_BLOB = 64 << 10
_ANALYSED = "ACMRT"
#: Files that are looked at in a millisecond: handing them to a thread would take longer.
_FEW_FILES = 500
_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Files by which engines are configured from within a repository.
CONFIG_FILES = frozenset(
    {
        ".pylintrc",
        "pylintrc",
        ".pylintrc.toml",
        "pylintrc.toml",
        "pyproject.toml",
        "setup.cfg",
        "tox.ini",
        "ruff.toml",
        ".ruff.toml",
        ".flake8",
        "mypy.ini",
        ".mypy.ini",
        ".editorconfig",
        ".bandit",
        ".shellcheckrc",
        ".eslintrc",
        ".eslintrc.json",
        ".eslintrc.yml",
        ".eslintrc.yaml",
        ".eslintrc.js",
        "eslint.config.js",
        "eslint.config.mjs",
        "eslint.config.cjs",
    }
)

BaseVerdict = Literal["none", "ancestor", "history_rewritten", "base_unreachable"]


async def prepare(mirror: Mirror, spec: TaskSpec) -> PrepareReport:
    """Return what a `prepare` task reports.

    Raises:
        ScmError: the mirror cannot be read, or `scan_path` does not exist in the revision.
        core.domain.errors.InvalidField: a glob or `scan_path` cannot be used.
    """
    wanted = _filter_of(spec)
    tree = await mirror.files()
    await _check_folder(mirror, wanted)
    blobs = dict(await _aside(len(tree), _in_scope, tree, wanted))
    heads = await _heads(mirror, blobs)
    languages = await _aside(len(blobs), _languages, blobs, heads)
    base = await _verdict(mirror)
    changes = await _changes(mirror) if base == "ancestor" else []
    changed = [path for path in _changed_files(changes) if path in blobs]
    return PrepareReport(
        files=len(blobs),
        languages=_tally(languages[path] for path in blobs),
        base=base,
        changed=len(changed),
        changed_languages=_tally(languages[path] for path in changed),
        config_changed=spec.allow_repo_config and _touches_config(changes),
    )


async def files_for(mirror: Mirror, spec: TaskSpec) -> Scope:
    """Return the files of an engine task: the changed ones where a base is set, else all.

    Raises:
        ScmError: the base cannot be compared, or as `prepare`.
        core.domain.errors.InvalidField: a glob or `scan_path` cannot be used.
    """
    wanted = _filter_of(spec)
    tree = await mirror.files()
    all_files = sorted(path for path, _ in await _aside(len(tree), _in_scope, tree, wanted))
    if spec.source.base_revision is None:
        return Scope(all_files, all_files)
    if mirror.base is None:
        raise ScmError(Reason.CHECKOUT_FAILED, "the base revision cannot be fetched any more")
    present = set(all_files)
    changed = _changed_files(await _changes(mirror))
    return Scope(sorted(path for path in changed if path in present), all_files)


def _filter_of(spec: TaskSpec) -> PathFilter:
    return PathFilter(
        scan_path=spec.source.scan_path, inclusion=spec.inclusion, exclusion=spec.exclusion
    )


def _in_scope(tree: Sequence[tuple[str, str]], wanted: PathFilter) -> list[tuple[str, str]]:
    return [entry for entry in tree if wanted(entry[0])]


def _languages(paths: Iterable[str], heads: Mapping[str, bytes]) -> dict[str, str | None]:
    return {path: language_of(path, heads.get(path, b"")) for path in paths}


async def _aside(files: int, work: Callable[_P, _T], /, *args: _P.args, **more: _P.kwargs) -> _T:
    """Do some work on that many files: in a thread when it would hold up the heartbeat."""
    if files <= _FEW_FILES:
        return work(*args, **more)
    return await asyncio.to_thread(work, *args, **more)


async def _check_folder(mirror: Mirror, wanted: PathFilter) -> None:
    if not wanted.folder:
        return
    found = await mirror.ask("cat-file", "-e", f"{mirror.revision}:{wanted.folder}")
    if not found.is_ok:
        message = f"the folder {wanted.folder!r} does not exist in the scanned revision"
        raise ScmError(Reason.SCM_NOT_FOUND, message)


async def _verdict(mirror: Mirror) -> BaseVerdict:
    if mirror.is_base_missing:
        return "base_unreachable"
    if mirror.base is None:
        return "none"
    result = await mirror.ask("merge-base", "--is-ancestor", mirror.base, mirror.revision)
    if result.is_ok:
        return "ancestor"
    if result.ended == "exit" and result.exit_code == 1:
        return "history_rewritten"
    raise checkout_failed("merge-base", result)


async def _changes(mirror: Mirror) -> list[Change]:
    assert mirror.base is not None
    listing = await mirror.read(
        *("diff-tree", "-r", "--raw", "-z", "-M", "--no-ext-diff", "--no-textconv"),
        *("--ignore-submodules=all", mirror.base, mirror.revision, "--"),
    )
    return parse_changes(listing)


def _changed_files(changes: Sequence[Change]) -> list[str]:
    return [each.path for each in changes if each.letter in _ANALYSED and each.is_regular]


def _touches_config(changes: Sequence[Change]) -> bool:
    paths = [path for each in changes for path in (each.path, each.old_path) if path is not None]
    return any(path.rsplit("/", 1)[-1].lower() in CONFIG_FILES for path in paths)


async def _heads(mirror: Mirror, blobs: dict[str, str]) -> dict[str, bytes]:
    """Return the first bytes of the files whose names say nothing; large ones are left out."""
    asked = {path: blob for path, blob in blobs.items() if needs_head(path)}
    if not asked:
        return {}
    ids = sorted(set(asked.values()))[:_MAX_HEADS]
    sizes = await mirror.read(
        "cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=_lines(ids)
    )
    rows = [line.split() for line in sizes.decode("ascii").splitlines()]
    small = [row[0] for row in rows if len(row) == 2 and int(row[1]) <= _MAX_HEAD_BLOB]
    if not small:
        return {}
    contents = _parse_batch(await mirror.read("cat-file", "--batch", stdin=_lines(small)))
    return {path: contents[blob] for path, blob in asked.items() if blob in contents}


def _lines(ids: Sequence[str]) -> bytes:
    return "".join(f"{each}\n" for each in ids).encode("ascii")


def _parse_batch(output: bytes) -> dict[str, bytes]:
    """Return id → first bytes from `git cat-file --batch`: id, type, size; content; line end."""
    found = {}
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        name, _, size = output[at:end].decode("ascii").split()
        start = end + 1
        found[name] = output[start : start + min(HEAD_BYTES, int(size))]
        at = start + int(size) + 1
    return found


def _tally(languages: Iterable[str | None]) -> dict[str, int]:
    counter = Counter(each for each in languages if each is not None)
    return dict(sorted(counter.items()))
