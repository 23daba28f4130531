from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.domain.errors import InvalidField
from core.domain.outcomes import Reason
from tests.engines import hostile
from tests.engines.conftest import MakeTask, Tree
from tests.engines.engine_run import run, run_command
from worker.engines.base import Ended, EngineTask
from worker.engines.pylint import PylintEngine

UNUSED = '"""A module."""\nimport os\n'
UNDEFINED = '"""A module."""\nprint(nothing_of_that_name)\n'
CLEAN = '"""A module."""\n'


@pytest.fixture(scope="module")
def pylint() -> PylintEngine:
    engine = PylintEngine()
    probe = engine.probe()
    if not probe.is_usable:
        pytest.skip(probe.problem)
    return engine


def hostile_tree(tmp_path: Path) -> tuple[Path, Path]:
    source, canaries = tmp_path / "hostile", tmp_path / "canaries"
    source.mkdir()
    canaries.mkdir()
    hostile.write(source, canaries)
    return source, canaries


def ran_parts(canaries: Path) -> set[str]:
    return {path.name for path in canaries.iterdir()}


def test_nothing_of_a_hostile_repository_runs_and_its_findings_are_there(
    pylint: PylintEngine, tmp_path: Path, make_task: MakeTask
) -> None:
    source, canaries = hostile_tree(tmp_path)

    ran = run(pylint, make_task(source))

    assert ran_parts(canaries) == set(), ran.log
    assert ran.verdict.reason is None, (ran.verdict, ran.log)
    assert "unused-import" in ran.rules("main.py")
    assert "unrecognized-inline-option" in ran.rules("main.py")
    assert set(hostile.MODULES) <= {f.path for f in ran.verdict.findings}
    assert {failure.path for failure in ran.verdict.failures} == {"coded.py"}


