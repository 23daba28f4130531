"""Which server a command talks to, and with which token.

First what the command line says, then `KENNEL_SERVER` and `KENNEL_TOKEN`, then the server that runs
on the data directory of this machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cli.client import Client, open_client
from cli.exits import CommandError, Exit
from cli.local.place import Card, Place
from cli.running import read_settings, run
from core.domain.errors import SettingError
from core.runtime.settings import Settings
from core.runtime.settingtypes import is_loopback

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Connection:
    """A server and what opens it."""

    server: str
    token: str

    @property
    def is_this_machine(self) -> bool:
        """Whether folders of this machine can mean the same there."""
        return is_loopback(urlsplit(self.server).hostname or "")


def named_server(settings: Settings) -> Connection | None:
    """Return the server that option or environment name; None: none is named."""
    server = settings.client.server
    if server is None:
        return None
    card = Place(settings.data_dir).card()
    return Connection(server, _token(settings, card if card and card.url == server else None))


def local_server(settings: Settings) -> Connection | None:
    """Return the server that runs on the data directory; None: none does."""
    card = Place(settings.data_dir).card()
    return None if card is None else Connection(card.url, _token(settings, card))


def find_server(settings: Settings) -> Connection:
    """Return the server to talk to.

    Raises:
        CommandError: there is none.
    """
    found = named_server(settings) or local_server(settings)
    if found is None:
        raise CommandError(
            "there is no server: start one with `kennel up`, or name one with --server or "
            "KENNEL_SERVER",
            Exit.UNREACHABLE,
        )
    return found


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Client]:
    """Open a client of the server to talk to."""
    found = find_server(settings)
    async with open_client(found.server, found.token) as client:
        yield client


def call(
    ask: Callable[[Client], Coroutine[Any, Any, Result]],
    server: str | None,
    token: str | None,
    data_dir: Path | None,
) -> Result:
    """Run *ask* with a client of the server to talk to: the body of most commands."""
    settings = read_settings(data_dir=data_dir, **client_settings(server, token))

    async def main() -> Result:
        async with connected(settings) as client:
            return await ask(client)

    return run(main())


def client_settings(server: str | None, token: str | None) -> dict[str, dict[str, str | None]]:
    """Return what the options --server and --token are as settings."""
    given = {"server": server, "token": token}
    return {"client": {name: value for name, value in given.items() if value is not None}}


def _token(settings: Settings, card: Card | None) -> str:
    token = settings.client.token
    if token is not None:
        return token.get_secret_value()
    found = card.token() if card is not None else None
    if found is None:
        raise SettingError("no token is given: set KENNEL_TOKEN (or KENNEL_TOKEN_FILE)")
    return found
