"""Who a worker is, kept on its disk: one private folder, held by one daemon at a time.

Owns the instance key (with it a worker that registers again gets its old identity back), the
registration of the last run with its token, and the lock that keeps a second daemon out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core.domain.errors import SettingError
from core.protocol.messages import RegisterResponse
from core.runtime.logs import get_logger
from worker.durable import make_private, write_durably
from worker.tree import remove_tree

log = get_logger(__name__)

_LARGEST_FILE = 64 * 1024
_SHORTEST_KEY = 32


class _Credentials(BaseModel):
    """What is kept of a registration. Bound to its server: no other one is shown the token."""

    model_config = ConfigDict(frozen=True)

    server_url: str
    registration: RegisterResponse


@dataclass(frozen=True, slots=True)
class StateDir:
    """The folder of one worker. Made by `hold_state_dir` only."""

    root: Path

    @property
    def mirrors(self) -> Path:
        """Bare clones, kept."""
        return self.root / "mirrors"

    @property
    def spool(self) -> Path:
        """Results that no server has accepted yet, kept."""
        return self.root / "spool"

    @property
    def private(self) -> Path:
        """Files with credentials while a git runs, emptied at the start."""
        return self.root / "private"

    @property
    def scratch(self) -> Path:
        """Work trees and outputs of running attempts, emptied at the start."""
        return self.root / "scratch"

    def instance_key(self) -> str:
        """Return this worker's key; made at the first call."""
        path = self.root / "instance_key"
        key = (_read(path) or b"").decode("ascii", "replace").strip()
        if len(key) < _SHORTEST_KEY or not key.isascii():
            key = secrets.token_urlsafe(32)
            write_durably(path, key.encode() + b"\n")
        return key

    def load_registration(self, server_url: str) -> RegisterResponse | None:
        """Return the last registration with this server, None when there is none to use."""
        content = _read(self.root / "registration.json")
        if content is None:
            return None
        try:
            kept = _Credentials.model_validate_json(content)
        except ValidationError:
            # Its text would quote the token.
            log.warning("registration.dropped", why="its file cannot be read")
            return None
        return kept.registration if kept.server_url == server_url else None

    def save_registration(self, server_url: str, registration: RegisterResponse) -> None:
        """Keep a registration for the next start. Blocks until it is on disk."""
        kept = _Credentials(server_url=server_url, registration=registration)
        write_durably(self.root / "registration.json", kept.model_dump_json().encode())


@contextmanager
def hold_state_dir(root: Path) -> Iterator[StateDir]:
    """Make the folder, lock it for the block, and empty what a killed daemon left in scratch.

    Raises:
        SettingError: another daemon holds it, or it cannot be written.
    """
    try:
        make_private(root)
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingError(
            f"KENNEL_WORKER__STATE_DIR: cannot use {root}: {error.strerror}"
        ) from error
    try:
        _lock(descriptor, root)
        state = StateDir(root)
        for folder in (state.scratch, state.private):
            remove_tree(folder)
        for folder in (state.mirrors, state.spool, state.scratch, state.private):
            make_private(folder)
        yield state
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        raise SettingError(
            f"KENNEL_WORKER__STATE_DIR: {root} is in use by another worker"
            f"{f' (process {holder})' if holder else ''}; give each worker its own"
        ) from None
    # Whose it is, for people only: a full disk must not keep the holder out.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(_LARGEST_FILE)
    return None
