"""What a setting may hold: types that refuse a wrong value with a sentence on what is accepted.

A sentence about a secret repeats no part of it.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr

KIB, MIB, GIB = 2**10, 2**20, 2**30
DAY_S = 86_400.0


def _database_url(value: SecretStr) -> SecretStr:
    # The URL holds a password: no part of it is repeated.
    try:
        url = urlsplit(value.get_secret_value())
        # Several hosts, of which any may be the primary, have commas between them.
        for host in url.netloc.rpartition("@")[2].split(","):
            urlsplit(f"//{host}").port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("must be a URL like postgresql://user:password@host:5432/name") from None
    if url.scheme not in ("postgresql", "postgres"):
        raise ValueError("must start with postgresql:// or postgres://")
    return value


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        url.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("must be a URL like https://host:8000") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must hold no user, password, query or fragment")
    return value.rstrip("/")


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("must be an IANA time zone like Asia/Shanghai or UTC") from None
    return value


def absolute(value: Path) -> Path:
    """Return *value* from the root, `~` resolved; ValueError when there is no such home."""
    try:
        return value.expanduser().absolute()
    except RuntimeError:
        raise ValueError("must be a path whose home folder exists") from None


def _key_material(value: SecretStr) -> SecretStr:
    keys = [key.strip() for key in value.get_secret_value().split(",")]
    if min(map(len, keys)) < 32:
        raise ValueError("must be one or more keys of at least 32 characters, comma between")
    return value


def _printable(value: SecretStr, *, least: int) -> SecretStr:
    text = value.get_secret_value()
    # What else would not survive a header.
    if not (least <= len(text) <= 200 and all("!" <= character <= "~" for character in text)):
        raise ValueError(f"must be {least} to 200 printable ASCII characters without spaces")
    return value


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
AbsolutePath = Annotated[Path, AfterValidator(absolute)]
KeyMaterial = Annotated[SecretStr, AfterValidator(_key_material)]
LongSecret = Annotated[SecretStr, AfterValidator(lambda value: _printable(value, least=32))]
Token = Annotated[SecretStr, AfterValidator(lambda value: _printable(value, least=8))]
Timezone = Annotated[str, AfterValidator(_timezone)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/@-]{0,63}$")]
Labels = Annotated[tuple[Label, ...], BeforeValidator(_comma_list), Field(max_length=50)]
Span = Annotated[float, Field(gt=0, le=30 * DAY_S)]
Size = Annotated[ByteSize, Field(ge=KIB, le=2**50)]


def is_loopback(host: str) -> bool:
    """Tell whether *host* can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
