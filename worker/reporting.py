"""Deliver results until each has a verdict: the rest of the log, the artifacts, then the result.

Everything delivered lies in the spool, so a delivery may be cut off at any point and repeated.
Several go side by side; a slow upload holds up no other. Which errors end what is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from core.domain.errors import LeaseLost
from core.domain.outcomes import Outcome, Reason
from core.protocol.messages import AttemptResult, Beat, ResultVerdict
from core.runtime.logs import get_logger
from worker.client import CallRefused, ServerUnavailable, Unauthorized, WorkerClient
from worker.logstream import LogStream
from worker.spool import Entry, Spool

log = get_logger(__name__)

#: Deliveries that talk to the server at the same time.
_SIDE_BY_SIDE = 8
#: Verdicts in a row that ask to mend something, before it counts as impossible.
_MOST_MENDINGS = 5
#: A result without a verdict after this long is forced to disk, seconds: most have one sooner.
_FORCE_AFTER_S = 0.5


@dataclass(frozen=True, slots=True)
class _Delivery:
    entry: Entry
    task: asyncio.Task[None]


class Reporter:
    """The deliveries of one worker. `run` owns them."""

    def __init__(
        self,
        client: WorkerClient,
        spool: Spool,
        *,
        on_unauthorized: Callable[[Unauthorized], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        #: Set while nothing waits for a verdict.
        self.settled = asyncio.Event()
        self.settled.set()
        self._client = client
        self._spool = spool
        self._on_unauthorized = on_unauthorized
        self._on_change = on_change
        self._waiting: dict[int, _Delivery] = {}
        self._side_by_side = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._group: asyncio.TaskGroup | None = None
        self._owned = asyncio.Event()

    def beats(self) -> list[Beat]:
        """Return what a heartbeat says of results that wait: their leases are still ours."""
        return [Beat(attempt_id=attempt_id, phase="spooled") for attempt_id in self._waiting]

    def waiting(self) -> int:
        """Return how many results have no verdict yet."""
        return len(self._waiting)

    async def run(self) -> None:
        """Own the deliveries, until cancelled; what is not delivered stays in the spool."""
        async with asyncio.TaskGroup() as self._group:
            self._owned.set()
            await asyncio.Event().wait()

    async def submit(self, entry: Entry, result: AttemptResult, *, log_sent: int = 0) -> None:
        """Keep a result on disk, then deliver it in the background."""
        await self._keep(entry, result)
        await self._owned.wait()
        assert self._group is not None
        stream = LogStream(self._client, entry)
        stream.sent = log_sent
        task = self._group.create_task(
            self._until_settled(entry, result, stream), name=f"report-{entry.attempt_id}"
        )
        self._waiting[entry.attempt_id] = _Delivery(entry, task)
        self.settled.clear()
        task.add_done_callback(lambda _: self._forget(entry.attempt_id))

    def drop(self, attempt_id: int) -> bool:
        """Forget a result that the server disowned; False when there is none."""
        delivery = self._waiting.get(attempt_id)
        if delivery is None or self._group is None:
            return False
        self._group.create_task(self._drop(delivery), name=f"drop-{attempt_id}")
        return True

    async def _drop(self, delivery: _Delivery) -> None:
        delivery.task.cancel()
        await asyncio.wait({delivery.task})
        await self._spool.discard(delivery.entry)
        log.info("result.dropped", attempt_id=delivery.entry.attempt_id, why="ordered")

    def _forget(self, attempt_id: int) -> None:
        self._waiting.pop(attempt_id, None)
        if not self._waiting:
            self.settled.set()
        self._on_change()

    async def _until_settled(self, entry: Entry, result: AttemptResult, stream: LogStream) -> None:
        forcing = asyncio.create_task(self._force(entry), name=f"force-{entry.attempt_id}")
        try:
            await self._insist(entry, result, stream)
        finally:
            forcing.cancel()
            await asyncio.wait({forcing})

    async def _force(self, entry: Entry) -> None:
        await asyncio.sleep(_FORCE_AFTER_S)
        try:
            await self._spool.force(entry)
        except OSError:
            # What is in memory is delivered all the same, unless the power goes.
            log.exception("spool.failed")

    async def _insist(self, entry: Entry, result: AttemptResult, stream: LogStream) -> None:
        failures = 0
        while True:
            try:
                async with self._side_by_side:
                    await self.deliver_once(entry, result, stream)
            except ServerUnavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("result.delayed", attempt_id=entry.attempt_id, error=str(error))
                await asyncio.sleep(self._client.pause_s(failures, error.retry_after_s))
            except Unauthorized as error:
                failures += 1
                self._on_unauthorized(error)
                await asyncio.sleep(self._client.pause_s(failures))
            else:
                return

    async def deliver_once(
        self, entry: Entry, result: AttemptResult, stream: LogStream | None = None
    ) -> None:
        """Deliver a result and remove it from the spool.

        Raises:
            ServerUnavailable, Unauthorized: it is still in the spool.
        """
        try:
            await self._settle(entry, result, stream or LogStream(self._client, entry))
        except LeaseLost:
            log.info("result.dropped", attempt_id=entry.attempt_id, why="lease_lost")
        await self._spool.discard(entry)

    async def _settle(self, entry: Entry, result: AttemptResult, stream: LogStream) -> None:
        for number in range(_MOST_MENDINGS + 1):
            if number == _MOST_MENDINGS:
                # Better a failure that arrives than a success that never does.
                result = _failed(result, Reason.UPLOAD_FAILED, "the server keeps missing parts")
                result = result.model_copy(update={"log_bytes": 0})
            result = await self._upload(entry, result, stream)
            try:
                verdict = await self._verdict(result)
            except CallRefused as refusal:
                if result.reason is Reason.WORKER_ERROR:
                    log.exception("result.refused", attempt_id=entry.attempt_id)
                    return
                result = _failed(result, Reason.WORKER_ERROR, f"its result was no use: {refusal}")
                await self._keep(entry, result)
                continue
            match verdict.verdict:
                case "accepted":
                    log.info(
                        "result.accepted",
                        attempt_id=entry.attempt_id,
                        outcome=result.outcome,
                        reason=result.reason,
                    )
                    return
                case "lease_lost":
                    raise LeaseLost(entry.attempt_id)
                case "log_incomplete":
                    stream.sent = verdict.log_bytes or 0
                case "artifact_missing":
                    pass  # all of them are uploaded again
                case _:
                    assert_never(verdict.verdict)
        log.error("result.refused", attempt_id=entry.attempt_id, why="the server misses parts")

    async def _upload(
        self, entry: Entry, result: AttemptResult, stream: LogStream
    ) -> AttemptResult:
        """Upload log and artifacts; return the result, changed to what the server took."""
        try:
            await stream.push(result.log_bytes)
        except CallRefused as refusal:
            log.warning("log.refused", attempt_id=entry.attempt_id, error=str(refusal))
        result = result.model_copy(update={"log_bytes": min(stream.sent, result.log_bytes)})
        try:
            for artifact in result.artifacts:
                file = entry.artifacts / artifact.name
                await self._client.put_artifact(entry.ref, artifact, file)
        except (CallRefused, FileNotFoundError) as refusal:
            log.warning("artifact.refused", attempt_id=entry.attempt_id, error=str(refusal))
            result = _failed(result, Reason.UPLOAD_FAILED, f"cannot upload a result: {refusal}")
            await self._keep(entry, result)
        return result

    async def _keep(self, entry: Entry, result: AttemptResult) -> None:
        try:
            await self._spool.commit(entry, result)
        except OSError:
            # A full disk: what is in memory is delivered all the same, unless we are killed.
            log.exception("spool.failed")

    async def _verdict(self, result: AttemptResult) -> ResultVerdict:
        for verdict in await self._client.results([result]):
            if verdict.attempt_id == result.attempt_id:
                return verdict
        raise ServerUnavailable("the answer has no verdict on the result")


def _failed(result: AttemptResult, reason: Reason, message: str) -> AttemptResult:
    """Return what is left of a result that cannot be delivered as it is."""
    return AttemptResult(
        attempt_id=result.attempt_id,
        lease_token=result.lease_token,
        outcome=Outcome.FAILED,
        reason=reason,
        message=message[:4000],
        log_bytes=result.log_bytes,
        timings_s=result.timings_s,
    )
