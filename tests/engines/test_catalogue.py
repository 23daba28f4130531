from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.domain.engines import BUILT_IN
from core.domain.languages import NAMES
from core.domain.outcomes import Reason
from core.protocol.messages import EngineOffer, Finding
from worker.engines import outputs
from worker.engines.base import Engine
from worker.engines.catalogue import load_engines, probe_all
from worker.engines.ruff import RuffEngine


def test_the_workers_engines_are_those_the_server_knows() -> None:
    engines = {engine.name: engine for engine in load_engines()}

    assert set(engines) == set(BUILT_IN)
    for name, info in BUILT_IN.items():
        assert engines[name].module == info.module
        assert tuple(engines[name].languages) == info.languages
        assert set(info.languages) <= NAMES


@pytest.mark.parametrize("engine", load_engines(), ids=lambda engine: engine.name)
def test_every_usable_engine_makes_an_offer_the_server_takes(engine: Engine) -> None:
    probe = engine.probe()
    if not probe.is_usable:
        pytest.skip(probe.problem)

    offer = EngineOffer(
        name=engine.name,
        version=probe.version,
        module=engine.module,
        languages=list(engine.languages),
    )

    assert offer.version[0].isdigit()
    for path in engine.readable_paths():
        assert path.is_absolute()
        assert path.exists()


def test_an_engine_that_is_missing_says_what_to_do() -> None:
    (probed,) = probe_all([RuffEngine("/nonexistent/ruff")])

    assert not probed.probe.is_usable
    assert "ruff" in probed.probe.problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x00b", "a\\x00b"),
        ("\udcff.py", "\\xff.py"),
        ("\ud800", "\\ud800"),
        ("é\n", "é\n"),
        ("x" * 50, "x" * 19 + "…"),
    ],
)
def test_texts_are_made_fit_for_the_wire(text: str, expected: str) -> None:
    assert outputs.clean(text, 20) == expected


def test_of_too_many_findings_the_gravest_are_kept_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "MAX_FINDINGS", 2)
    findings = [
        outputs.finding("a.py", 1, 1, "info-rule", "info", ""),
        outputs.finding("z.py", 9, 1, "error-rule", "error", ""),
        outputs.finding("b.py", 5, 1, "error-rule", "error", ""),
    ]

    kept = outputs.keep(findings)

    assert [found.path for found in kept.findings] == ["b.py", "z.py"]
    assert kept.note == "1 findings beyond the first 2 are not kept"


def test_odd_places_and_long_texts_still_make_a_finding() -> None:
    found = outputs.finding("p" * 9000, None, -4, "r" * 900, "info", "m" * 9000)

    assert Finding.model_validate(found.model_dump()) == found
    assert (found.line, found.column) == (0, 0)


def test_a_report_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps("x" * 100))

    with pytest.raises(outputs.UnreadableReport) as refused:
        outputs.read_json(report, max_bytes=50)

    assert refused.value.reason is Reason.OUTPUT_LIMIT
