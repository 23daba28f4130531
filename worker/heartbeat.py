"""The control channel: one heartbeat for all attempts, and what follows when none is confirmed.

A heartbeat is held by the server until it has an order; the next is sent at once. What it
confirms counts from the moment it was sent, by a clock that runs while the host is suspended.
Nothing confirmed for `fence_s`: this worker kills its own attempts, before the server gives
them to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.domain.clock import Clock
from core.protocol.messages import HeartbeatRequest, HeartbeatResponse
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
#: Longest look at the clock, seconds: sleeping does not count the time a host is suspended.
_NAP_S = 0.5


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
        #: Held only when the last one came through: after a failure every moment counts.
        self._is_held = False

    def lease_ends_at(self) -> float:
        """Return when attempts must be dead unless a heartbeat is confirmed before."""
        # Registering is as good as a heartbeat.
        confirmed_at = max(self._confirmed_at, self._enrolment.registered_at)
        return confirmed_at + self._enrolment.intervals.fence_s

    def is_fenced(self) -> bool:
        """Tell whether nothing was confirmed for too long."""
        return self._clock.monotonic() >= self.lease_ends_at()

    async def tick(self) -> int:
        """Send one heartbeat and carry out its answer."""
        if not self._enrolment.valid.is_set():
            self._is_held = False
            return 0
        sent_at = self._clock.monotonic()
        request = HeartbeatRequest(
            attempts=self._roster.beats(), is_draining=self.is_draining, hold=self._is_held
        )
        try:
            answer = await self._client.heartbeat(request, timeout_s=self._timeout_s())
        except Unauthorized as error:
            self._enrolment.refuse(error)
            return 0
        except (ServerUnavailable, CallRefused) as error:
            await self._rest_after(error)
            return 1
        self._obey(sent_at, answer)
        intervals = answer.intervals
        least_s = min(_LEAST_S, _LEAST_PART * intervals.heartbeat_s)
        await asyncio.sleep(max(0.0, sent_at + least_s - self._clock.monotonic()))
        return 1

    def _obey(self, sent_at: float, answer: HeartbeatResponse) -> None:
        self._failures = 0
        self._is_held = True
        self._enrolment.reachability.reached()
        self._enrolment.set_intervals(answer.intervals)
        self._confirmed_at = sent_at
        self._roster.obey(answer)
        self._roster.extend_leases()
        self._on_directives(frozenset(answer.directives))

    async def _rest_after(self, error: ServerUnavailable | CallRefused) -> None:
        self._failures += 1
        self._is_held = False
        self._enrolment.reachability.lost(error)
        most_s = self._enrolment.intervals.fence_s / 8
        asked_s = error.retry_after_s if isinstance(error, ServerUnavailable) else 0.0
        await asyncio.sleep(min(most_s, self._client.pause_s(self._failures, asked_s)))

    def _timeout_s(self) -> float:
        intervals = self._enrolment.intervals
        # Room for a second try before the fence.
        spare_s = (intervals.fence_s - intervals.heartbeat_s) / 3
        return (intervals.heartbeat_s if self._is_held else 0.0) + max(0.1, spare_s)


class Fence:
    """Kills this worker's attempts when it has lost the server. A loop's body: see `tick`."""

    name = "fence"

    def __init__(self, heartbeat: Heartbeat, roster: Roster, clock: Clock) -> None:
        self._heartbeat = heartbeat
        self._roster = roster
        self._clock = clock

    async def tick(self) -> int:
        """Look at the clock once, then wait as long as it allows."""
        left_s = self._heartbeat.lease_ends_at() - self._clock.monotonic()
        if left_s <= 0 and self._roster.stop_all("abort", Fate.INTERRUPT):
            log.warning("worker.fenced", why="no heartbeat was confirmed in time")
        await asyncio.sleep(min(_NAP_S, max(0.02, left_s)))
        return 1
