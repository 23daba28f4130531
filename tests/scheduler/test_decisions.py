"""The scheduler's pure decisions: engines, scan type, verdict, order, deadlines."""

from __future__ import annotations

from typing import Any

import pytest

from core.domain.codes import ResultCode
from core.domain.ids import JobId, TaskId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import FailOn, FullReason, JobPhase, ScanType
from core.protocol.messages import LineCount, PrepareReport
from core.store.classes import Capability, Requirement, version_fits
from core.store.deadlines import Overdue
from core.store.settling import Lines, TaskEnd
from scheduler.expirer import verdict
from scheduler.planner import NotPlannable, choose_engines, decide_scan_type, module_of
from scheduler.settler import Failure, judge, sum_lines
from scheduler.specs import EngineChoice, engine_spec, requirement
from tests.scheduler.plans import BASE, job_plan


def offer(name: str, *languages: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "module": "codelint", "languages": list(languages)}


OFFERS = {
    name: [offer(name, *languages)]
    for name, languages in {
        "pylint": ("python",),
        "ruff": ("python",),
        "eslint": ("javascript",),
        "lines": (),
        "todo": (),
    }.items()
}
PYTHON = PrepareReport(files=3, languages={"python": 2, "yaml": 1})


def names(choices: list[EngineChoice] | NotPlannable) -> list[str]:
    assert not isinstance(choices, NotPlannable)
    return [choice.name for choice in choices]


def test_without_a_choice_lines_and_every_fitting_engine_run() -> None:
    assert names(choose_engines(job_plan(), PYTHON, OFFERS)) == ["lines", "pylint", "ruff", "todo"]
    script = job_plan(languages=["javascript"])
    assert names(choose_engines(script, PYTHON, OFFERS)) == ["lines", "eslint", "todo"]
    assert names(choose_engines(job_plan(), PYTHON, {})) == ["lines"]


def test_a_schemes_engines_run_whether_offered_or_not() -> None:
    job = job_plan(engines=[{"name": "semgrep", "version": ">=1"}, {"name": "ruff"}])
    assert names(choose_engines(job, PYTHON, OFFERS)) == ["semgrep", "ruff"]


def test_no_engine_and_no_fitting_language_have_their_own_codes() -> None:
    none = choose_engines(job_plan(engines=[]), PYTHON, OFFERS)
    assert isinstance(none, NotPlannable)
    assert none.code == ResultCode.NO_ENGINE_ENABLED
    wrong = choose_engines(job_plan(engines=[{"name": "pylint"}], languages=["go"]), PYTHON, OFFERS)
    assert isinstance(wrong, NotPlannable)
    assert wrong.code == ResultCode.NO_LANGUAGE_FITS


def test_modules_are_known_offered_or_codelint() -> None:
    assert module_of("lines", {}) == "codemetric"
    assert module_of("cpd", {"cpd": [offer("cpd") | {"module": "codemetric"}]}) == "codemetric"
    assert module_of("unheard-of", {}) == "codelint"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"base": "ancestor"}, (ScanType.INCREMENTAL, None)),
        ({"base": "history_rewritten"}, (ScanType.FULL, FullReason.HISTORY_REWRITTEN)),
        ({"base": "base_unreachable"}, (ScanType.FULL, FullReason.BASE_UNREACHABLE)),
        ({"base": "ancestor", "config_changed": True}, (ScanType.FULL, FullReason.CONFIG_CHANGED)),
    ],
)
def test_a_scan_stays_incremental_only_when_the_trees_allow_it(
    report: dict[str, Any], expected: tuple[ScanType, FullReason | None]
) -> None:
    found = PrepareReport(files=1, languages={}, **report)
    choices = [EngineChoice("lines")]
    assert decide_scan_type(job_plan(base=BASE), found, choices) == expected


def test_other_engines_than_the_bases_make_a_scan_full() -> None:
    found = PrepareReport(files=1, languages={}, base="ancestor")
    choices = [EngineChoice("lines"), EngineChoice("ruff")]
    assert decide_scan_type(job_plan(base=BASE), found, choices) == (
        ScanType.FULL,
        FullReason.ENGINE_CHANGED,
    )
    full = job_plan(scan_type=ScanType.FULL, full_reason=FullReason.REQUESTED)
    assert decide_scan_type(full, found, choices) == (ScanType.FULL, FullReason.REQUESTED)