def test_the_hostile_repository_is_hostile(pylint: PylintEngine, tmp_path: Path) -> None:
    """Without our driver it does run; or the test above would prove nothing."""
    source, canaries = hostile_tree(tmp_path)
    environment = {"PYLINTHOME": str(tmp_path), "HOME": str(tmp_path)}
    program = "import sys; from pylint.lint import Run; Run(sys.argv[1:])"
    command = [sys.executable, "-I", "-c", program, "--enable=all"]

    def lint(*arguments: str) -> set[str]:
        for canary in canaries.iterdir():
            canary.unlink()
        subprocess.run(
            [*command, *arguments, "main.py"],
            cwd=source,
            env=environment,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return ran_parts(canaries)

    assert "init-hook" in lint()
    isolated = lint("--rcfile=/dev/null")
    assert "init-hook" not in isolated
    assert {"isort.py", "wsgiref____init__.py"} <= isolated
    if shutil.which("cc"):
        assert "extension" in isolated


def test_repository_configuration_runs_only_when_allowed(
    pylint: PylintEngine, tmp_path: Path, make_task: MakeTask
) -> None:
    canary = tmp_path / "canary"
    source = tmp_path / "source"
    source.mkdir()
    hook = f"open({str(canary)!r}, 'w').close()"
    (source / ".pylintrc").write_text(
        f"[MAIN]\ninit-hook={hook}\ndisable=unused-import\nignore=old.py\n"
    )
    (source / "a.py").write_text(UNUSED)
    (source / "old.py").write_text(UNUSED)

    refused = run(pylint, make_task(source))
    was_run = canary.exists()
    allowed = run(pylint, make_task(source, allow_repo_config=True))

    assert not was_run
    assert {f.path for f in refused.of_rule("unused-import")} == {"a.py", "old.py"}
    assert canary.exists()
    assert allowed.of_rule("unused-import") == []
    assert (allowed.verdict.coverage.analysed, allowed.verdict.coverage.skipped) == (1, 1)


def test_a_clean_tree_is_analysed_whole_without_findings(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(pylint, make_task(tree({"a.py": CLEAN, "b.txt": "x", "c.pyi": "x: int"})))

    assert ran.ended == [Ended(0, None)]
    assert ran.verdict.reason is None
    assert ran.verdict.findings == []
    assert (ran.verdict.coverage.planned, ran.verdict.coverage.analysed) == (1, 1)


def test_findings_make_an_exit_status_that_is_no_failure(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(pylint, make_task(tree({"pkg/__init__.py": CLEAN, "pkg/a.py": UNUSED})))

    assert ran.ended[0].exit_code == 4
    assert ran.verdict.reason is None
    (found,) = ran.of_rule("unused-import")
    assert (found.path, found.line, found.column, found.severity) == ("pkg/a.py", 2, 1, "warning")


def test_a_syntax_error_is_a_finding_of_an_analysed_file(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree({"a.py": "def f(:\n", "b.py": UNUSED})
    ran = run(pylint, make_task(source, rules_include=("unused-import",)))

    assert ran.verdict.reason is None
    assert [f.severity for f in ran.of_rule("syntax-error")] == ["error"]
    assert ran.rules("b.py") == {"unused-import"}
    assert (ran.verdict.coverage.analysed, ran.verdict.coverage.failed) == (2, 0)


def test_files_that_cannot_be_read_are_failed_and_the_rest_is_analysed(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree({"a.py": UNUSED, "latin.py": b"x = '\xff\xfe'\n", "nul.py": b"x = 1\0\n"})
    ran = run(pylint, make_task(source, ["a.py", "latin.py", "missing.py", "nul.py"]))

    assert ran.verdict.reason is None
    assert {failure.path for failure in ran.verdict.failures} >= {"latin.py", "missing.py"}
    assert ran.rules("a.py") == {"unused-import"}
    coverage = ran.verdict.coverage
    assert coverage.planned == coverage.analysed + coverage.failed == 4


def test_a_run_that_could_read_nothing_has_no_coverage(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(pylint, make_task(tree({"a.py": b"x = '\xff'\n"})))

    assert ran.verdict.reason is Reason.NO_COVERAGE


def test_a_file_that_makes_pylint_raise_fails_alone(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    deep = "# -*- coding: latin-1 -*-\nx = " + "-" * 3000 + "1  # \xe9\n"
    source = tree({"deep.py": deep.encode("latin-1"), "a.py": UNUSED})

    ran = run(pylint, make_task(source))

    assert ran.verdict.reason is None, ran.log
    assert [failure.path for failure in ran.verdict.failures] == ["deep.py"]
    assert "RecursionError" in ran.verdict.failures[0].message
    assert "unused-import" in ran.rules("a.py")


def test_a_file_skipped_by_its_own_pragma_is_counted_as_skipped(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    ran = run(pylint, make_task(tree({"a.py": "# pylint: skip-file\nimport os\n", "b.py": CLEAN})))

    assert ran.verdict.findings == []
    coverage = ran.verdict.coverage
    assert (coverage.analysed, coverage.skipped, coverage.failed) == (1, 1, 0)


def test_names_that_look_like_options_or_hold_any_byte_are_files(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    plain = ["-rfevil.py", "a b.py", "n\new\tt.py", "[ab].py", "--load-plugins=x.py", ".#lock.py"]
    source = tree(dict.fromkeys([*plain, os.fsdecode(b"\xff.py")], UNUSED))

    ran = run(pylint, make_task(source))

    assert ran.verdict.reason is None, ran.log
    assert ran.verdict.coverage.analysed == len(plain) + 1
    assert {f.path for f in ran.of_rule("unused-import")} == {*plain, "\\xff.py"}
    assert len(ran.progress()) == len(plain) + 1


def test_modules_of_the_same_name_are_each_analysed(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    names = ["one/util.py", "two/util.py", "two/__init__.py", "three/util.py", "__init__.py"]

    ran = run(pylint, make_task(tree(dict.fromkeys(names, UNDEFINED))))

    assert ran.verdict.coverage.analysed == len(names)
    assert {f.path for f in ran.of_rule("undefined-variable")} == set(names)


def test_only_the_files_asked_for_are_analysed_though_a_package_is_among_them(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree(dict.fromkeys(["pkg/__init__.py", "pkg/a.py", "pkg/b.py"], UNDEFINED))

    ran = run(
        pylint, make_task(source, ["pkg/__init__.py"], all_files=["pkg/__init__.py", "pkg/a.py"])
    )

    assert {f.path for f in ran.verdict.findings} == {"pkg/__init__.py"}
    assert ran.verdict.coverage.planned == 1


def test_imports_between_files_of_the_tree_are_resolved(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree(
        {
            "pkg/__init__.py": CLEAN,
            "pkg/json.py": '"""Ours."""\nVALUE = 1\n',
            "pkg/a.py": '"""A."""\nfrom pkg import json\nfrom pkg.json import VALUE, MISSING\n'
            "print(VALUE, MISSING, json.VALUE)\n",
            "space/b.py": '"""B."""\nfrom pkg.json import VALUE, GONE\nprint(VALUE, GONE)\n',
        }
    )

    ran = run(pylint, make_task(source, rules_include=("no-name-in-module", "import-error")))

    assert {(f.path, f.rule) for f in ran.verdict.findings} == {
        ("pkg/a.py", "no-name-in-module"),
        ("space/b.py", "no-name-in-module"),
    }


def test_rules_across_files_count_on_full_scans_only(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    body = '"""Same."""\n' + "".join(f"VALUE_{n} = {n}\n" for n in range(30))
    source = tree({"a.py": body, "b.py": body, "c.py": CLEAN})

    full = run(pylint, make_task(source))
    partial = run(pylint, make_task(source, ["a.py", "b.py"], all_files=["a.py", "b.py", "c.py"]))

    assert full.of_rule("duplicate-code")
    assert "pylint: comparing files, pair 1" in full.log
    assert partial.of_rule("duplicate-code") == []


def test_rules_and_configuration_of_the_scheme_reach_pylint(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    source = tree({"a.py": "import os\nx = 1" + "1" * 60 + "\nwhile True:\n    pass\n"})
    config = {"max_line_length": 40, "extensions": ["while_used"], "py_version": "3.11"}
    rules = ("line-too-long", "W0149", "unused-import")

    ran = run(
        pylint,
        make_task(source, config=config, rules_include=rules, rules_exclude=("W0611", "E0001")),
    )

    assert ran.rules() == {"line-too-long", "while-used"}


@pytest.mark.parametrize(
    "options",
    [
        {"rules_include": ["unused-import\ninit-hook=x"]},
        {"rules_exclude": ["--load-plugins=x"]},
        {"config": {"init_hook": "import evil"}},
        {"config": {"load_plugins": ["evil"]}},
        {"config": {"extensions": ["../evil"]}},
        {"config": {"extensions": ["evil.x"]}},
        {"config": {"ignored_modules": ["a\ninit-hook=b"]}},
        {"config": {"max_line_length": "80"}},
        {"config": {"py_version": "3.11\n"}},
    ],
)
def test_what_pylint_is_not_to_be_given_is_refused_before_it_runs(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidField):
        pylint.plan(make_task(tree({"a.py": UNUSED}), **options))


@pytest.mark.parametrize(
    "options",
    [
        {"rules_include": ("no-such-rule",)},
        {"rules_exclude": ("no-such-rule",), "allow_repo_config": True},
        {"config": {"extensions": ["no_such"]}},
    ],
)
def test_an_unknown_rule_or_extension_is_the_schemes_fault(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask, options: dict[str, object]
) -> None:
    ran = run(pylint, make_task(tree({"a.py": UNUSED}), **options))

    assert ran.verdict.reason is Reason.PARAMETERS_REFUSED
    assert "no-such-rule" in ran.verdict.message or "no_such" in ran.verdict.message


def test_a_usage_error_is_a_failure(pylint: PylintEngine, tree: Tree, make_task: MakeTask) -> None:
    source = tree({"a.py": UNUSED, ".pylintrc": "[MAIN]\njobs=many\n"})

    ran = run(pylint, make_task(source, allow_repo_config=True))

    assert ran.ended[0].exit_code == 32
    assert ran.verdict.reason is Reason.CONFIG_REFUSED


def _replace(name: str, content: bytes | None) -> Callable[[EngineTask], None]:
    def spoil(task: EngineTask) -> None:
        (task.out / name).unlink()
        if content is not None:
            (task.out / name).write_bytes(content)

    return spoil


@pytest.mark.parametrize("name", ["pylint.json", "pylint-coverage.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"messages": [', b"[]", b'{"messages": [1]}'])
def test_a_report_that_is_missing_cut_off_or_odd_is_unreadable(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask, name: str, content: bytes | None
) -> None:
    ran = run(pylint, make_task(tree({"a.py": UNUSED})), before_judge=_replace(name, content))

    assert ran.verdict.reason is Reason.REPORT_UNREADABLE
    assert ran.verdict.findings == ()


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended(32, None), Reason.ENGINE_FAILED),
        (Ended(137, None), Reason.ENGINE_FAILED),
        (Ended(1, None), Reason.ENGINE_FAILED),
        (Ended(None, 9), Reason.ENGINE_FAILED),
        (Ended(None, 15, Reason.ENGINE_SILENT), Reason.ENGINE_SILENT),
        (Ended(None, 25, Reason.OUTPUT_LIMIT), Reason.OUTPUT_LIMIT),
    ],
)
def test_how_pylint_ended_decides_where_there_is_no_report(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask, ended: Ended, reason: Reason
) -> None:
    task = make_task(tree({"a.py": UNUSED}))

    assert pylint.judge(task, [ended]).reason is reason


def test_a_crash_of_the_driver_leaves_no_report_that_could_be_taken_for_one(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    task = make_task(tree({"a.py": UNUSED}))
    (command,) = pylint.plan(task)
    log = task.out / "log"
    (task.out / "pylint-coverage.json").mkdir()  # it cannot be written: the driver must fail

    ended = run_command(task, command, log)

    assert ended.exit_code == 1
    assert not (task.out / "pylint.json").exists()
    verdict = pylint.judge(task, [ended])
    assert verdict.reason is Reason.ENGINE_FAILED


def test_a_file_the_report_does_not_account_for_is_failed(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask
) -> None:
    lost = json.dumps({"analysed": [0], "skipped": {}, "failed": {}}).encode()
    task = make_task(tree({"a.py": UNUSED, "b.py": UNUSED}))

    ran = run(pylint, task, before_judge=_replace("pylint-coverage.json", lost))

    assert [failure.path for failure in ran.verdict.failures] == ["b.py"]
    assert ran.verdict.coverage.failed == 1


def test_a_python_without_pylint_is_not_usable(tmp_path: Path) -> None:
    probe = PylintEngine("/nonexistent/python").probe()

    assert not probe.is_usable
    assert probe.problem


@pytest.mark.parametrize(
    "limit", [["timeout", "-s", "KILL", "0.2"], ["prlimit", "--fsize=64"], ["prlimit", "--cpu=1"]]
)
def test_a_pylint_that_is_killed_or_cannot_write_has_failed(
    pylint: PylintEngine, tree: Tree, make_task: MakeTask, limit: list[str]
) -> None:
    if shutil.which(limit[0]) is None:
        pytest.skip(f"{limit[0]} is not installed")
    big = "".join(f"def f{n}(a):\n    return [b for b in a if b is f{n}]\n" for n in range(3000))
    task = make_task(tree({"a.py": big}))
    (command,) = pylint.plan(task)

    limited = replace(command, argv=[*limit, *command.argv])
    ended = run_command(task, limited, task.out / "log")

    assert ended.exit_code != 0
    assert not (task.out / "pylint.json").exists()
    assert pylint.judge(task, [ended]).reason is Reason.ENGINE_FAILED
