"""The form of tokens: a prefix that says what it is for, 32 random bytes, a checksum.

The prefix lets secret scanners find a leaked token, the checksum lets a mistyped one be refused
without asking the database. Only `hash_token` of a token is ever stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib
from enum import StrEnum

#: A token set by hand (the bootstrap token) has no form of ours, only a length.
LEAST_LENGTH = 32
MOST_LENGTH = 512

_RANDOM_BYTES = 32
_CHECKSUM_BYTES = 4
_BODY_LENGTH = (_RANDOM_BYTES + _CHECKSUM_BYTES) * 4 // 3


class TokenKind(StrEnum):
    """What a token is for; the value is its prefix."""

    USER = "knu_"
    ENROLMENT = "kne_"
    WORKER = "knw_"


_KINDS = {kind.value: kind for kind in TokenKind}
_PREFIX_LENGTH = 4


def make_token(kind: TokenKind) -> str:
    """Return a new token; never the same twice."""
    random = secrets.token_bytes(_RANDOM_BYTES)
    body = base64.urlsafe_b64encode(random + _checksum(kind, random))
    return kind.value + body.decode()


def derive_token(kind: TokenKind, key: str, about: str) -> str:
    """Return the token for *about* that only who has *key* can know; the same each time."""
    secret = hmac.digest(key.encode(), about.encode(), "sha256")
    body = base64.urlsafe_b64encode(secret + _checksum(kind, secret))
    return kind.value + body.decode()


def hash_token(token: str) -> bytes:
    """Return what is stored of *token*: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()


def kind_of(token: str) -> TokenKind | None:
    """Return what *token* claims to be; None without one of our prefixes."""
    return _KINDS.get(token[:_PREFIX_LENGTH])


def is_well_formed(token: str) -> bool:
    """Tell whether *token* can be one: ours with a true checksum, or any of 32 characters."""
    if not (LEAST_LENGTH <= len(token) <= MOST_LENGTH and _is_printable(token)):
        return False
    kind = kind_of(token)
    return kind is None or _is_ours(kind, token.removeprefix(kind.value))


def _is_ours(kind: TokenKind, body: str) -> bool:
    if len(body) != _BODY_LENGTH:
        return False
    try:
        content = base64.b64decode(body, altchars=b"-_", validate=True)
    except ValueError:
        return False
    random, checksum = content[:_RANDOM_BYTES], content[_RANDOM_BYTES:]
    return checksum == _checksum(kind, random)


def _checksum(kind: TokenKind, random: bytes) -> bytes:
    return zlib.crc32(kind.value.encode() + random).to_bytes(_CHECKSUM_BYTES, "big")


def _is_printable(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token