def end(engine: str, code: int = 0, message: str = "", **coverage: int) -> TaskEnd:
    return TaskEnd(
        task_id=TaskId(len(engine)),
        engine=engine,
        outcome=Outcome.FAILED if code else Outcome.SUCCEEDED,
        reason=Reason.ENGINE_FAILED if code else None,
        result_code=code,
        result_msg=message,
        attempt_id=None,
        result={"coverage": coverage},
    )


def test_a_failed_task_fails_the_job_and_is_named() -> None:
    ends = [end("ruff"), end("pylint", 211, "it crashed"), end("lines", 202)]
    failure = judge(ends, FailOn.ANY_TASK, partial_fails=False)
    assert failure == Failure(
        202, "pylint (task 6): it crashed; lines (task 5): engine ran over its time"
    )
    assert judge(ends, FailOn.ALL_TASKS, partial_fails=False) is None
    assert judge(ends[1:], FailOn.ALL_TASKS, partial_fails=False) is not None
    assert judge(ends[:1], FailOn.ANY_TASK, partial_fails=False) is None


def test_a_siblings_cancellation_never_hides_its_cause() -> None:
    ends = [end("ruff", 211), end("lines", 299)]
    failure = judge(ends, FailOn.ANY_TASK, partial_fails=False)
    assert failure is not None
    assert failure.code == 211


def test_files_that_could_not_be_analysed_fail_a_job_that_asks_for_it() -> None:
    ends = [end("pylint", planned=9, analysed=8, failed=1)]
    assert judge(ends, FailOn.ANY_TASK, partial_fails=False) is None
    failure = judge(ends, FailOn.ANY_TASK, partial_fails=True)
    assert failure is not None
    assert "1 of 9 files" in failure.message


def test_line_counts_are_the_counters_or_none() -> None:
    counted = [
        LineCount(language="python", code=5, comment=2, blank=1),
        LineCount(language="c", code=1, comment=0, blank=0),
    ]
    assert sum_lines([None, counted]) == Lines(6, 2, 1)
    assert sum_lines([None]) is None
    assert sum_lines([[]]) == Lines(0, 0, 0)


@pytest.mark.parametrize(
    ("phase", "fits", "code"),
    [
        (JobPhase.WAITING, True, 297),
        (JobPhase.QUEUED, False, 313),
        (JobPhase.PREPARING, False, 313),
        (JobPhase.RUNNING, False, 297),
    ],
)
def test_a_deadline_says_whether_any_worker_could_have_helped(
    phase: JobPhase, fits: bool, code: int
) -> None:
    assert verdict(Overdue(JobId(1), phase, fits))[0] == code


def test_a_worker_fits_by_engine_version_tag_and_isolation() -> None:
    capability = Capability(engines={"pylint": "4.1.4"}, tags=frozenset({"linux"}))
    job = job_plan(tag="linux")
    assert capability.fits(requirement(job, EngineChoice("pylint", ">=4")))
    assert not capability.fits(requirement(job, EngineChoice("pylint", ">=5")))
    assert not capability.fits(requirement(job_plan(tag="mac"), EngineChoice("pylint")))
    contained = job_plan(allow_repo_config=True)
    assert not capability.fits(requirement(contained, EngineChoice("pylint")))
    assert capability.fits(Requirement("prepare"))
    assert not version_fits("not a version", ">=1")


def test_a_spec_carries_no_credentials_and_the_schemes_time_limit() -> None:
    spec = engine_spec(
        job_plan(scm_auth=b"sealed"),
        EngineChoice("ruff", config={"line_length": 90}, time_limit_s=5),
        revision="a" * 40,
        base_revision=None,
    )
    assert "auth" not in spec["source"]
    assert spec["limits"]["wall_s"] == spec["limits"]["idle_s"] == 5
    assert spec["config"] == {"line_length": 90}
