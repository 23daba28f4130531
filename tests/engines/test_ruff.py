from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from tests.engines.conftest import MakeTask, Tree
from tests.engines.engine_run import run, run_command
from worker.engines.base import Ended
from worker.engines.ruff import RuffEngine
from worker.engines.selection import MAX_ARGV_BYTES

UNUSED = "import os\n"


@pytest.fixture(scope="module")
def ruff() -> RuffEngine:
    engine = RuffEngine()
    probe = engine.probe()
    if not probe.is_usable:
        pytest.skip(probe.problem)
    return engine


def test_a_clean_tree_is_analysed_whole_without_findings(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"a.py": "x = 1\n", "b.py": "y = 2\n", "c.txt": "z"})))

    assert ran.verdict.reason is None
    assert ran.verdict.findings == []
    assert (ran.verdict.coverage.planned, ran.verdict.coverage.analysed) == (2, 2)


def test_findings_are_no_failure_and_have_a_place(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"pkg/a.py": UNUSED})))

    assert ran.verdict.reason is None
    (found,) = ran.of_rule("F401")
    assert (found.path, found.line, found.column, found.severity) == ("pkg/a.py", 1, 8, "error")


def test_a_syntax_error_is_a_finding_of_an_analysed_file(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"a.py": "def f(:\n"})))

    assert ran.verdict.reason is None
    assert {f.severity for f in ran.of_rule("invalid-syntax")} == {"error"}
    assert (ran.verdict.coverage.analysed, ran.verdict.coverage.failed) == (1, 0)


@pytest.mark.parametrize("rules", [(), ("F401",)])
def test_files_that_cannot_be_read_are_failed_whatever_rules_are_on(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask, rules: tuple[str, ...]
) -> None:
    source = tree({"a.py": UNUSED, "latin.py": b"x = '\xff\xfe'\n"})
    task = make_task(
        source,
        ["a.py", "latin.py", "missing.py"],
        rules_include=rules,
        rules_exclude=("E902",),
    )

    ran = run(ruff, task)

    assert ran.verdict.reason is None
    assert {failure.path for failure in ran.verdict.failures} == {"latin.py", "missing.py"}
    assert ran.verdict.coverage.failed == 2
    assert ran.verdict.coverage.analysed == 1
    assert "F401" in ran.rules("a.py")
    assert "2 of 3 files" in ran.verdict.message


def test_a_run_that_could_read_nothing_has_no_coverage(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"a.py": b"x = '\xff'\n"})))

    assert ran.verdict.reason is Reason.NO_COVERAGE


