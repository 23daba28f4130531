"""Turn a preparation's result into engine tasks: which engines, full or incremental, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.domain.codes import ResultCode
from core.domain.engines import BUILT_IN, LINES
from core.domain.outcomes import Outcome, Reason
from core.domain.states import FullReason, JobPhase, ScanType
from core.protocol.messages import PrepareReport
from core.runtime.logs import get_logger
from core.store import admissions, classes, jobs
from core.store.admissions import JobPlan, PlannedTask, Prepared
from core.store.store import Store
from scheduler import specs
from scheduler.isolation import isolated
from scheduler.lanes import abreast
from scheduler.specs import EngineChoice

log = get_logger(__name__)

Offers = Mapping[str, Sequence[Mapping[str, Any]]]

#: Jobs planned by one iteration.
BATCH = 100


@dataclass(frozen=True, slots=True)
class NotPlannable:
    """No engine can be run: the job closes with this code and message."""

    code: ResultCode
    message: str


class Planner:
    """The loop from `preparing` to `queued`."""

    name = "planner"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tick(self) -> int:
        """Plan the jobs whose preparation has ended; return how many."""
        found = {job.job_id: job for job in await admissions.prepared(self._store, limit=BATCH)}
        loaded = {job.job_id: job for job in await admissions.load(self._store, list(found))}
        # Asked once for all of them: a worker that comes in between counts from the next time on.
        tags = {job.tag for job in loaded.values()}
        offers = {tag: await classes.live_engines(self._store, tag) for tag in tags}

        async def plan(job: JobPlan) -> bool | None:
            return await isolated(
                self._store,
                job.job_id,
                self._plan(job, found[job.job_id], offers[job.tag]),
                code=ResultCode.PREPARATION_FAILED,
                phases=[JobPhase.PREPARING],
            )

        # In the order they were found in: one of each project before anybody's second.
        return await abreast([loaded[job_id] for job_id in found if job_id in loaded], plan)

    async def _plan(self, job: JobPlan, prepared: Prepared, offers: Offers) -> bool:
        if prepared.outcome is not Outcome.SUCCEEDED:
            return await self._close(job, prepared.result_code, prepared.result_msg)
        report = PrepareReport.model_validate((prepared.result or {}).get("prepare") or {})
        choices = choose_engines(job, report, offers)
        if isinstance(choices, NotPlannable):
            return await self._close(job, choices.code, choices.message)
        scan_type, full_reason = decide_scan_type(job, report, choices)
        # What an older scheduler prepared has no places: it goes first.
        key_step = job.key_step or 0
        base_revision = job.scan_base_revision if scan_type is ScanType.INCREMENTAL else None
        class_ids = await classes.ensure_classes(
            self._store, [specs.requirement(job, choice) for choice in choices]
        )
        planned = await admissions.plan(
            self._store,
            job.job_id,
            [
                _task(job, choice, offers, class_id, base_revision)
                for choice, class_id in zip(choices, class_ids, strict=True)
            ],
            scan_type=scan_type,
            full_reason=full_reason,
            base_revision=base_revision,
            sort_key=(job.first_key or 0) + key_step,
            key_step=key_step,
            preferred_worker_id=prepared.worker_id,
        )
        if planned:
            engines = [choice.name for choice in choices]
            log.info("job.planned", engines=engines, full_reason=full_reason)
        return planned

    async def _close(self, job: JobPlan, code: int, message: str) -> bool:
        done = await jobs.close(
            self._store,
            [job.job_id],
            code=code,
            message=message,
            reason=Reason.JOB_CLOSED,
            phases=[JobPhase.PREPARING],
        )
        if done:
            log.info("job.not_planned", result_code=int(code), message=message)
        return bool(done)


def _task(
    job: JobPlan, choice: EngineChoice, offers: Offers, class_id: int, base_revision: str | None
) -> PlannedTask:
    assert job.revision is not None  # recorded with the preparation
    return PlannedTask(
        engine=choice.name,
        module=module_of(choice.name, offers),
        class_id=class_id,
        spec=specs.engine_spec(job, choice, revision=job.revision, base_revision=base_revision),
    )


def module_of(engine: str, offers: Offers) -> str:
    """Return the module a task of *engine* shows: ours, or what a worker said."""
    if engine in BUILT_IN:
        return BUILT_IN[engine].module
    for offer in offers.get(engine, ()):
        return str(offer["module"])
    return "codelint"


def choose_engines(
    job: JobPlan, report: PrepareReport, offers: Offers
) -> list[EngineChoice] | NotPlannable:
    """Return the engines to run: the scheme's, or `lines` and every offered one that fits."""
    if job.engines is None:
        languages = set(job.languages) or set(report.languages)
        fitting = sorted(
            name
            for name, found in offers.items()
            if name != LINES.name and any(_fits(offer["languages"], languages) for offer in found)
        )
        return [EngineChoice(name) for name in (LINES.name, *fitting)]
    choices = [EngineChoice.from_scheme(entry) for entry in job.engines]
    if not choices:
        return NotPlannable(
            ResultCode.NO_ENGINE_ENABLED,
            "配置错误，请在设置中启用代码检查或代码度量功能 (the scheme enables no engine)",
        )
    if job.languages and not any(
        _fits(_languages_of(choice.name, offers), set(job.languages)) for choice in choices
    ):
        return NotPlannable(
            ResultCode.NO_LANGUAGE_FITS,
            "配置错误，请在项目配置中设置项目语言。 "
            f"(no engine of the scheme analyses {', '.join(sorted(job.languages))})",
        )
    return choices


def _fits(engine_languages: Sequence[str], languages: set[str]) -> bool:
    return not engine_languages or not languages.isdisjoint(engine_languages)


def _languages_of(engine: str, offers: Offers) -> Sequence[str]:
    if engine in BUILT_IN:
        return BUILT_IN[engine].languages
    for offer in offers.get(engine, ()):
        return list(offer["languages"])
    return []


def decide_scan_type(
    job: JobPlan, report: PrepareReport, choices: Sequence[EngineChoice]
) -> tuple[ScanType, FullReason | None]:
    """Return whether the scan stays incremental, now that a worker has seen both trees."""
    if job.scan_type is ScanType.FULL:
        return ScanType.FULL, job.full_reason
    if report.base != "ancestor":
        reason = (
            FullReason.HISTORY_REWRITTEN
            if report.base == "history_rewritten"
            else FullReason.BASE_UNREACHABLE
        )
        return ScanType.FULL, reason
    if report.config_changed:
        return ScanType.FULL, FullReason.CONFIG_CHANGED
    if job.base is None or {choice.name for choice in choices} != set(job.base.engines):
        return ScanType.FULL, FullReason.ENGINE_CHANGED
    return ScanType.INCREMENTAL, None
