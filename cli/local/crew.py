"""The workers of `kennel up`: child processes, started again when they die, stopped in time.

A worker's life is starting processes, which uvloop does badly, so each is a process of its own on
the standard loop. A child hears of its parent's death by the end of its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from cli.exits import CommandError, Exit
from cli.local.tokens import is_used, leave_enrolment_token
from core.domain.ids import TokenId
from core.runtime.logs import get_logger
from core.runtime.settings import Settings, child_environment
from core.store.store import Store

log = get_logger(__name__)

#: A stopped worker may finish what it runs for this long, then hands it back.
HAND_BACK_S = 5.0
#: After that, until engines that were asked to end are killed.
SHUTDOWN_S = 1.0
#: A worker that is still there is killed: so long after a stop, and after an abort.
KILL_S, ABORT_KILL_S = 7.5, 2.5
#: Before a dead worker is started again; doubles, and is forgotten after a long life.
BACKOFF_S, BACKOFF_CAP_S, LONG_LIFE_S = 0.5, 30.0, 60.0
#: A worker has to register within this time at the start.
REGISTERED_WITHIN_S = 60.0
_POLL_S = 0.05
#: Exit statuses that another start would only repeat.
_HOPELESS = (Exit.CONFIGURATION, Exit.NOT_ENROLLED)


@dataclass(frozen=True, slots=True)
class Post:
    """What one worker is told at its start."""

    name: str
    slots: int
    state_dir: Path
    server_url: str

    @property
    def token_file(self) -> Path:
        """Where its enrolment token is left for it."""
        return self.state_dir.with_name(f"{self.state_dir.name}.enrolment")


def posts_for(
    settings: Settings, server_url: str, *, workers: int, slots: int | None
) -> list[Post]:
    """Return the posts of *workers* workers that share the slots of the machine."""
    each = slots or max(1, settings.worker.slots // workers)
    name = settings.worker.name
    return [
        Post(
            name=name if workers == 1 else f"{name[:60]}-{number}",
            slots=each,
            state_dir=settings.data_dir / f"worker-{number}",
            server_url=server_url,
        )
        for number in range(1, workers + 1)
    ]


class Crew:
    """All workers of one `kennel up`."""

    def __init__(
        self, settings: Settings, store: Store, posts: Sequence[Post], *, output: IO[str] | None
    ) -> None:
        self._children = [_Child(settings, store, post, output) for post in posts]

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [child.pid for child in self._children if child.pid is not None]

    async def run(self) -> None:
        """Keep all workers running until cancelled.

        Raises:
            CommandError: one cannot work, however often it is started.
        """
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.run(), name=f"kennel-{child.post.name}")

    async def ready(self) -> None:
        """Return once every worker has registered.

        Raises:
            CommandError: one does not.
        """
        try:
            async with asyncio.timeout(REGISTERED_WITHIN_S):
                for child in self._children:
                    while not await child.is_registered():  # noqa: ASYNC110 - the database tells
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise CommandError(
                f"the worker did not register within {REGISTERED_WITHIN_S:g} s", Exit.FAILED
            ) from None

    async def missing(self) -> str | None:
        """Return what `/readyz` says while no worker is there."""
        states = [await child.is_registered() for child in self._children]
        return None if any(states) else "no worker has registered yet"

    async def stop(self, abort: asyncio.Event) -> None:
        """Stop all: what runs is finished or handed back; at once when *abort* is set."""
        await asyncio.gather(*(child.stop(abort) for child in self._children))


class _Child:
    """One worker process."""

    def __init__(
        self, settings: Settings, store: Store, post: Post, output: IO[str] | None
    ) -> None:
        self.post = post
        self._settings = settings
        self._store = store
        self._output = output
        self._process: asyncio.subprocess.Process | None = None
        self._token_id: TokenId | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def is_registered(self) -> bool:
        if self.pid is None or self._token_id is None:
            return False
        has_registered = await is_used(self._store, self._token_id)
        if has_registered:
            self.post.token_file.unlink(missing_ok=True)
        return has_registered

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S
        while not self._stopping.is_set():
            started_at = loop.time()
            status = await self._live()
            if self._stopping.is_set():
                return
            if status == 0:
                # An operator drained it: it has done what it was told, and was not told to return.
                log.info("worker.left", worker=self.post.name)
                return
            if status in _HOPELESS:
                where = "" if self._output is None else f" in {self._output.name}"
                raise CommandError(
                    f"the worker {self.post.name} cannot work here; its last words{where} say why",
                    Exit(status),
                )
            if loop.time() - started_at > LONG_LIFE_S:
                backoff_s = BACKOFF_S
            log.warning("worker.died", worker=self.post.name, status=status, backoff_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_CAP_S)

    async def _live(self) -> int:
        """Start the process and return its exit status."""
        file = self.post.token_file
        try:
            self._token_id = await leave_enrolment_token(self._store, file, self.post.name)
            self._process = await asyncio.create_subprocess_exec(
                # -P: a folder named like one of our packages, where we were started, is not ours.
                *(sys.executable, "-P", "-m", "cli", "worker", "--with-parent"),
                *("--hand-back-within", f"{HAND_BACK_S:g}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                env=self._environment(),
                # Ctrl-C in a terminal goes to the group: workers leave when told.
                start_new_session=True,
            )
            log.info("worker.started", worker=self.post.name, pid=self._process.pid)
            return await self._process.wait()
        finally:
            file.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        settings, post = self._settings, self.post
        changes = {
            "KENNEL_API__HOST": settings.api.host,
            "KENNEL_ALLOW_LOCAL_REPOS": str(settings.allow_local_repos).lower(),
            "KENNEL_DATA_DIR": str(settings.data_dir),
            "KENNEL_LOG__LEVEL": settings.log.level,
            "KENNEL_WORKER__SERVER_URL": post.server_url,
            "KENNEL_WORKER__NAME": post.name,
            "KENNEL_WORKER__SLOTS": str(post.slots),
            "KENNEL_WORKER__STATE_DIR": str(post.state_dir),
            "KENNEL_WORKER__ENROLMENT_TOKEN_FILE": str(post.token_file),
        }
        if "shutdown_s" not in settings.worker.model_fields_set:
            changes["KENNEL_WORKER__SHUTDOWN_S"] = f"{SHUTDOWN_S:g}"
        return child_environment(changes)

    async def stop(self, abort: asyncio.Event) -> None:
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        _send(process, signal.SIGTERM)
        if await self._ended(process, KILL_S, unless=abort):
            return
        if abort.is_set():
            _send(process, signal.SIGTERM)
            if await self._ended(process, ABORT_KILL_S):
                return
        log.warning("worker.killed", worker=self.post.name, pid=process.pid)
        _send(process, signal.SIGKILL)
        await process.wait()

    async def _ended(
        self,
        process: asyncio.subprocess.Process,
        within_s: float,
        *,
        unless: asyncio.Event | None = None,
    ) -> bool:
        ending = asyncio.create_task(process.wait(), name="worker-ending")
        waits: set[asyncio.Task[int] | asyncio.Task[Literal[True]]] = {ending}
        if unless is not None:
            waits.add(asyncio.create_task(unless.wait(), name="worker-abort"))
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            return ending.done()
        finally:
            for one in waits:
                one.cancel()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
