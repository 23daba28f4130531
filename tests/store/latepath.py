"""A network that brings the end of a connection later than the words before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class LatePath:
    """A way to the database on which the server's last words arrive before the end does."""

    url: str
    #: A connection has ended at the server's side.
    has_ended: asyncio.Event
    #: Let the client see it.
    may_end: asyncio.Event


@asynccontextmanager
async def late_path(database_url: str) -> AsyncIterator[LatePath]:
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    has_ended, may_end = asyncio.Event(), asyncio.Event()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while content := await source.read(65536):
            sink.write(content)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if folder:
            answers, server = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        else:
            answers, server = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        asking = asyncio.create_task(pump(reader, server))
        await pump(answers, writer)
        has_ended.set()
        await may_end.wait()
        asking.cancel()
        for stream in (writer, server):
            stream.close()

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        port = listener.sockets[0].getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        url = urlunsplit(("postgresql", f"{login}@127.0.0.1:{port}", parts.path, "", ""))
        yield LatePath(url, has_ended, may_end)
    finally:
        may_end.set()
        listener.close()
