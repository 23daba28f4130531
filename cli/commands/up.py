"""`kennel up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.exits import CommandError
from cli.options import DataDir
from cli.output import say

if TYPE_CHECKING:
    from cli.local.instance import Instance, Plan
    from core.runtime.settings import Settings


def up(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the api listens; port 0: a free one. Default: KENNEL_API__HOST and "
            "KENNEL_API__PORT, else 127.0.0.1:8000. On an address of this machine only, folders "
            "can be scanned too.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Worker processes.")] = 1,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="Attempts each worker runs at the same time. Default: the processors, shared.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start everything on this machine: database, api, scheduler, workers.

    PostgreSQL is Kennel's own unless KENNEL_DATABASE_URL names one. The first start makes an admin
    token and leaves it in a file only you can read; `kennel scan`, `kennel jobs` and the others
    find server and token by themselves.

    Ctrl-C (or SIGTERM) stops everything within 10 s: what runs is finished or handed back to the
    queue. A second Ctrl-C does not wait for it.
    """
    from cli.local.instance import Plan
    from cli.running import run

    run(_up(local_settings(data_dir, listen), Plan("up", workers, slots)), on_uvloop=True)


def local_settings(data_dir: Path | None, listen: str | None) -> Settings:
    """Return the settings of everything on one machine: its folders may be scanned there."""
    import sys

    from cli.running import read_settings
    from core.runtime.settingtypes import is_loopback

    address = (
        {} if listen is None else dict(zip(("host", "port"), parse_listen(listen), strict=True))
    )
    settings = read_settings(data_dir=data_dir, api=address)
    changes: dict[str, object] = {}
    if "allow_local_repos" not in settings.model_fields_set:
        changes["allow_local_repos"] = is_loopback(settings.api.host)
    if "level" not in settings.log.model_fields_set and sys.stderr.isatty():
        # On a terminal the lines of this command tell what there is to know.
        changes["log"] = settings.log.model_copy(update={"level": "warning"})
    return settings.model_copy(update=changes)


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[::1]:PORT` or `PORT`."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    # An IPv6 address ends where its brackets do; without them a part of it would be the port.
    is_unclear = bool({"[", "]"} & set(host)) or (":" in host and not is_bracketed)
    if is_unclear or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise CommandError(
            f"--listen must be HOST:PORT, like 127.0.0.1:8000 or [::1]:8000, got {text!r}"
        )
    return host if colon and host else "127.0.0.1", int(port)


async def _up(settings: Settings, plan: Plan) -> None:
    import asyncio

    from cli.local.instance import running
    from cli.local.stopping import until_stopped
    from core.runtime.signals import StopSignals

    async with StopSignals() as stop:

        async def serve() -> None:
            starting = f"starting on {settings.data_dir} …"
            async with running(
                settings, plan, abort=stop.abort, on_begin=lambda: say(starting)
            ) as instance:
                await instance.crew.ready()
                for line in introduction(settings, instance):
                    say(line)
                try:
                    # Until cancelled: by a signal, or by the end of a part that has to run.
                    await asyncio.get_running_loop().create_future()
                finally:
                    say("stopping: what runs is finished or handed back (Ctrl-C: at once) …")

        await until_stopped(serve(), stop)
        say("stopped")


def introduction(settings: Settings, instance: Instance) -> list[str]:
    """Return the lines that say what runs and how to use it."""
    card, crew = instance.card, instance.crew
    where = "KENNEL_DATABASE_URL" if settings.database_url else f"{settings.data_dir}/postgres"
    made = ", made by this start" if instance.is_first else ""
    folders = (
        ""
        if settings.allow_local_repos
        else " (a URL: folders only where just this machine can reach the api)"
    )
    return [
        f"  api        {card.url}  (reference: {card.url}/docs)",
        f"  database   {where}",
        f"  workers    {len(crew.pids)}, process {', '.join(map(str, crew.pids))}",
        f"  token      {card.token_file}{made}",
        "",
        f"  scan       kennel scan PATH_OR_URL{folders}",
        "  stop       Ctrl-C",
    ]
