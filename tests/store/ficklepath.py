"""A network that ends a connection in the middle of a statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit, urlunsplit


@dataclass(slots=True)
class FicklePath:
    """A way to the database on which the first statement of each kind is lost with its connection."""

    url: str
    #: What a statement says that is still to be lost.
    losing: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def fickle_path(database_url: str, *losing: str) -> AsyncIterator[FicklePath]:
    """Lend a path that ends the connection once for each of *losing*, when a statement says it."""
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query).get("host", [""])[0]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if folder:
            answers, server = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        else:
            answers, server = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        answering = asyncio.create_task(_pump(answers, writer))
        try:
            while content := await reader.read(65536):
                lost = [words for words in path.losing if words in content]
                if lost:
                    path.losing.remove(lost[0])
                    break
                server.write(content)
        finally:
            answering.cancel()
            for stream in (writer, server):
                stream.close()

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    url = urlunsplit(("postgresql", f"{login}@127.0.0.1:{port}", parts.path, "", ""))
    path = FicklePath(url, [words.encode() for words in losing])
    try:
        yield path
    finally:
        listener.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while content := await source.read(65536):
        sink.write(content)
