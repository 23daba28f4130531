"""Sealing of repository credentials: what the database stores cannot be read without the key.

Owns the key as well: from `KENNEL_SECRET_KEY`, else a file in the data directory that the first
process to need it makes. Processes that do not share that directory need the setting.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.domain.errors import SettingError
from core.runtime.secretfiles import read_secret
from core.runtime.settings import Settings

KEY_FILE = "secret.key"

#: Part of the derivation: other uses of the same key get other keys.
_PURPOSE = b"kennel scm_auth 1"


class Sealer:
    """Seals with the first key, unseals with any: a new key is put in front of the old one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(_derive(key)) for key in keys])

    def seal(self, text: str) -> bytes:
        """Return *text* encrypted and authenticated; never twice the same."""
        return self._fernet.encrypt(text.encode())

    def unseal(self, sealed: bytes) -> str:
        """Return what was sealed.

        Raises:
            SettingError: sealed with a key that is not among ours, or changed since.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise SettingError(
                "KENNEL_SECRET_KEY: none of the keys opens the stored repository credentials; "
                "put the key they were sealed with behind the present one"
            ) from None


def open_sealer(settings: Settings) -> Sealer:
    """Return the sealer of this installation; makes its key file where no key is set."""
    if settings.secret_key is not None:
        keys = settings.secret_key.get_secret_value().split(",")
        return Sealer([key.strip() for key in keys])
    return Sealer([_key_of(settings.data_dir)])


def make_key() -> str:
    """Return a new random key, fit for `KENNEL_SECRET_KEY`."""
    return secrets.token_urlsafe(32)


def _derive(key: str) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key.encode())
    return base64.urlsafe_b64encode(derived)


def _key_of(data_dir: Path) -> str:
    path = data_dir / KEY_FILE
    if not path.exists():
        try:
            _place_key(path)
        except OSError as error:
            raise SettingError(
                f"KENNEL_DATA_DIR: cannot make {path}: {error.strerror}; "
                "make the folder writable or set KENNEL_SECRET_KEY"
            ) from None
    return read_secret(path, named_by="KENNEL_SECRET_KEY")


def _place_key(path: Path) -> None:
    """Make the key file whole or not at all; of two processes at once, one wins for both."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(make_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, not a rename: it never replaces the key another process has begun to use.
            path.hardlink_to(draft)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        draft.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
