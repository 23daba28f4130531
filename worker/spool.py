"""What a worker owes its server, on disk: one folder an attempt, until a verdict is in.

A folder is made before the attempt starts (its lease with it) and removed when the server has
accepted the result or disowned the attempt, so a killed daemon knows at its next start both the
results it had and the attempts it must hand back. Log and artifacts lie beside the result.

What a daemon that is killed needs outlasts it without being forced to disk. After a power cut the
leases are over by themselves; only results that wait for their verdict are worth the disk's time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from core.domain.outcomes import Outcome, Reason
from core.protocol.messages import AttemptRef, AttemptResult
from core.runtime.logs import get_logger
from worker.durable import force, make_private, sync_folder, write_whole
from worker.tree import remove_tree

log = get_logger(__name__)

#: With this many results or bytes waiting nothing more is claimed.
MAX_RESULTS = 256
MAX_BYTES = 4 << 30

_LEASE = "lease.json"
_RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """The folder of one attempt."""

    ref: AttemptRef
    folder: Path

    @property
    def attempt_id(self) -> int:
        return self.ref.attempt_id

    @property
    def log(self) -> Path:
        """What the commands printed."""
        return self.folder / "log"

    @property
    def artifacts(self) -> Path:
        """Folder of the files to upload."""
        return self.folder / "artifacts"

    def log_size(self) -> int:
        """Return the size of the log, 0 without one."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def unfinished(self, reason: Reason, message: str) -> AttemptResult:
        """Return the result of an attempt that this worker did not bring to its end."""
        return AttemptResult(
            attempt_id=self.ref.attempt_id,
            lease_token=self.ref.lease_token,
            outcome=Outcome.FAILED,
            reason=reason,
            message=message,
        )


class Spool:
    """All entries of one worker. Its methods do the disk's work in threads."""

    def __init__(
        self, root: Path, *, max_results: int = MAX_RESULTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._root = root
        self._max_results = max_results
        self._max_bytes = max_bytes
        #: Bytes of each committed entry.
        self._sizes: dict[int, int] = {}

    def has_room(self) -> bool:
        """Tell whether more may be claimed: results do not pile up without end."""
        return len(self._sizes) < self._max_results and sum(self._sizes.values()) < self._max_bytes

    async def load(self) -> Sequence[tuple[Entry, AttemptResult]]:
        """Return what the last run left, oldest attempt first; unfinished ones as handed back."""
        return await asyncio.to_thread(self._load)

    async def open(self, refs: Sequence[AttemptRef]) -> list[Entry]:
        """Make the folders of attempts that are about to start."""
        return await asyncio.to_thread(self._open, refs)

    async def commit(self, entry: Entry, result: AttemptResult) -> None:
        """Keep a result, in place of an earlier one."""
        await asyncio.to_thread(self._commit, entry, result)

    async def force(self, entry: Entry) -> None:
        """Have a result that is kept outlast a power cut; nothing when it is discarded by now."""
        await asyncio.to_thread(self._force, entry)

    async def discard(self, entry: Entry) -> None:
        """Remove an entry; the second time does nothing."""
        self._sizes.pop(entry.attempt_id, None)
        await asyncio.to_thread(self._discard, entry.folder)

    def _open(self, refs: Sequence[AttemptRef]) -> list[Entry]:
        entries = []
        for ref in refs:
            entry = Entry(ref, self._root / str(ref.attempt_id))
            make_private(entry.folder)
            make_private(entry.artifacts)
            write_whole(entry.folder / _LEASE, ref.model_dump_json().encode())
            entries.append(entry)
        return entries

    def _commit(self, entry: Entry, result: AttemptResult) -> None:
        write_whole(entry.folder / _RESULT, result.model_dump_json().encode())
        self._sizes[entry.attempt_id] = _size(entry.folder)

    def _force(self, entry: Entry) -> None:
        with contextlib.suppress(FileNotFoundError):
            for path in (entry.folder / _LEASE, entry.folder / _RESULT):
                force(path)
            for path in (entry.log, *entry.artifacts.iterdir()):
                if path.is_file():
                    force(path)
            sync_folder(self._root)

    def _discard(self, folder: Path) -> None:
        try:
            # The lease first: a folder without one is rubbish, however far the removal came.
            (folder / _LEASE).unlink(missing_ok=True)
            remove_tree(folder)
        except OSError as error:
            log.warning("spool.entry_kept", entry=folder.name, error=str(error))

    def _load(self) -> list[tuple[Entry, AttemptResult]]:
        found = []
        for folder in self._root.iterdir():
            entry = _read_entry(folder)
            if entry is None:
                log.warning("spool.entry_dropped", entry=folder.name, why="it holds no lease")
                remove_tree(folder)
                continue
            found.append((entry, _read_result(entry)))
            self._sizes[entry.attempt_id] = _size(folder)
        return sorted(found, key=lambda pair: pair[0].attempt_id)


def _read_entry(folder: Path) -> Entry | None:
    try:
        ref = AttemptRef.model_validate_json((folder / _LEASE).read_bytes())
    except (OSError, ValidationError):
        return None
    return Entry(ref, folder) if folder.name == str(ref.attempt_id) else None


def _read_result(entry: Entry) -> AttemptResult:
    try:
        return AttemptResult.model_validate_json((entry.folder / _RESULT).read_bytes())
    except (OSError, ValidationError):
        return entry.unfinished(
            Reason.WORKER_INTERRUPTED, "the worker was killed while the attempt ran"
        ).model_copy(update={"log_bytes": entry.log_size()})


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
