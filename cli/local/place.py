"""The data directory of this machine's server: its lock, and the card that says where it listens.

    <data directory>/server.lock   held while a server runs; names its process
    <data directory>/server.json   0600: url, pid, token file; for the commands on this machine
    <data directory>/token         0600: the user token those commands show

One server a data directory. The lock ends with its process, however that ends; the card may
outlive it and is believed only while the lock is held by the process it names.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cli.exits import CommandError, Exit
from core.domain.errors import SettingError
from core.runtime.secretfiles import read_secret

Kind = Literal["up", "scan"]


@dataclass(frozen=True, slots=True)
class Card:
    """Where a server of this machine listens."""

    url: str
    pid: int
    token_file: str
    #: `scan`: it ends with the scan it was started for.
    kind: Kind

    def token(self) -> str | None:
        """Return the token that opens it, if there is one to read."""
        try:
            return read_secret(Path(self.token_file), named_by="the local server's token")
        except SettingError:
            return None


class PlaceTaken(CommandError):
    """Another server runs on the data directory."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{who} runs a server on {data_dir}: use that one, stop it, or choose another "
            "folder with --data-dir",
            Exit.USAGE,
        )
        self.pid = pid


class Place:
    """One data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.token_file = data_dir / "token"
        self._lock_file = data_dir / "server.lock"
        self._card_file = data_dir / "server.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the data directory, made where it is missing.

        Raises:
            PlaceTaken: another process does.
        """
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock_file.open("a+", encoding="ascii")
        except OSError as error:
            raise CommandError(
                f"the data directory {self.data_dir} cannot be used: {error.strerror}",
                Exit.CONFIGURATION,
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PlaceTaken(self.data_dir, _pid_in(self._lock_file)) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                self._card_file.unlink(missing_ok=True)

    @contextmanager
    def announced(self, card: Card) -> Iterator[None]:
        """Leave *card* for the commands of this machine; the place is held."""
        write_private(self._card_file, json.dumps(asdict(card), indent=2) + "\n")
        try:
            yield
        finally:
            self._card_file.unlink(missing_ok=True)

    def card(self) -> Card | None:
        """Return the card of the server that runs now, if one does."""
        try:
            card = Card(**json.loads(self._card_file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return card if card.pid == _pid_in(self._lock_file) and _is_alive(card.pid) else None


def write_private(file: Path, text: str) -> None:
    """Write *text* to a file only its owner can read; it is never there in part."""
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)


def _pid_in(file: Path) -> int | None:
    try:
        text = file.read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
