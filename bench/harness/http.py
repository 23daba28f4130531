"""A client as small as HTTP allows, so that the load generator is not what is measured.

One request at a time on a connection; answers with a length, as the api gives them.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Self, cast
from urllib.parse import urlsplit

import orjson

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ ]*(\d+)", re.IGNORECASE)
#: Longer than any held request.
_TIMEOUT_S = 90.0


class Connection(asyncio.Protocol):
    """One keep-alive connection to an api."""

    def __init__(self, url: str, authorization: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
        self._headers = f"Authorization: {authorization}\r\n".encode()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: bytes = b""
    ) -> tuple[int, bytes]:
        """Send a request; return status and body.

        Raises:
            OSError: the connection could not be made, or ended before the answer.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, *self._address)
        assert self._transport is not None
        self._answer = loop.create_future()
        length = b"Content-Length: %d\r\n\r\n" % len(body) if body else b"\r\n"
        self._transport.write(
            b"".join(
                (
                    method.encode(),
                    b" ",
                    path.encode(),
                    self._head,
                    self._headers,
                    headers,
                    length,
                    body,
                )
            )
        )
        async with asyncio.timeout(_TIMEOUT_S):
            return await self._answer

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Send JSON; return status and the answer's JSON."""
        status, raw = await self.request(
            "POST", path, orjson.dumps(body), b"Content-Type: application/json\r\n"
        )
        return status, orjson.loads(raw) if raw else None

    # -- the protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's classes, but do the same.
        self._transport = cast("asyncio.Transport", transport)
        self._received.clear()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(_HEAD_END)
        if head_end < 0:
            return
        head = bytes(self._received[:head_end])
        found = _LENGTH.search(head)
        end = head_end + len(_HEAD_END) + (int(found[1]) if found else 0)
        if len(self._received) < end:
            return
        body = bytes(self._received[head_end + len(_HEAD_END) : end])
        del self._received[:end]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the connection was closed"))
