"""The database of a command: the one that is named, else the data directory's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cli.local.place import Place
from core.runtime.settings import Settings


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """Lend the address of the named database, or of an embedded server that runs meanwhile.

    It leads past any pooler. The data directory is held by the caller.
    """
    if settings.direct_database_url is not None:
        yield settings.direct_database_url
        return
    from core.store.embedded import EmbeddedPostgres

    async with EmbeddedPostgres(settings.data_dir) as server:
        yield server.dsn


@asynccontextmanager
async def borrow_database(settings: Settings) -> AsyncIterator[str]:
    """As `open_database`, for a command beside no server: holds the data directory itself."""
    if settings.direct_database_url is not None:
        yield settings.direct_database_url
        return
    with Place(settings.data_dir).held():
        async with open_database(settings) as url:
            yield url