def test_names_that_look_like_options_or_hold_any_byte_are_files(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    names = [
        "-rfevil.py",
        "a b.py",
        "n\new\tt.py",
        "[ab].py",
        "--select=ALL.py",
        os.fsdecode(b"\xff.py"),
    ]
    ran = run(ruff, make_task(tree(dict.fromkeys(names, UNUSED))))

    assert ran.verdict.reason is None
    assert ran.verdict.coverage.analysed == len(names)
    paths = {found.path for found in ran.of_rule("F401")}
    assert paths == {
        "-rfevil.py",
        "a b.py",
        "n\new\tt.py",
        "[ab].py",
        "--select=ALL.py",
        "\\xff.py",
    }


def test_files_the_repository_ignores_are_checked_all_the_same(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree(
        {
            ".gitignore": "*.py\n",
            "ruff.toml": 'exclude = ["*.py"]\nforce-exclude = true\n[lint]\nselect = []\n',
            "pyproject.toml": "[tool.ruff]\nforce-exclude = true\nexclude = ['*']\n",
            "node_modules/a.py": UNUSED,
            ".venv/b.py": UNUSED,
        }
    )

    ran = run(ruff, make_task(source, ["node_modules/a.py", ".venv/b.py"]))

    assert ran.verdict.coverage.analysed == 2
    assert {f.path for f in ran.of_rule("F401")} == {"node_modules/a.py", ".venv/b.py"}


def test_the_repositorys_own_configuration_holds_when_allowed(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree(
        {
            "ruff.toml": 'exclude = ["old"]\n[lint]\nselect = ["E711"]\n',
            "a.py": "import os\nx = os is None or os == None\n",
            "old/b.py": UNUSED,
        }
    )

    ran = run(ruff, make_task(source, allow_repo_config=True))

    assert ran.rules() == {"E711"}
    coverage = ran.verdict.coverage
    assert (coverage.planned, coverage.analysed, coverage.skipped, coverage.failed) == (2, 1, 1, 0)


def test_a_broken_configuration_of_the_repository_is_named_as_such(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(
        ruff, make_task(tree({"ruff.toml": "nonsense = [", "a.py": UNUSED}), allow_repo_config=True)
    )

    assert ran.verdict.reason is Reason.CONFIG_REFUSED


def test_many_files_are_cut_into_command_lines_the_kernel_takes(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    names = [f"{'n' * 120}{number:05}.py" for number in range(1000)]
    ran = run(ruff, make_task(tree(dict.fromkeys(names, UNUSED))))

    assert len(ran.commands) > 2
    for command in ran.commands:
        assert sum(len(word) + 1 for word in command.argv) < MAX_ARGV_BYTES + 4096
    assert ran.verdict.coverage.analysed == 1000
    assert len(ran.of_rule("F401")) == 1000


def test_scripts_without_an_extension_are_known_by_their_first_line(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"tool": "#!/usr/bin/env python3\nimport os\n", "other": "x"})))

    assert ran.verdict.coverage.planned == 1
    assert "F401" in ran.rules("tool")


def test_rules_and_configuration_of_the_scheme_reach_ruff(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree({"a.py": "import os\n" + "x = 1" + "1" * 50 + "\n"})
    config = {
        "line_length": 40,
        "extend_select": ["E501"],
        "target_version": "py311",
        "preview": False,
    }
    task = make_task(source, rules_include=("F", "W"), rules_exclude=("F401",), config=config)

    ran = run(ruff, task)

    assert ran.rules() == {"E501"}


@pytest.mark.parametrize(
    "options",
    [
        {"rules_include": ["F401 --fix"]},
        {"rules_exclude": ["--fix"]},
        {"rules_include": ["f401"]},
        {"config": {"fix": True}},
        {"config": {"line_length": True}},
        {"config": {"line_length": 10**9}},
        {"config": {"target_version": "py311\nfix=true"}},
        {"config": {"extend_select": "F"}},
        {"config": {"preview": "yes"}},
    ],
)
def test_what_ruff_is_not_to_be_given_is_refused_before_it_runs(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidField):
        ruff.plan(make_task(tree({"a.py": UNUSED}), **options))


def test_an_unknown_rule_is_the_schemes_fault(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"a.py": UNUSED}), rules_include=("ZZ9",)))

    assert ran.verdict.reason is Reason.PARAMETERS_REFUSED
    assert "ZZ9" in ran.log


@pytest.mark.parametrize("content", [None, b"", b"[", b'{"a": 1}', b"[1]", b"[" * 100_000])
def test_a_report_that_is_missing_cut_off_or_odd_is_unreadable(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask, content: bytes | None
) -> None:
    def spoil(task: object) -> None:
        report = Path(out) / "ruff-0.json"
        report.unlink()
        if content is not None:
            report.write_bytes(content)

    task = make_task(tree({"a.py": UNUSED}))
    out = task.out

    ran = run(ruff, task, before_judge=spoil)

    assert ran.verdict.reason is Reason.REPORT_UNREADABLE
    assert ran.verdict.findings == ()


def test_a_link_in_the_place_of_the_report_is_not_followed(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("[]")
    task = make_task(tree({"a.py": UNUSED}))

    def link(_: object) -> None:
        (task.out / "ruff-0.json").unlink()
        (task.out / "ruff-0.json").symlink_to(elsewhere)

    assert run(ruff, task, before_judge=link).verdict.reason is Reason.REPORT_UNREADABLE


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([Ended(0, None), Ended(2, None)], Reason.ENGINE_FAILED),
        ([Ended(0, None), Ended(101, None)], Reason.ENGINE_FAILED),
        ([Ended(0, None), Ended(None, 9)], Reason.ENGINE_FAILED),
        ([Ended(0, None), Ended(None, 9, Reason.OUT_OF_MEMORY)], Reason.OUT_OF_MEMORY),
        ([Ended(None, 15, Reason.ENGINE_TIMEOUT)], Reason.ENGINE_TIMEOUT),
        ([Ended(0, None)], Reason.ENGINE_FAILED),
    ],
)
def test_how_ruff_ended_decides_before_what_it_wrote(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask, ends: list[Ended], reason: Reason
) -> None:
    task = make_task(tree({"a.py": UNUSED}))
    for command in ruff.plan(task):
        run_command(task, command, task.out / "log")

    assert ruff.judge(task, ends).reason is reason


def test_no_python_means_nothing_to_run_and_no_failure(
    ruff: RuffEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(ruff, make_task(tree({"a.txt": "x"})))

    assert ran.commands == []
    assert ran.verdict.reason is None
    assert ran.verdict.coverage.planned == 0


def test_a_ruff_that_is_not_there_is_not_usable() -> None:
    probe = RuffEngine("/nonexistent/ruff").probe()

    assert not probe.is_usable
    assert probe.problem
