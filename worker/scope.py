"""Which files of a commit are in a scan's scope: kind, folder, inclusion and exclusion.

A glob is matched against the whole path relative to the repository's root, case-sensitively:
`*` is any run of characters, `/` too (`lib/*` is everything below lib, `lib` only a file of that
name), `?` one character, `[…]` one of a set, and `**/` any number of folders, none as well.
No inclusion means every file; exclusion wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate

from core.domain.errors import InvalidField

_MAX_GLOB = 500
_MAX_GLOBS = 500
_MAX_FOLDERS = 4
_REGULAR = {b"100644", b"100755", b"100664"}


@dataclass(frozen=True, slots=True)
class Scope:
    """Files of a task, relative to the repository's root, sorted."""

    #: Files to analyse.
    files: list[str]
    #: Every file in the scan's scope.
    all_files: list[str]


class PathFilter:
    """Tells whether a path is in a scan's scope."""

    def __init__(
        self, *, scan_path: str = "", inclusion: Sequence[str] = (), exclusion: Sequence[str] = ()
    ) -> None:
        self.folder = checked_scan_path(scan_path)
        self._inclusion = _compiled("inclusion", inclusion)
        self._exclusion = _compiled("exclusion", exclusion)

    def __call__(self, path: str) -> bool:
        """Tell whether *path* is in scope."""
        if self.folder and path != self.folder and not path.startswith(self.folder + "/"):
            return False
        if self._inclusion is not None and not self._inclusion.match(path):
            return False
        return self._exclusion is None or not self._exclusion.match(path)


def checked_scan_path(scan_path: str) -> str:
    """Return a sub-folder without slashes at its ends, "" for the whole repository.

    Raises:
        InvalidField: it leads out of the repository.
    """
    folder = scan_path.strip("/")
    parts = folder.split("/") if folder else []
    if any(part in {"", ".", "..", ".git"} or "\0" in part for part in parts):
        raise InvalidField("scan_path", "must be a folder inside the repository")
    return folder


def parse_tree(listing: bytes) -> list[tuple[str, str]]:
    """Return (path, blob id) of the regular files in `git ls-tree -r -z`.

    Links (120000) and submodules (160000) are left out, and so are names that are not UTF-8:
    no report could name them.
    """
    files = []
    for entry in filter(None, listing.split(b"\0")):
        head, _, name = entry.partition(b"\t")
        mode, _, blob = head.split()
        if mode in _REGULAR:
            try:
                files.append((name.decode("utf-8"), blob.decode("ascii")))
            except UnicodeDecodeError:
                continue
    return files


@dataclass(frozen=True, slots=True)
class Change:
    """One file that differs between two commits."""

    #: git's letter: A, C, D, M, R or T.
    letter: str
    #: Its path in the newer commit, in the older one for D.
    path: str
    #: Its path in the older commit when renamed or copied.
    old_path: str | None
    is_regular: bool


def parse_changes(listing: bytes) -> list[Change]:
    """Return the changes in `git diff --raw -z`; names that are not UTF-8 are left out."""
    fields = iter(listing.split(b"\0"))
    changes = []
    for head in fields:
        if not head.startswith(b":"):
            continue
        _, new_mode, _, _, status = head.split()
        letter = chr(status[0])
        names = [next(fields, b"")]
        if letter in "CR":
            names.append(next(fields, b""))
        try:
            paths = [name.decode("utf-8") for name in names]
        except UnicodeDecodeError:
            continue
        old = paths[0] if len(paths) == 2 else None
        changes.append(Change(letter, paths[-1], old, new_mode in _REGULAR))
    return changes


def _compiled(field: str, globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    if len(globs) > _MAX_GLOBS:
        raise InvalidField(field, f"must have {_MAX_GLOBS} globs or fewer")
    return re.compile("|".join(translate(each) for glob in globs for each in _plain(field, glob)))


def _plain(field: str, glob: str) -> Iterable[str]:
    """Return the globs without `**` that a glob stands for.

    Spelled out instead of a regular expression of our own: `translate` never backtracks.
    """
    if not glob or len(glob) > _MAX_GLOB or "\0" in glob:
        raise InvalidField(field, f"must have globs of 1 to {_MAX_GLOB} characters")
    while "**/**/" in glob:
        glob = glob.replace("**/**/", "**/")
    if glob.count("**/") > _MAX_FOLDERS:
        raise InvalidField(field, f"must have globs with at most {_MAX_FOLDERS} times **/")
    found = [""]
    for index, piece in enumerate(re.split(r"(?:(?<=/)|(?<=^))\*\*/", glob)):
        if index == 0:
            found = [piece]
        else:
            found = [head + joint + piece for head in found for joint in ("", "*/")]
    return [each.removeprefix("./").replace("**", "*") for each in found]
