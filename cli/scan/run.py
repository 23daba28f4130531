"""One `kennel scan` from its order to its exit status: where, on which server, followed to the end.

A first Ctrl-C cancels the job and waits until it is closed; a second leaves. A server that was
started for the run ends with it, and takes an overdue job along: nobody would go on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.client import Client, open_client
from cli.connection import Connection, local_server, named_server
from cli.exits import CommandError, Exit
from cli.local.place import Place, PlaceTaken
from cli.output import note, print_json
from cli.registration import Wanted, ensure_project
from cli.running import be_quiet, read_settings
from cli.scan.display import open_display
from cli.scan.following import Follower, JobRef, Overdue, start_scan
from cli.scan.summary import summarise
from cli.scan.target import Target, find_target
from cli.text import printable
from core.runtime.settings import Settings
from core.runtime.signals import StopSignals

#: Until a job that was told to end is closed, seconds.
_CANCELLED_WITHIN_S = 10.0
#: Another scan without a server holds the data directory; it is asked again this often, seconds.
_PLACE_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    where: str
    branch: str | None
    revision: str | None
    is_full: bool
    is_forced: bool
    engines: Sequence[str]
    org: str
    team: str
    timeout_s: float | None
    most_findings: int
    as_json: bool
    is_quiet: bool


async def scan_to_the_end(order: Order, client: Mapping[str, Any], data_dir: Path | None) -> Exit:
    """Scan; return the exit status."""
    settings = read_settings(data_dir=data_dir, **client)
    be_quiet(settings)
    async with StopSignals() as stop:
        run = _Run(order, settings, stop)
        work = asyncio.create_task(run.work(), name="kennel-scan")
        guard = asyncio.create_task(run.guard(work), name="kennel-guard")
        try:
            return await work
        except asyncio.CancelledError:
            raise CommandError("interrupted", Exit.INTERRUPTED) from None
        finally:
            guard.cancel()


class _Run:
    def __init__(self, order: Order, settings: Settings, stop: StopSignals) -> None:
        self._order = order
        self._settings = settings
        self._stop = stop
        self._follower: Follower | None = None

    async def guard(self, work: asyncio.Task[Exit]) -> None:
        """Turn signals into what they mean: cancel the job, then leave."""
        await self._stop.drain.wait()
        if self._follower is None:
            work.cancel()
            return
        note("cancelling the job (Ctrl-C again: leave without waiting) …")
        with contextlib.suppress(CommandError):
            await self._follower.cancel("interrupted at the command line")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCELLED_WITHIN_S):
                await self._stop.abort.wait()
        work.cancel()

    async def work(self) -> Exit:
        order = self._order
        target = await find_target(order.where, branch=order.branch, revision=order.revision)
        if target.is_dirty:
            note("not committed changes are not scanned: the last commit is")
        async with self._server() as (connection, is_ours):
            _check_reach(target, connection)
            async with open_client(connection.server, connection.token) as client:
                return await self._scan(client, target, is_ours=is_ours)

    async def _scan(self, client: Client, target: Target, *, is_ours: bool) -> Exit:
        order = self._order
        wanted = Wanted(
            org=order.org,
            team=order.team,
            scm_url=target.url,
            branch=target.branch,
            scan_path=target.scan_path,
            engines=order.engines,
        )
        project = await ensure_project(client, wanted)
        job = await start_scan(
            client,
            project,
            is_full=order.is_full,
            is_forced=order.is_forced,
            revision=target.revision,
        )
        if not order.is_quiet:
            note(f"job {job.job_id} of project {project} on {printable(client.server)}")
        self._follower = Follower(client, job)
        try:
            detail = await self._follow(self._follower)
        except Overdue:
            if is_ours:
                await self._end_overdue(self._follower)
            raise
        return await self._sum_up(client, job, detail, is_ours=is_ours)

    async def _follow(self, follower: Follower) -> dict[str, Any]:
        last: dict[str, Any] = {}
        with open_display(is_quiet=self._order.is_quiet) as display:
            async for detail in follower.details(timeout_s=self._order.timeout_s):
                display.show(detail)
                last = detail
        return last

    async def _sum_up(
        self, client: Client, job: JobRef, detail: dict[str, Any], *, is_ours: bool
    ) -> Exit:
        order = self._order
        summary = await summarise(
            client, job, detail, most_findings=order.most_findings, server_stays=not is_ours
        )
        if order.as_json:
            print_json(summary.document())
        else:
            summary.print()
        return summary.exit

    async def _end_overdue(self, follower: Follower) -> None:
        """Close a job nobody would go on with."""
        assert self._order.timeout_s is not None
        await follower.cancel(f"not closed within --timeout {self._order.timeout_s:g}")
        await follower.end(timeout_s=_CANCELLED_WITHIN_S)
        raise CommandError(
            f"job {follower.job.job_id} is not closed after {self._order.timeout_s:g} s; it was "
            "cancelled, since the server was started for it alone",
            Exit.TIMEOUT,
        )

    # --- which server --------------------------------------------------------------------------

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[tuple[Connection, bool]]:
        """Lend the server to use, and whether it is ours: started for this run."""
        named = named_server(self._settings)
        if named is not None:
            yield named, False
            return
        place = Place(self._settings.data_dir)
        found = await self._free_or_up(place)
        if found is not None:
            yield found, False
            return
        async with self._own_server() as connection:
            yield connection, True

    @asynccontextmanager
    async def _own_server(self) -> AsyncIterator[Connection]:
        from cli.local.instance import Plan, running

        settings = _alone(self._settings)
        plan = Plan("scan", log_file=settings.data_dir / "scan.log")

        def begin() -> None:
            if not self._order.is_quiet:
                note(f"starting a server for this run on {settings.data_dir}")

        async with running(settings, plan, abort=self._stop.abort, on_begin=begin) as instance:
            token = instance.card.token()
            assert token is not None, "just made"
            yield Connection(instance.card.url, token)

    async def _free_or_up(self, place: Place) -> Connection | None:
        """Return the server of `kennel up`; None once the data directory is free.

        A server that another scan has started ends with that scan: it is waited for, not used.
        """
        loop = asyncio.get_running_loop()
        end = None if self._order.timeout_s is None else loop.time() + self._order.timeout_s
        has_told = False
        while True:
            card = place.card()
            if card is not None and card.kind == "up":
                return local_server(self._settings)
            try:
                with place.held():
                    return None
            except PlaceTaken as taken:
                if end is not None and loop.time() > end:
                    raise CommandError(str(taken), Exit.TIMEOUT) from None
                if not has_told:
                    note(f"waiting: process {taken.pid} uses {place.data_dir}")
                    has_told = True
            await asyncio.sleep(_PLACE_POLL_S)


def _alone(settings: Settings) -> Settings:
    """Return the settings of a server for one run: a free port that this machine alone reaches."""
    changes: dict[str, object] = {
        "api": settings.api.model_copy(update={"host": "127.0.0.1", "port": 0}),
        "allow_local_repos": True,
    }
    return settings.model_copy(update=changes)


def _check_reach(target: Target, connection: Connection) -> None:
    if target.is_local and not connection.is_this_machine:
        raise CommandError(
            f"{printable(connection.server)} cannot read folders of this machine: give the URL of "
            "the repository, or leave --server and KENNEL_SERVER away",
        )
