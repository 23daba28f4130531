"""Close jobs whose tasks have closed: judge, save, supersede the older ones, ingest the results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from core.domain.codes import ResultCode, english
from core.domain.errors import KennelError
from core.domain.ids import JobId, ScanId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import FailOn, JobPhase
from core.protocol.messages import RESULT_ARTIFACT, EngineReport, LineCount
from core.runtime.logs import get_logger
from core.store import blobs, jobs, settling
from core.store.settling import FindingRow, Lines, Settleable, TaskEnd
from core.store.store import Store
from scheduler.isolation import isolated
from scheduler.lanes import abreast

log = get_logger(__name__)

#: Jobs one iteration takes of each kind.
BATCH = 50
#: Longest result message of a job, characters.
MESSAGE_CHARS = 2000
_REPORT_BYTES = 2**30
#: A report shorter than that is checked where it is: handing it to a thread would take longer.
_SHORT_BYTES = 64 << 10
SUPERSEDED_HINT = "plz check the other job's result"


class ReportMissing(KennelError):
    """The report of an accepted result cannot be read: the job cannot be saved."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job fails: the code and message it closes with."""

    code: int
    message: str


class Settler:
    """The loop from `running` to `closed`."""

    name = "settler"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tick(self) -> int:
        """Settle what can be settled; return how many jobs moved on."""
        failing = await settling.failing(self._store, limit=BATCH)
        failed = await abreast(failing, self._fail_early)
        settleable = await settling.settleable(self._store, limit=BATCH)
        settled = await abreast(settleable, self._settle)
        saving = await settling.saving(self._store, limit=BATCH)
        saved = await abreast(saving, self._ingest)
        return failed + settled + saved

    async def _fail_early(self, job_id: JobId) -> bool:
        return await self._isolated(job_id, self._try_to_fail_early(job_id))

    async def _settle(self, job: Settleable) -> bool:
        return await self._isolated(job.job_id, self._try_to_settle(job))

    async def _ingest(self, job: tuple[JobId, ScanId]) -> bool:
        return await self._isolated(job[0], self._try_to_ingest(*job))

    async def _isolated(self, job_id: JobId, work: Awaitable[bool]) -> bool:
        moved = await isolated(
            self._store,
            job_id,
            work,
            code=ResultCode.SERVER_ERROR,
            phases=[JobPhase.RUNNING, JobPhase.SAVING],
        )
        return bool(moved)

    async def _try_to_fail_early(self, job_id: JobId) -> bool:
        ends = await settling.outcomes(self._store, job_id)
        failure = judge(ends, FailOn.ANY_TASK, partial_fails=False)
        return failure is not None and await self._fail(job_id, failure, Reason.SIBLING_FAILED)

    async def _try_to_settle(self, job: Settleable) -> bool:
        ends = await settling.outcomes(self._store, job.job_id)
        failure = judge(ends, job.fail_on, partial_fails=job.partial_fails)
        if failure is not None:
            return await self._fail(job.job_id, failure, Reason.JOB_CLOSED)
        message = {"job_id": job.job_id, "scan_id": job.scan_id, "msg": SUPERSEDED_HINT}
        return await settling.save(
            self._store, job.job_id, superseded_msg=orjson.dumps(message).decode()
        )

    async def _fail(self, job_id: JobId, failure: Failure, reason: Reason) -> bool:
        done = await jobs.close(
            self._store,
            [job_id],
            code=failure.code,
            message=failure.message,
            reason=reason,
            phases=[JobPhase.RUNNING],
        )
        if done:
            log.info("job.failed", result_code=failure.code)
        return bool(done)

    async def _try_to_ingest(self, job_id: JobId, scan_id: ScanId) -> bool:
        ends = await settling.outcomes(self._store, job_id)
        try:
            reports = {
                end.task_id: await self._report(end)
                for end in ends
                if end.outcome is Outcome.SUCCEEDED
            }
        except ReportMissing as error:
            log.error("job.save_failed", error=str(error))  # noqa: TRY400 - no surprise, no trace
            await jobs.close(
                self._store,
                [job_id],
                code=ResultCode.SERVER_ERROR,
                message=f"saving failed: {error}",
                reason=Reason.JOB_CLOSED,
                phases=[JobPhase.SAVING],
            )
            return True
        rows = [
            FindingRow(
                task_id=task_id,
                position=position,
                engine=report.engine,
                rule=finding.rule,
                severity=finding.severity,
                path=finding.path,
                line=min(finding.line, 2**31 - 1),
                column=min(finding.column, 2**31 - 1),
                message=finding.message,
            )
            for task_id, report in reports.items()
            for position, finding in enumerate(report.findings)
        ]
        done = await settling.ingest(
            self._store,
            job_id,
            scan_id,
            findings=rows,
            lines=sum_lines([report.lines for report in reports.values()]),
            engines={report.engine: report.engine_version for report in reports.values()},
        )
        if done:
            log.info("job.saved", findings=len(rows))
        return done

    async def _report(self, end: TaskEnd) -> EngineReport:
        if end.attempt_id is None:
            raise ReportMissing(f"task {end.task_id} ({end.engine}) succeeded without a result")
        name = blobs.artifact_blob(RESULT_ARTIFACT)
        size = await blobs.size(self._store, end.task_id, end.attempt_id, name)
        if size is None or size > _REPORT_BYTES:
            raise ReportMissing(f"the report of task {end.task_id} ({end.engine}) is not there")
        content = b"".join(
            [
                chunk
                async for chunk in blobs.read(
                    self._store, end.task_id, end.attempt_id, name, start=0, end=size
                )
            ]
        )
        try:
            if len(content) <= _SHORT_BYTES:
                report = EngineReport.model_validate_json(content)
            else:  # it takes a while to check, and others wait for this loop
                report = await asyncio.to_thread(EngineReport.model_validate_json, content)
        except ValidationError as error:
            raise ReportMissing(
                f"the report of task {end.task_id} ({end.engine}) cannot be read: "
                f"{error.error_count()} fields are wrong"
            ) from None
        return report


