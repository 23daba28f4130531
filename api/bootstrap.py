"""The first admin token: set by the operator, or made at the first start and left for them.

A made one is shown on a terminal, and nowhere else; without a terminal it is left in a file that
only the service's user can read. Its text is in no log.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from core.domain.errors import SettingError
from core.domain.tokens import TokenKind, hash_token, is_well_formed, make_token
from core.runtime.logs import get_logger
from core.runtime.settings import Settings
from core.store import tokens
from core.store.store import Store

log = get_logger(__name__)

FILE = "bootstrap-token"
OWNER = "admin"


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """What was made: nothing, a shown token, or a file with one."""

    token: str | None = None
    file: Path | None = None


async def ensure_bootstrap_token(
    settings: Settings, store: Store, *, terminal: TextIO | None = None
) -> Bootstrapped:
    """See to it that somebody can administer; the same at each start, and for all processes.

    `KENNEL_BOOTSTRAP_TOKEN` is an admin's (unless it was revoked). Without it, and with no good
    token of an admin of all organisations, one is made, by one process.

    Raises:
        SettingError: the token set cannot be one, or the file cannot be written.
    """
    if settings.bootstrap_token is not None:
        await _place(settings.bootstrap_token.get_secret_value(), store)
        return Bootstrapped()
    terminal = terminal or sys.stderr
    file = None if terminal.isatty() else settings.data_dir / FILE
    token = make_token(TokenKind.USER)

    def keep() -> None:
        if file is not None:
            _leave(file, token)
        else:
            terminal.write(f"\nThe first admin token, shown this once:\n\n  {token}\n\n")
            terminal.flush()

    if not await tokens.make_first(store, OWNER, hash_token(token), keep):
        return Bootstrapped()
    log.info("bootstrap.token_made", file=str(file) if file is not None else None)
    return Bootstrapped(token, file)


async def _place(token: str, store: Store) -> None:
    if not is_well_formed(token):
        raise SettingError(
            "KENNEL_BOOTSTRAP_TOKEN: must be 32 to 512 visible ASCII characters; "
            "one that starts with knu_, kne_ or knw_ must be a user token of Kennel's, unchanged"
        )
    if await tokens.place_bootstrap(store, OWNER, hash_token(token)):
        log.info("bootstrap.token_placed")


def _leave(file: Path, token: str) -> None:
    """Write the token to a new file of mode 0600; one of an earlier database makes room."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(file, flags, 0o600), "w") as opened:
            opened.write(f"{token}\n")
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise SettingError(
            f"KENNEL_DATA_DIR: cannot leave the first admin token in {file}: {error.strerror}; "
            "make the folder writable or set KENNEL_BOOTSTRAP_TOKEN"
        ) from None
