"""What `kennel scan` is pointed at: a folder's repository, branch and state, or a URL.

A folder's own git configuration is a stranger's word: nothing it names is run. What differs from
HEAD is found out with a git folder of our own that borrows index and objects.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli.exits import CommandError
from cli.text import printable
from core.domain.errors import ScmError
from core.domain.scm import check_branch, check_revision, parse_scm_url
from core.runtime.git import Git, GitResult, raise_unless_ok

_TIMEOUT_S = 30.0
_SYMREF = "ref: refs/heads/"
_GIT = Git(allow_local=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A repository to scan."""

    url: str
    branch: str
    is_local: bool = False
    #: Commit to scan; None: the head of the branch.
    revision: str | None = None
    #: Sub-folder to scan; "" for everything.
    scan_path: str = ""
    #: The folder differs from what is scanned.
    is_dirty: bool = False


async def find_target(where: str, *, branch: str | None, revision: str | None) -> Target:
    """Return what *where*, a folder or a URL, means.

    Raises:
        CommandError: nothing there can be scanned; the message says what to do.
    """
    try:
        if branch is not None:
            check_branch(branch)
        if _is_url(where):
            url = parse_scm_url(where, allow_local=False).url
            chosen = branch or await _default_branch(url)
            return Target(url, chosen, revision=_commit(revision))
        return await _Folder(_existing(where)).target(branch=branch, revision=revision)
    except ScmError as error:
        raise CommandError(printable(error.message)) from None


def _existing(where: str) -> Path:
    path = Path(where.removeprefix("file://"))
    try:
        path = path.expanduser().resolve()
        if path.is_dir():
            return path
        is_there = path.exists()
    except (OSError, ValueError, RuntimeError):
        is_there = False
    if is_there:
        raise CommandError(f"{printable(where)} is a file: name the folder of a repository")
    raise CommandError(f"{printable(where)} is neither a folder nor the URL of a repository")


def _is_url(where: str) -> bool:
    if where.startswith("file://"):
        return False
    return "://" in where or ("@" in where.partition(":")[0] and not Path(where).exists())


async def _default_branch(url: str) -> str:
    """Ask a remote which branch its HEAD is."""
    found = await Git().run("ls-remote", "--symref", "--", url, "HEAD", timeout_s=_TIMEOUT_S)
    raise_unless_ok(found, parse_scm_url(url), timeout_s=_TIMEOUT_S)
    for line in found.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(_SYMREF) and line.endswith("\tHEAD"):
            return check_branch(line.removeprefix(_SYMREF).removesuffix("\tHEAD"))
    raise CommandError(
        f"{printable(url)} does not say which branch is its own: name one (--branch)"
    )


def _commit(revision: str | None) -> str | None:
    return None if revision is None else check_revision(revision)


class _Folder:
    """A folder of this machine, asked by git."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def target(self, *, branch: str | None, revision: str | None) -> Target:
        root, is_bare = await self._root()
        head = await self._line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if head is None and branch is None:
            raise CommandError(f"{_shown(self._path)} has no commit yet: there is nothing to scan")
        current = await self._line("symbolic-ref", "--quiet", "--short", "HEAD")
        chosen = branch or current
        if chosen is None:
            raise CommandError(
                f"{_shown(self._path)} is on no branch (detached HEAD): name one with --branch"
            )
        wanted = None if revision is None else await self._revision(revision)
        scan_path = "" if self._path == root else self._path.relative_to(root).as_posix()
        is_dirty = False
        if head is not None and chosen == current and not is_bare:
            is_dirty = await self._is_dirty(root, head)
        return Target(str(root), chosen, True, wanted, scan_path, is_dirty)

    async def _root(self) -> tuple[Path, bool]:
        """Return the repository's folder, that of the work tree or of a bare one, and which."""
        found = await self._git("rev-parse", "--is-bare-repository", "--show-toplevel")
        lines = found.stdout.decode("utf-8", "surrogateescape").splitlines()
        if found.is_ok and lines[0] == "false" and len(lines) == 2:
            return Path(lines[1]), False
        if lines[:1] == ["true"]:
            return self._path, True
        if "not a git repository" in found.stderr or found.is_ok:
            raise CommandError(
                f"{_shown(self._path)} is not in a git repository: Kennel scans commits "
                "(git init, git add, git commit make one)"
            )
        raise CommandError(f"git cannot read {_shown(self._path)}: {printable(found.stderr)}")

    async def _revision(self, revision: str) -> str:
        if not revision.startswith("-"):
            commit = await self._line("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
            if commit is not None:
                return commit
        raise CommandError(f"there is no commit {printable(revision)} in {_shown(self._path)}")

    async def _is_dirty(self, root: Path, head: str) -> bool:
        """Tell whether tracked files differ from *head*, or unignored ones are not tracked."""
        index = await self._line("rev-parse", "--path-format=absolute", "--git-path", "index")
        objects = await self._line("rev-parse", "--path-format=absolute", "--git-path", "objects")
        if index is None or objects is None:
            return False
        with tempfile.TemporaryDirectory(prefix="kennel-") as folder:
            _lay_out(Path(folder), head)
            borrowed = {
                "GIT_INDEX_FILE": index,
                "GIT_OBJECT_DIRECTORY": objects,
                "GIT_WORK_TREE": str(root),
            }
            found = await _GIT.run(
                *("-C", str(root), "-c", "core.symlinks=true", "status", "--porcelain"),
                *("--untracked-files=normal", "--ignore-submodules=all"),
                git_dir=Path(folder),
                env=borrowed,
                timeout_s=_TIMEOUT_S,
            )
        # More than fits is a difference too; a git that fails says nothing.
        return found.ended == "overflow" or (found.is_ok and bool(found.stdout.strip()))

    async def _line(self, *arguments: str) -> str | None:
        found = await self._git(*arguments)
        text = found.stdout.decode("utf-8", "surrogateescape").rstrip("\n")
        return text if found.is_ok and text else None

    async def _git(self, *arguments: str) -> GitResult:
        # The folder may be somebody else's; the repository may begin at any of its parents.
        places = [self._path, *self._path.parents]
        trusted = [place for folder in places for place in (folder, folder / ".git")]
        return await _GIT.run(
            "-C", str(self._path), *arguments, trusted=trusted, timeout_s=_TIMEOUT_S
        )


def _lay_out(folder: Path, head: str) -> None:
    """Make the least that git takes for a repository."""
    (folder / "refs").mkdir()
    (folder / "objects").mkdir()
    (folder / "HEAD").write_text(f"{head}\n", "ascii")
    extension = "[extensions]\n\tobjectFormat = sha256\n" if len(head) == 64 else ""
    version = 1 if extension else 0
    config = f"[core]\n\trepositoryformatversion = {version}\n\tbare = false\n{extension}"
    (folder / "config").write_text(config, "ascii")


def _shown(path: Path) -> str:
    return printable(path)
