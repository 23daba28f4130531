"""Logs and artifacts of attempts, in chunks, bounded: any api process writes, anybody reads.

Owns the tables `blobs` and `artifacts`. Writing needs the lease of a running attempt, checked
in the statement that writes: what a superseded worker still sends changes nothing. An object
store can take this module's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import IO

from core.domain.ids import AttemptId, TaskId, WorkerId
from core.store.queries import query
from core.store.store import Store

_APPEND_LOG = query("blobs/append_log")
_SIZE = query("blobs/size")
_READ = query("blobs/read")
_HOLD_LEASE = query("blobs/hold_lease")
_PLACE_ARTIFACT = query("blobs/place_artifact")
_CLEAR = query("blobs/clear")
_NOTE_ARTIFACT = query("blobs/note_artifact")
_ARTIFACTS = query("blobs/artifacts")

LOG = "log"

#: Size of the chunks an artifact is cut into, and of what one read brings, bytes.
CHUNK_BYTES = 256 * 1024
READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Lease:
    """Who says that it holds an attempt, and the proof."""

    attempt_id: AttemptId
    token_hash: bytes
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a chunk of log. `size`: bytes the log has now, where the next belongs."""

    is_written: bool
    size: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file a worker left."""

    name: str
    size_bytes: int
    sha256: bytes


class Placed(Enum):
    """What became of an artifact."""

    PLACED = "placed"
    LEASE_LOST = "lease_lost"
    TOO_MANY = "too_many"


def artifact_blob(name: str) -> str:
    """Return the name of the blob an artifact's content is in."""
    return f"artifact:{name}"


async def append_log(
    store: Store, lease: Lease, *, offset: int, content: bytes, cap: int
) -> Appended | None:
    """Add *content* to an attempt's log if it ends at *offset*; None: the lease is lost.

    Nothing is written where the log ends elsewhere or would grow beyond *cap*.
    """
    row = await store.db.fetchrow(
        _APPEND_LOG, lease.attempt_id, lease.token_hash, lease.worker_id, offset, content, cap
    )
    return None if row is None else Appended(row["is_written"], row["size"])


async def size(store: Store, task_id: TaskId, attempt_id: AttemptId, name: str) -> int | None:
    """Return how many bytes a blob has; None when there is none."""
    found: int | None = await store.db.fetchval(_SIZE, task_id, attempt_id, name)
    return found


async def read(
    store: Store, task_id: TaskId, attempt_id: AttemptId, name: str, *, start: int, end: int
) -> AsyncIterator[bytes]:
    """Yield the bytes from *start* up to, without, *end*, in memory that does not grow with them.

    Holds no connection between two pieces, so that a slow reader costs none.
    """
    while start < end:
        rows = await store.db.fetch(_READ, task_id, attempt_id, name, start, READ_BYTES)
        begun_at = start
        for row in rows:
            if start >= end:
                return
            piece = row["content"][start - row["position"] : end - row["position"]]
            if piece:
                yield piece
                start += len(piece)
        if start == begun_at:
            return  # it ends earlier than the caller believed


async def place_artifact(
    store: Store, lease: Lease, artifact: Artifact, content: IO[bytes], *, at_most: int
) -> Placed:
    """Store an artifact of a running attempt, in the place of an earlier one of that name.

    *content* is read from its present position; *at_most*: artifacts an attempt may have.
    """
    blob = artifact_blob(artifact.name)
    async with store.db.transaction() as connection:
        task_id = await connection.fetchval(
            _HOLD_LEASE, lease.attempt_id, lease.token_hash, lease.worker_id
        )
        if task_id is None:
            return Placed.LEASE_LOST
        is_placed = await connection.fetchval(
            _PLACE_ARTIFACT,
            task_id,
            lease.attempt_id,
            artifact.name,
            artifact.size_bytes,
            artifact.sha256,
            at_most,
        )
        if is_placed is None:
            return Placed.TOO_MANY
        await connection.execute(_CLEAR, task_id, lease.attempt_id, blob)
        await connection.raw.copy_records_to_table(
            "blobs",
            columns=["task_id", "attempt_id", "name", "position", "content"],
            records=_rows((task_id, lease.attempt_id, blob), content),
        )
        await connection.execute(
            _NOTE_ARTIFACT,
            lease.attempt_id,
            artifact.name,
            artifact.size_bytes,
            artifact.sha256.hex(),
        )
    return Placed.PLACED


async def artifacts_of(store: Store, task_id: TaskId, attempt_id: AttemptId) -> list[Artifact]:
    """Return the artifacts an attempt has."""
    rows = await store.db.fetch(_ARTIFACTS, task_id, attempt_id)
    return [Artifact(row["name"], row["size_bytes"], row["sha256"]) for row in rows]


async def _rows(
    key: tuple[TaskId, AttemptId, str], content: IO[bytes]
) -> AsyncIterator[tuple[object, ...]]:
    position = 0
    while chunk := await asyncio.to_thread(content.read, CHUNK_BYTES):
        yield *key, position, chunk
        position += len(chunk)
