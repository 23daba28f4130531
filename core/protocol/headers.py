"""The headers of the two calls whose body is bytes: where a log stands, what an artifact is.

Log: the request says `Content-Range: bytes <first>-<last>/*`; the answer, 202 or 416, says
`Range: bytes=0-<last>` for what the server has, and has no `Range` when it has nothing.
Artifact: `Content-Digest: sha-256=:<base64>:` (RFC 9530) and a `Content-Length`.
"""

from __future__ import annotations

import base64
import binascii
import re

CONTENT_RANGE = "Content-Range"
RANGE = "Range"
CONTENT_DIGEST = "Content-Digest"

# 16 digits hold every offset of a bounded log and keep int() cheap.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/\*", re.ASCII)
_RANGE = re.compile(r"bytes=0-(\d{1,16})", re.ASCII)
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):", re.ASCII)


def content_range(offset: int, length: int) -> str:
    """Return the header of *length* (at least 1) bytes that begin at *offset*."""
    return f"bytes {offset}-{offset + length - 1}/*"


def parse_content_range(value: str) -> tuple[int, int] | None:
    """Return (offset, length), None when *value* is no such header."""
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    return (first, last - first + 1) if first <= last else None


def stored_range(size: int) -> str | None:
    """Return the header that says *size* bytes are there; None: leave it out."""
    return f"bytes=0-{size - 1}" if size else None


def parse_stored_range(value: str | None) -> int | None:
    """Return how many bytes are there, 0 without the header, None when *value* is no such one."""
    if value is None:
        return 0
    match = _RANGE.fullmatch(value)
    return int(match[1]) + 1 if match else None


def content_digest(sha256: bytes) -> str:
    """Return the header of content whose SHA-256 is *sha256*."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_content_digest(value: str) -> bytes | None:
    """Return the SHA-256 that *value* announces, None when it announces none."""
    match = _DIGEST.fullmatch(value.strip())
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
