"""The HTTP API as the command line calls it: paths in, data out, refusals as one sentence.

Owns the token on the wire, time-outs, and what a status means for the exit status. Bodies are
bounded; nothing is followed to another host.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import quote

import aiohttp

from cli.exits import CommandError, Exit
from cli.text import printable

Query: TypeAlias = Mapping[str, str | int | None]

#: Longest wait for one answer; none of the calls made here is held by the server.
ANSWER_S = 30.0
CONNECT_S = 5.0
#: Largest JSON answer read.
MOST_BYTES = 64 << 20
#: A page of a list that is read to its end.
PAGE = 200
_PIECE = 1 << 16


class ServerUnreachable(CommandError):
    """No answer from the server."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"no answer from {printable(server)}: {printable(why)}", Exit.UNREACHABLE)


class CallRefused(CommandError):
    """The server answered with a refusal."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        message = printable(body.get("msg") or f"status {status}", longest=2000)
        if status >= 500:
            message = f"the server cannot answer now ({status}): {message}"
        super().__init__(message, Exit.UNREACHABLE if status >= 500 else Exit.REFUSED)
        self.status = status
        #: Id of what stands in the way, where a create was refused because it exists.
        self.existing_id: int | str | None = body.get("existing_id")


def path(*parts: str | int) -> str:
    """Return a path made of *parts*, each quoted, with slashes around."""
    return "/" + "".join(f"{quote(str(part), safe='')}/" for part in parts)


class Client:
    """Calls one server with one token."""

    def __init__(self, session: aiohttp.ClientSession, server: str, token: str | None) -> None:
        self._session = session
        self.server = server
        self._headers = {"Authorization": f"Token {token}"} if token else {}

    async def get(self, where: str, query: Query | None = None) -> Any:
        """Return the data of a GET, out of its envelope."""
        return await self._call("GET", where, query=query)

    async def post(self, where: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the data of a POST, out of its envelope where it has one."""
        return await self._call("POST", where, body=body or {})

    async def put(self, where: str, body: Mapping[str, Any]) -> Any:
        """Return the data of a PUT, out of its envelope."""
        return await self._call("PUT", where, body=body)

    async def delete(self, where: str) -> Any:
        """Return the data of a DELETE, out of its envelope where it has one."""
        return await self._call("DELETE", where)

    async def listed(
        self, where: str, query: Query | None = None, *, most: int = 10_000
    ) -> list[Any]:
        """Return a list, page after page, up to *most* entries."""
        found: list[Any] = []
        while True:
            window = {"limit": min(PAGE, most - len(found)), "offset": len(found)}
            data = await self.get(where, {**(query or {}), **window})
            found += data["results"]
            if not data["results"] or len(found) >= min(data["count"], most):
                return found

    async def content(
        self, where: str, *, first_byte: int = 0, most_bytes: int = MOST_BYTES
    ) -> bytes | None:
        """Return bytes as they are (a result, a log) from *first_byte* on; None: none there."""
        headers = {"Range": f"bytes={first_byte}-"} if first_byte else {}
        async with self._request("GET", where, headers=headers) as response:
            if response.status in (404, 416):
                return None
            if response.status >= 400:
                raise await _refusal(response)
            content = await _bounded(response, most_bytes)
        # A server may answer a range with the whole.
        return content[first_byte:] if first_byte and response.status == 200 else content

    async def _call(
        self, method: str, where: str, *, query: Query | None = None, body: Any = None
    ) -> Any:
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        async with self._request(method, where, params=params, json=body) as response:
            if response.status >= 400:
                raise await _refusal(response)
            content = await _bounded(response, MOST_BYTES)
        if not content:
            return None
        answer = _decoded(content, self.server)
        return answer["data"] if {"data", "status_code"} <= answer.keys() else answer

    @asynccontextmanager
    async def _request(
        self, method: str, where: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {**self._headers, **options.pop("headers", {})}
        try:
            async with self._session.request(
                method, self.server + where, headers=headers, allow_redirects=False, **options
            ) as response:
                yield response
        except TimeoutError:
            raise ServerUnreachable(self.server, f"nothing within {ANSWER_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnreachable(self.server, _why(error)) from None


@asynccontextmanager
async def open_client(server: str, token: str | None) -> AsyncIterator[Client]:
    """Open a client of *server*."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S, connect=CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Client(session, server, token)
    # aiohttp closes sockets on the next turns of the loop.
    await asyncio.sleep(0)


def _why(error: aiohttp.ClientError | OSError) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return str(error) or type(error).__name__


async def _bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        content += piece
        if len(content) > most_bytes:
            raise CommandError(
                f"the server's answer is larger than {most_bytes} bytes", Exit.REFUSED
            )
    return bytes(content)


async def _refusal(response: aiohttp.ClientResponse) -> CallRefused:
    content = await _bounded(response, 1 << 20)
    try:
        body = json.loads(content)
    except ValueError:
        body = {}
    return CallRefused(response.status, body if isinstance(body, dict) else {})


def _decoded(content: bytes, server: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"{printable(server)} is no Kennel server", Exit.UNREACHABLE)
    return answer
