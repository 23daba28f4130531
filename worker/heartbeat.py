"""The control channel: one heartbeat for all attempts, and what follows when none is confirmed.

A heartbeat is held by the server until it has an order; the next is sent at once. What it
confirms counts from the moment it was sent, by a clock that runs while the host is suspended.
Nothing confirmed for `fence_s`: this worker kills its own attempts, before the server gives
them to others. A worker without attempts has no lease to extend: its heartbeats are held for
longer, and cut short before an attempt begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.domain.clock import Clock
from core.protocol.messages import HeartbeatRequest, HeartbeatResponse, Quarantine
from core.runtime.logs import get_logger
from worker.attempt import Fate
from worker.client import CallRefused, ServerUnavailable, Unauthorized, WorkerClient
from worker.enrolment import Enrolment
from worker.roster import Roster

log = get_logger(__name__)

#: A server that does not hold gets no more heartbeats than one in this time, seconds; also the
#: part of the interval that bounds it where intervals are shorter.
_LEAST_S = 0.1
_LEAST_PART = 0.2
#: Part of the lease for which a heartbeat without attempts may be held.
IDLE_PART = 2 / 3
#: Longest look at the clock, seconds: sleeping does not count the time a host is suspended.
_NAP_S = 0.5
#: The same while there is nothing to kill: an attempt begins with a longer lease than this.
_IDLE_NAP_S = 2.0


class Heartbeat:
    """Sends heartbeats and passes on what they answer. A loop's body: see `tick`."""

    name = "heartbeat"

    def __init__(
        self,
        client: WorkerClient,
        enrolment: Enrolment,
        roster: Roster,
        clock: Clock,
        *,
        on_directives: Callable[[frozenset[str]], None],
    ) -> None:
        self.is_draining = False
        self._client = client
        self._enrolment = enrolment
        self._roster = roster
        self._clock = clock
        self._on_directives = on_directives
        self._confirmed_at = 0.0
        self._failures = 0
        #: Reason of the quarantine it was told of; None: it is in none.
        self._quarantined_for: str | None = None
        #: Held only when the last one came through: after a failure every moment counts.
        self._is_held = False
        #: Set when what a heartbeat without attempts says is true no more.
        self._is_outdated = asyncio.Event()
        self._confirmed = asyncio.Condition()

    @property
    def fence_s(self) -> float:
        """How long a confirmed heartbeat counts."""
        return self._enrolment.intervals.fence_s

    def lease_ends_at(self) -> float:
        """Return when attempts must be dead unless a heartbeat is confirmed before."""
        # Registering is as good as a heartbeat.
        confirmed_at = max(self._confirmed_at, self._enrolment.registered_at)
        return confirmed_at + self._enrolment.intervals.fence_s

    def is_fenced(self) -> bool:
        """Tell whether nothing was confirmed for too long."""
        return self._clock.monotonic() >= self.lease_ends_at()

    def renew(self) -> None:
        """Have a heartbeat sent at once, if the one under way says that there are no attempts."""
        self._is_outdated.set()

    async def freshen(self) -> None:
        """Return when a heartbeat is confirmed that is no older than those of a busy worker.

        Or when none was in time for an attempt to start: who then begins one is fenced at once.
        """
        intervals = self._enrolment.intervals
        try:
            async with asyncio.timeout(intervals.start_s), self._confirmed:
                # Two: the one under way, and the one that was confirmed before it was sent.
                while self._clock.monotonic() > (
                    self.lease_ends_at() - intervals.fence_s + 2 * intervals.heartbeat_s
                ):
                    self.renew()
                    await self._confirmed.wait()
        except TimeoutError:
            return

    async def tick(self) -> int:
        """Send one heartbeat and carry out its answer."""
        if not self._enrolment.valid.is_set():
            self._is_held = False
            return 0
        self._is_outdated.clear()
        sent_at = self._clock.monotonic()
        request = self._request()
        try:
            answer = await self._send(request)
        except Unauthorized as error:
            self._enrolment.refuse(error)
            return 0
        except (ServerUnavailable, CallRefused) as error:
            await self._rest_after(error)
            return 1
        if answer is None:
            # Cut short. Nothing is lost by it: an order is given until it is carried out.
            self._is_held = False
            return 1
        self._obey(sent_at, answer)
        async with self._confirmed:
            self._confirmed.notify_all()
        intervals = answer.intervals
        least_s = min(_LEAST_S, _LEAST_PART * intervals.heartbeat_s)
        await asyncio.sleep(max(0.0, sent_at + least_s - self._clock.monotonic()))
        return 1

    def _request(self) -> HeartbeatRequest:
        attempts = self._roster.beats()
        is_idle = self._is_held and not attempts and not self.is_draining
        lease_s = self._enrolment.intervals.lease_s
        return HeartbeatRequest(
            attempts=attempts,
            begun_to=self._roster.begun_to(),
            is_draining=self.is_draining,
            hold=self._is_held,
            hold_s=IDLE_PART * lease_s if is_idle else None,
        )

    async def _send(self, request: HeartbeatRequest) -> HeartbeatResponse | None:
        """Return the answer; None when it was not waited for."""
        call = self._client.heartbeat(request, timeout_s=self._timeout_s(request))
        if request.hold_s is None:
            return await call
        sending = asyncio.create_task(call, name="heartbeat.idle")
        outdated = asyncio.create_task(self._is_outdated.wait(), name="heartbeat.outdated")
        try:
            await asyncio.wait({sending, outdated}, return_when=asyncio.FIRST_COMPLETED)
            return sending.result() if sending.done() else None
        finally:
            for task in (sending, outdated):
                task.cancel()
            await asyncio.wait({sending, outdated})

    def _obey(self, sent_at: float, answer: HeartbeatResponse) -> None:
        self._failures = 0
        self._is_held = True
        self._enrolment.reachability.reached()
        self._enrolment.set_intervals(answer.intervals)
        self._confirmed_at = sent_at
        self._roster.obey(answer)
        self._roster.extend_leases()
        self._on_directives(frozenset(answer.directives))
        self._note_quarantine(answer.quarantine)

    def _note_quarantine(self, quarantine: Quarantine | None) -> None:
        """Say so once: whoever reads the log of this host is who can help."""
        reason = quarantine.reason if quarantine else None
        if reason == self._quarantined_for:
            return
        self._quarantined_for = reason
        if quarantine is None:
            log.info("worker.quarantine_ended")
        else:
            log.error(
                "worker.quarantined",
                reason=quarantine.reason,
                for_s=round(quarantine.left_s),
                why="one attempt after another died of this worker's own fault: see above",
            )

    async def _rest_after(self, error: ServerUnavailable | CallRefused) -> None:
        self._failures += 1
        self._is_held = False
        self._enrolment.reachability.lost(error)
        most_s = self._enrolment.intervals.fence_s / 8
        asked_s = error.retry_after_s if isinstance(error, ServerUnavailable) else 0.0
        await asyncio.sleep(min(most_s, self._client.pause_s(self._failures, asked_s)))

    def _timeout_s(self, request: HeartbeatRequest) -> float:
        intervals = self._enrolment.intervals
        # Room for a second try before the fence.
        spare_s = max(0.1, (intervals.fence_s - intervals.heartbeat_s) / 3)
        hold_s = intervals.heartbeat_s if request.hold_s is None else request.hold_s
        return (hold_s if request.hold else 0.0) + spare_s


class Fence:
    """Kills this worker's attempts when it has lost the server. A loop's body: see `tick`."""

    name = "fence"

    def __init__(self, heartbeat: Heartbeat, roster: Roster, clock: Clock) -> None:
        self._heartbeat = heartbeat
        self._roster = roster
        self._clock = clock

    async def tick(self) -> int:
        """Look at the clock once, then wait as long as it allows."""
        if not self._roster.busy():
            await asyncio.sleep(min(_IDLE_NAP_S, self._heartbeat.fence_s / 4))
            return 1
        left_s = self._heartbeat.lease_ends_at() - self._clock.monotonic()
        if left_s <= 0 and self._roster.stop_all("abort", Fate.INTERRUPT):
            log.warning("worker.fenced", why="no heartbeat was confirmed in time")
        await asyncio.sleep(min(_NAP_S, max(0.02, left_s)))
        return 1