def judge(ends: Sequence[TaskEnd], fail_on: FailOn, *, partial_fails: bool) -> Failure | None:
    """Return why a job with these task ends fails, naming every failed task; None: success."""
    failures = [
        (end, failure)
        for end in ends
        if (failure := _task_failure(end, partial_fails=partial_fails))
    ]
    if not failures or (fail_on is FailOn.ALL_TASKS and len(failures) < len(ends)):
        return None
    # As TCA does: the smallest code, and a sibling's fate never hides its cause.
    code = min(
        (failure.code for _, failure in failures),
        key=lambda code: (code == ResultCode.SIBLING_FAILED, code),
    )
    message = "; ".join(
        f"{end.engine} (task {end.task_id}): {failure.message}" for end, failure in failures
    )
    return Failure(code, message[:MESSAGE_CHARS])


def _task_failure(end: TaskEnd, *, partial_fails: bool) -> Failure | None:
    if end.outcome is not Outcome.SUCCEEDED:
        return Failure(end.result_code, end.result_msg or english(end.result_code))
    coverage = (end.result or {}).get("coverage") or {}
    failed, planned = coverage.get("failed", 0), coverage.get("planned", 0)
    if partial_fails and failed:
        return Failure(
            ResultCode.ENGINE_FAILED, f"{failed} of {planned} files could not be analysed"
        )
    return None


def sum_lines(counts: Sequence[Sequence[LineCount] | None]) -> Lines | None:
    """Return the line counts of the one engine that counts; None where none did."""
    for languages in counts:
        if languages is not None:
            return Lines(
                code=sum(language.code for language in languages),
                comment=sum(language.comment for language in languages),
                blank=sum(language.blank for language in languages),
            )
    return None
