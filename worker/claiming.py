"""Ask for work while slots are free, and begin what is offered.

One claim at a time is open; a claim whose answer got lost is sent again as it was until it is
answered, so nothing offered is overlooked. Nothing runs before its start is confirmed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from core.domain.outcomes import Reason
from core.protocol.messages import AttemptRef, TaskSpec
from core.runtime.logs import get_logger
from worker.attempt import Attempt
from worker.client import CallRefused, ServerUnavailable, Unauthorized
from worker.heartbeat import Heartbeat
from worker.roster import Roster
from worker.spool import Entry
from worker.tools import Tools

log = get_logger(__name__)


class Claimer:
    """Claims and starts attempts. A loop's body (`tick`) and the owner of what it started."""

    name = "claimer"

    def __init__(self, tools: Tools, roster: Roster, heartbeat: Heartbeat) -> None:
        self.is_paused = False
        self._tools = tools
        self._roster = roster
        self._heartbeat = heartbeat
        #: The claim that is not answered yet: its id and slots.
        self._open: tuple[str, int] | None = None
        self._failures = 0
        self._is_closed = False
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own what was started, until cancelled; then nothing of it runs."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    def close(self) -> None:
        """Begin nothing more, not even what is being offered right now."""
        self._is_closed = True

    def forget(self) -> None:
        """Drop the open claim: it was made under an identity that is gone."""
        self._open = None

    async def tick(self) -> int:
        """Hold one claim open; return 0 when there is no room for what it could bring."""
        enrolment = self._tools.enrolment
        if self._is_closed or self.is_paused or not enrolment.valid.is_set():
            return 0
        if self._open is None:
            slots = self._roster.free() if self._tools.spool.has_room() else 0
            if not slots:
                return 0
            self._open = str(uuid.uuid4()), slots
        claim_id, slots = self._open
        try:
            hold_s = enrolment.intervals.claim_s
            offered = await self._tools.client.claim(claim_id, slots, hold_s=hold_s)
        except Unauthorized as error:
            enrolment.refuse(error)
            self.forget()
            return 0
        except (ServerUnavailable, CallRefused) as error:
            await self._rest_after(error)
            return 1
        self._open, self._failures = None, 0
        self._begin(offered)
        return 1

    async def _rest_after(self, error: ServerUnavailable | CallRefused) -> None:
        self._failures += 1
        if isinstance(error, CallRefused):
            log.warning("claim.refused", error=str(error))
            self.forget()
        asked_s = error.retry_after_s if isinstance(error, ServerUnavailable) else 1.0
        await asyncio.sleep(self._tools.client.pause_s(self._failures, asked_s))

    def _begin(self, offered: Sequence[TaskSpec]) -> None:
        taken = [] if self._is_closed else self._roster.reserve(offered)
        if taken and self._group is not None:
            self._group.create_task(self._start(taken), name=f"start-{taken[0].attempt_id}")

    async def _start(self, specs: Sequence[TaskSpec]) -> None:
        """Confirm the start of offered tasks, then run those that may."""
        refs = [AttemptRef(attempt_id=s.attempt_id, lease_token=s.lease_token) for s in specs]
        try:
            entries = await self._tools.spool.open(refs)
        except OSError:
            # Nothing was started: the offers return to the queue by themselves.
            log.exception("spool.failed")
            self._release(specs)
            return
        # Side by side: the lease of what begins here is the heartbeat's.
        running, _ = await asyncio.gather(self._confirm(refs), self._heartbeat.freshen())
        for spec, entry in zip(specs, entries, strict=True):
            if running is None:
                # The server may have heard: whatever it thinks, this ends it.
                result = entry.unfinished(Reason.WORKER_INTERRUPTED, "its start got no answer")
                await self._tools.reporter.submit(entry, result)
            elif spec.attempt_id in running:
                self._run(spec, entry)
                continue
            else:
                log.info("task.left", attempt_id=spec.attempt_id, why="lease_lost")
                await self._tools.spool.discard(entry)
            self._release([spec])

    async def _confirm(self, refs: Sequence[AttemptRef]) -> frozenset[int] | None:
        """Return what may run, None when there was no answer to say it."""
        try:
            async with asyncio.timeout(self._tools.enrolment.intervals.start_s):
                return await self._tools.client.start(refs)
        except Unauthorized as error:
            self._tools.enrolment.refuse(error)
        except (ServerUnavailable, CallRefused, TimeoutError) as error:
            log.warning("start.failed", attempts=len(refs), error=str(error))
        return None

    def _run(self, spec: TaskSpec, entry: Entry) -> None:
        assert self._group is not None
        lease_ends_at = self._heartbeat.lease_ends_at
        attempt = Attempt(spec, entry, self._tools, lease_ends_at=lease_ends_at)
        self._roster.begin(attempt)
        self._heartbeat.renew()
        task = self._group.create_task(attempt.execute(), name=f"attempt-{spec.attempt_id}")
        task.add_done_callback(lambda _: self._release([spec]))

    def _release(self, specs: Sequence[TaskSpec]) -> None:
        for spec in specs:
            self._roster.release(spec.attempt_id)
