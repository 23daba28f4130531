"""Remember which files a commit has: all tasks of a job on this worker ask the same.

What a commit has never changes, so nothing is ever out of date. Bounded by the number of files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

#: Files of all listings together that are kept: a dozen megabytes.
MOST_FILES = 50_000

Listing = Sequence[tuple[str, str]]


class Listings:
    """The listings used last: (path, blob id) of the regular files, by mirror and commit."""

    def __init__(self, *, most_files: int = MOST_FILES) -> None:
        self._most_files = most_files
        self._files = 0
        self._kept: OrderedDict[tuple[Path, str], Listing] = OrderedDict()

    def get(self, mirror: Path, commit: str) -> Listing | None:
        """Return a listing, None when it is not kept."""
        found = self._kept.get((mirror, commit))
        if found is not None:
            self._kept.move_to_end((mirror, commit))
        return found

    def keep(self, mirror: Path, commit: str, listing: Listing) -> None:
        """Keep a listing and forget those that were not used for longest; none that is too long."""
        # Two attempts may have listed the same commit side by side.
        if (mirror, commit) in self._kept or len(listing) > self._most_files:
            return
        self._kept[mirror, commit] = listing
        self._files += len(listing)
        while self._files > self._most_files or len(self._kept) > self._most_files:
            _, forgotten = self._kept.popitem(last=False)
            self._files -= len(forgotten)
