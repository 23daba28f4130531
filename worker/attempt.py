"""One attempt from its start to its result: prepare, run, collect, report.

Owns the attempt's scratch folder and turns whatever happens into exactly one result with its
reason, or into none when the server has disowned the attempt. Decides nothing about retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Literal

from structlog.contextvars import bound_contextvars

from core.domain.errors import InvalidField, LeaseLost, ScmError
from core.domain.outcomes import REPORTABLE, Outcome, Reason
from core.domain.states import TaskKind
from core.protocol.messages import (
    RESULT_ARTIFACT,
    ArtifactRef,
    AttemptResult,
    Beat,
    PrepareReport,
    TaskLimits,
    TaskSpec,
)
from core.runtime.logs import get_logger
from worker.checkout import Mirror
from worker.client import CallRefused, ServerUnavailable, Unauthorized, digest
from worker.durable import make_private
from worker.engines.base import Command, Ended, EngineTask, Verdict
from worker.judging import counts, judge, write_report
from worker.logstream import LogStream
from worker.prepare import files_for, prepare
from worker.sandbox import Cause, Place, SupervisedRun, streamable_bytes
from worker.scope import Scope
from worker.spool import Entry
from worker.tools import Tools
from worker.tree import remove_tree

log = get_logger(__name__)

#: Longest an engine may take to plan or to judge, seconds.
_THINK_S = 300.0
_MESSAGE = 4000

Phase = Literal["checkout", "running", "reporting"]


class Fate(Enum):
    """What becomes of an attempt that is stopped."""

    #: The server has disowned it: nothing is reported.
    DROP = "drop"
    #: This worker stops in good order: reported as handed back, which counts against nobody.
    HAND_BACK = "hand_back"
    #: This worker has lost the server: reported as interrupted, so that another attempt can begin.
    INTERRUPT = "interrupt"


class _StepFailed(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class _Stopped(Exception):
    """The command was ended by `stop`, or by the end of its lease."""


class Attempt:
    """One attempt. `execute` is its whole life; `stop` ends it from outside."""

    def __init__(
        self, spec: TaskSpec, entry: Entry, tools: Tools, *, lease_ends_at: Callable[[], float]
    ) -> None:
        self.spec = spec
        self.entry = entry
        self.phase: Phase = "checkout"
        self._tools = tools
        #: When the lease of this moment ends, by the clock's `monotonic`.
        self._lease_ends_at = lease_ends_at
        self._limits = tools.bound(spec.limits)
        self._folder = tools.scratch / str(spec.attempt_id)
        self._log = LogStream(tools.client, entry)
        self._fate: Fate | None = None
        self._work: asyncio.Task[AttemptResult | None] | None = None
        self._is_cancelled = False
        self._running: SupervisedRun | None = None
        self._timings: dict[str, float] = {}
        # Filled by the steps.
        self._task: EngineTask | None = None
        self._prepared: PrepareReport | None = None
        self._ended: list[Ended] = []
        self._ended_by = ""
        self._files_done = 0
        self._verdict: Verdict | None = None
        self._artifacts: list[ArtifactRef] = []

    # --- from outside ------------------------------------------------------------------------

    @property
    def is_disowned(self) -> bool:
        """Tell whether the server has disowned it; it hears no more of it in heartbeats."""
        return self._fate is Fate.DROP

    def beat(self) -> Beat:
        """Return what a heartbeat says of it."""
        planned = 0 if self._task is None else len(self._task.files)
        return Beat(
            attempt_id=self.spec.attempt_id,
            phase=self.phase,
            files_done=min(self._files_done, planned),
            files_planned=planned,
        )

    def extend_lease(self) -> None:
        """Pass a longer lease on to what runs."""
        if self._running is not None:
            self._running.extend_lease(self._lease_left_s())

    def stop(self, mode: Literal["graceful", "abort"], fate: Fate) -> None:
        """End it; `execute` returns when nothing of it is left. Never blocks.

        Disowned is disowned: a fate of DROP stays. Abort after graceful is fine.
        """
        is_over = self._work is not None and self._work.done()
        if fate is Fate.DROP or (self._fate is None and not is_over):
            self._fate = fate
        if self._work is None or is_over:
            return
        if self._running is not None:
            self._running.cancel(mode)
        elif not self._is_cancelled:
            # Once: a second time would cut its clean-up short.
            self._is_cancelled = True
            self._work.cancel()

    # --- the whole life ----------------------------------------------------------------------

    async def execute(self) -> None:
        """Work through the four steps. Returns with the result in the spool, or dropped."""
        ids = {"attempt_id": self.spec.attempt_id, "task_id": self.spec.task_id}
        with bound_contextvars(**ids, job_id=self.spec.job_id):
            log.info("attempt.started", engine=self.spec.engine, number=self.spec.attempt)
            self._work = asyncio.create_task(self._steps(), name=f"steps-{self.spec.attempt_id}")
            if self._fate is not None:  # told to end before it began
                self._is_cancelled = self._work.cancel()
            try:
                await asyncio.wait({self._work})
            finally:
                if not self._work.done():
                    self._work.cancel()
                    await asyncio.wait({self._work})
                await asyncio.to_thread(self._clear)
            await self.report()

    async def _steps(self) -> AttemptResult | None:
        """Return the result, None when it was stopped."""
        try:
            with self._timed("checkout"):
                await self.prepare()
            if self._task is not None:
                self.phase = "running"
                with self._timed("run"):
                    await self.run(self._task)
                self.phase = "reporting"
                with self._timed("collect"):
                    await self.collect(self._task)
            return self._concluded()
        except _Stopped:
            return None
        except _StepFailed as failure:
            return self._result(failure.reason, failure.message)
        except Exception as error:
            # The edge of the attempt: whatever goes wrong in here, the server hears of it.
            log.exception("attempt.broken")
            self._verdict = None  # it may be what is broken
            why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            return self._result(
                Reason.WORKER_ERROR, f"the worker met an error of its own{why}; see its log"
            )

    # --- step 1 ------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Get the files: the work tree for an engine, the listing for a `prepare` task."""
        spec = self.spec
        if spec.source.is_local and not self._tools.allow_local_repos:
            raise _StepFailed(
                Reason.SCM_FORBIDDEN,
                "this worker takes no repositories from its own disk (KENNEL_ALLOW_LOCAL_REPOS)",
            )
        if spec.kind is TaskKind.ENGINE and spec.engine not in self._tools.engines:
            raise _StepFailed(Reason.UNSUPPORTED, f"this worker has no engine {spec.engine}")
        look = self._list if spec.kind is TaskKind.PREPARE else self._check_out
        try:
            await self._tools.mirrors.use(spec.source, look, timeout_s=self._limits.wall_s)
        except ScmError as error:
            raise _StepFailed(_scm_reason(error), error.message) from error
        except InvalidField as error:
            raise _StepFailed(Reason.PARAMETERS_REFUSED, str(error)) from error

    async def _list(self, mirror: Mirror) -> None:
        self._prepared = await prepare(mirror, self.spec)

    async def _check_out(self, mirror: Mirror) -> None:
        source = make_private(self._folder) / "source"
        listing = asyncio.create_task(files_for(mirror, self.spec), name="listing")
        try:
            await mirror.check_out(source, timeout_s=self._limits.wall_s)
            scope = await listing
        finally:
            listing.cancel()
            # Of two errors the first one tells.
            await asyncio.gather(listing, return_exceptions=True)
        self._task = self._engine_task(source, scope)

    def _engine_task(self, source: Path, scope: Scope) -> EngineTask:
        return EngineTask(
            source=source,
            out=make_private(self._folder / "out"),
            files=scope.files,
            all_files=scope.all_files,
            config=self.spec.config,
            rules_include=self.spec.rules_include,
            rules_exclude=self.spec.rules_exclude,
            allow_repo_config=self.spec.allow_repo_config,
        )

    # --- step 2 ------------------------------------------------------------------------------

    async def run(self, task: EngineTask) -> None:
        """Run the engine's commands, one after another, until one hits a limit."""
        engine = self._tools.engines[self.spec.engine].engine
        try:
            async with asyncio.timeout(_THINK_S):
                commands = await asyncio.to_thread(engine.plan, task)
        except InvalidField as error:
            raise _StepFailed(Reason.CONFIG_REFUSED, str(error)) from error
        place = Place(
            source=task.source,
            out=task.out,
            log=self.entry.log,
            control=make_private(self._folder / "control"),
            # Attempts of another server's worker on this host may have the same ids.
            tag=f"{self.spec.attempt_id}-{secrets.token_hex(4)}",
            readable=tuple(engine.readable_paths()),
        )
        ends_at = self._tools.clock.monotonic() + self._limits.wall_s
        for command in commands:
            left_s = max(0.1, round(ends_at - self._tools.clock.monotonic(), 2))
            limits = self._limits.model_copy(update={"wall_s": left_s})
            ended = await self._run_one(command, place, limits)
            self._ended.append(ended)
            if ended.limit is not None:
                return

    async def _run_one(self, command: Command, place: Place, limits: TaskLimits) -> Ended:
        done_before = self._files_done
        run = await self._tools.sandbox.start(command, place, limits, lease_s=self._lease_left_s())
        self._running = run
        if self._fate is not None:  # told to end while it started
            run.cancel("abort")
        following = asyncio.create_task(self._follow(run, done_before), name="follow")
        try:
            result = await run.wait()
        finally:
            self._running = None
            following.cancel()
            await asyncio.wait({following})
        self._files_done = done_before + run.progress()
        if self._fate is not None or result.cause in {Cause.CANCELLED, Cause.LEASE}:
            raise _Stopped
        if result.cause is Cause.SUPERVISOR_LOST:
            raise _StepFailed(Reason.WORKER_ERROR, result.detail)
        self._ended_by = result.detail
        return result.ended

    async def _follow(self, run: SupervisedRun, done_before: int) -> None:
        """Count progress and send the log while a command runs."""
        while True:
            await asyncio.sleep(self._tools.enrolment.intervals.log_s)
            self._files_done = done_before + run.progress()
            try:
                await self._log.push(streamable_bytes(self.entry.log, self._limits))
            except LeaseLost:
                log.info("attempt.disowned")
                self.stop("abort", Fate.DROP)
                return
            except CallRefused as refusal:
                log.warning("log.refused", error=str(refusal))
                return
            except (ServerUnavailable, Unauthorized):
                # The heartbeat meets the same and deals with it; the log is sent later.
                continue

    # --- step 3 ------------------------------------------------------------------------------

    async def collect(self, task: EngineTask) -> None:
        """Let the engine judge what its commands left behind; keep its report as an artifact."""
        try:
            async with asyncio.timeout(_THINK_S):
                self._verdict, artifact = await asyncio.to_thread(self._judge, task)
        except TimeoutError as error:
            raise _StepFailed(
                Reason.REPORT_UNREADABLE, f"its report was not read within {_THINK_S:g} s"
            ) from error
        most = self._tools.enrolment.limits.artifact_bytes
        if artifact.size_bytes > most:
            raise _StepFailed(
                Reason.OUTPUT_LIMIT,
                f"the report has {artifact.size_bytes} bytes, the server takes {most}",
            )
        self._artifacts.append(artifact)

    def _judge(self, task: EngineTask) -> tuple[Verdict, ArtifactRef]:
        offered = self._tools.engines[self.spec.engine]
        verdict = judge(offered, task, self._ended, limit_text=self._ended_by)
        path = self.entry.artifacts / RESULT_ARTIFACT
        write_report(path, verdict, self.spec, version=offered.version)
        return verdict, digest(path, RESULT_ARTIFACT)

    # --- step 4 ------------------------------------------------------------------------------

    async def report(self) -> None:
        """Put the result into the spool and its delivery in motion; nothing when disowned."""
        assert self._work is not None
        if self._fate is Fate.DROP:
            await self._tools.spool.discard(self.entry)
            log.info("attempt.dropped")
            return
        result = None if self._work.cancelled() else self._work.result()
        if result is None or self._fate is not None:
            result = self._unfinished().model_copy(
                update={"log_bytes": self._log_bytes(), "timings_s": self._timings}
            )
        log.info("attempt.ended", outcome=result.outcome, reason=result.reason)
        await self._tools.reporter.submit(self.entry, result, log_sent=self._log.sent)

    def _unfinished(self) -> AttemptResult:
        if self._fate is Fate.HAND_BACK:
            return self.entry.unfinished(Reason.HANDED_BACK, "the worker stopped")
        return self.entry.unfinished(Reason.WORKER_INTERRUPTED, "the worker lost the server")

    def _concluded(self) -> AttemptResult:
        """Return the result of steps that all came to their end."""
        if self._verdict is None:
            return self._result(None, "")
        return self._result(self._verdict.reason, self._verdict.message)

    def _result(self, reason: Reason | None, message: str) -> AttemptResult:
        verdict = self._verdict
        last = self._ended[-1] if self._ended else None
        offered = self._tools.engines.get(self.spec.engine)
        return AttemptResult(
            attempt_id=self.spec.attempt_id,
            lease_token=self.spec.lease_token,
            outcome=Outcome.SUCCEEDED if reason is None else Outcome.FAILED,
            reason=reason,
            message=_plain(message),
            exit_code=None if last is None else last.exit_code,
            signal=None if last is None else last.signal,
            engine_version="" if offered is None else offered.version,
            **({} if verdict is None else counts(verdict)),
            prepare=self._prepared,
            log_bytes=self._log_bytes(),
            artifacts=self._artifacts,
            timings_s=self._timings,
        )

    def _log_bytes(self) -> int:
        return min(self.entry.log_size(), self._tools.enrolment.limits.log_bytes)

    def _clear(self) -> None:
        try:
            remove_tree(self._folder)
        except OSError as error:
            log.warning("scratch.kept", folder=str(self._folder), error=str(error))

    # --- small things ------------------------------------------------------------------------

    def _lease_left_s(self) -> float:
        return max(0.0, self._lease_ends_at() - self._tools.clock.monotonic())

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self._timings[step] = round(time.monotonic() - begun, 3)


def _scm_reason(error: ScmError) -> Reason:
    reason = Reason(error.reason)
    return reason if reason in REPORTABLE else Reason.CHECKOUT_FAILED


def _plain(text: str) -> str:
    """Return what the wire takes of a message: no NUL, no lone surrogates, not too long."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:_MESSAGE]
