"""What the preparation tells of a commit, and which files a task gets."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.errors import InvalidField, ScmError
from core.domain.outcomes import Reason
from core.protocol.messages import PrepareReport
from tests.scm.conftest import Repo, source, spec
from worker.checkout import MirrorCache
from worker.prepare import files_for, prepare
from worker.scope import PathFilter, Scope


async def prepared(
    mirrors: MirrorCache, repo: Repo, revision: str, base: str | None = None, **changes: object
) -> tuple[PrepareReport, Scope | None]:
    scan_path = str(changes.pop("scan_path", ""))
    chosen = source(repo.url, revision, base_revision=base, scan_path=scan_path)
    task = spec(chosen, **changes)
    async with mirrors.open(chosen, timeout_s=30) as mirror:
        report = await prepare(mirror, task)
        scope = await files_for(mirror, task) if report.base in {"none", "ancestor"} else None
        return report, scope


async def test_files_and_languages_are_counted(repo: Repo, mirrors: MirrorCache) -> None:
    revision = repo.commit(
        {
            "a.py": "x = 1\n",
            "b/c.py": "x = 1\n",
            "b/d.js": "1\n",
            "tool": "#!/usr/bin/env python3\nprint()\n",
            "same": "#!/usr/bin/env python3\nprint()\n",
            "empty": "",
            "README": "hello",
            "large": "#!/bin/sh\n" + "x" * 100_000,
        }
    )
    report, scope = await prepared(mirrors, repo, revision)

    assert report.files == 8
    assert report.languages["python"] == 4
    assert report.languages["javascript"] == 1
    assert "shell" not in report.languages
    assert (report.base, report.changed, report.config_changed) == ("none", 0, False)
    assert scope
    assert (
        scope.files
        == scope.all_files
        == sorted(["a.py", "b/c.py", "b/d.js", "tool", "same", "empty", "README", "large"])
    )


async def test_a_change_is_compared_with_its_base(repo: Repo, mirrors: MirrorCache) -> None:
    base = repo.commit(
        {
            "kept.py": "1\n",
            "edited.py": "1\n",
            "removed.py": "1\n",
            "moved.py": "".join(f"line {n}\n" for n in range(50)),
            "odd\nname\t.py": "1\n",
            "mode.sh": "x\n",
        }
    )
    repo.git("rm", "--quiet", "removed.py")
    (repo.path / "sub").mkdir()
    repo.git("mv", "moved.py", "sub/new.py")
    (repo.path / "mode.sh").chmod(0o755)
    (repo.path / "link.py").symlink_to("/etc/passwd")
    head = repo.commit({"edited.py": "2\n", "added.js": "1\n", "odd\nname\t.py": "2\n"})

    report, scope = await prepared(mirrors, repo, head, base)

    assert scope
    assert scope.files == sorted(
        ["edited.py", "added.js", "odd\nname\t.py", "sub/new.py", "mode.sh"]
    )
    assert scope.all_files == sorted([*scope.files, "kept.py"])
    assert (report.base, report.changed) == ("ancestor", 5)
    assert report.changed_languages == {"javascript": 1, "python": 3, "shell": 1}


async def test_the_same_commit_as_its_base_has_no_change(repo: Repo, mirrors: MirrorCache) -> None:
    head = repo.commit({"a.py": "1\n"})

    report, scope = await prepared(mirrors, repo, head, head)

    assert (report.base, report.changed, report.files) == ("ancestor", 0, 1)
    assert scope == Scope([], ["a.py"])


async def test_a_rewritten_history_is_told(repo: Repo, mirrors: MirrorCache) -> None:
    repo.commit({"a.py": "0\n"})
    base = repo.commit({"a.py": "1\n"})
    repo.git("branch", "old")
    repo.git("reset", "--quiet", "--hard", "HEAD^")
    head = repo.commit({"a.py": "2\n"})

    report, _ = await prepared(mirrors, repo, head, base)

    assert (report.base, report.changed, report.files) == ("history_rewritten", 0, 1)


async def test_a_base_nobody_has_any_more_is_told(repo: Repo, mirrors: MirrorCache) -> None:
    head = repo.commit({"a.py": "1\n"})
    chosen = source(repo.url, head, base_revision="4" * 40)

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        report = await prepare(mirror, spec(chosen))
        with pytest.raises(ScmError) as caught:
            await files_for(mirror, spec(chosen))

    assert report.base == "base_unreachable"
    assert caught.value.reason == Reason.CHECKOUT_FAILED


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_changed_configuration_counts_where_it_is_used(
    repo: Repo, mirrors: MirrorCache, allowed: bool
) -> None:
    base = repo.commit({"a.py": "1\n", ".pylintrc": "[MAIN]\n"})
    repo.git("rm", "--quiet", ".pylintrc")
    head = repo.commit()

    report, _ = await prepared(mirrors, repo, head, base, allow_repo_config=allowed)

    assert report.config_changed is allowed


async def test_the_scope_is_a_folder_and_globs(repo: Repo, mirrors: MirrorCache) -> None:
    base = repo.commit({"src/a.py": "1", "src/t/b.py": "1", "srcx/c.py": "1", "d.py": "1"})
    head = repo.commit({"src/a.py": "2", "src/t/b.py": "2", "d.py": "2"})

    report, scope = await prepared(
        mirrors, repo, head, base, scan_path="/src/", exclusion=["*/t/*"]
    )

    assert scope == Scope(["src/a.py"], ["src/a.py"])
    assert (report.files, report.changed) == (1, 1)


async def test_a_folder_that_does_not_exist_is_told(repo: Repo, mirrors: MirrorCache) -> None:
    head = repo.commit({"a.py": "1"})

    with pytest.raises(ScmError, match="'missing' does not exist") as caught:
        await prepared(mirrors, repo, head, scan_path="missing")

    assert caught.value.reason == Reason.SCM_NOT_FOUND


async def test_names_that_are_not_utf8_are_left_out(repo: Repo, mirrors: MirrorCache) -> None:
    (repo.path / "a.py").write_text("1")
    (repo.path / os.fsdecode(b"\xff\xfe.py")).write_text("1")
    head = repo.commit()

    report, scope = await prepared(mirrors, repo, head)

    assert report.files == 1
    assert scope
    assert scope.all_files == ["a.py"]


@pytest.mark.parametrize(
    ("glob", "matches", "misses"),
    [
        ("lib/*", ["lib/a", "lib/a/b.py"], ["lib", "x/lib/a", "Lib/a"]),
        ("lib", ["lib"], ["lib/a"]),
        ("*/lib/*", ["x/lib/a", "x/y/lib/a"], ["lib/a"]),
        ("**/lib/*", ["lib/a", "x/lib/a", "x/y/lib/a/b"], ["xlib/a"]),
        ("*.py", ["a.py", "b/c.py"], ["a.pyc"]),
        ("**/*.py", ["a.py", "b/c.py", "b/c/d.py"], ["a.pyc"]),
        ("src/**/test_*.py", ["src/test_a.py", "src/x/y/test_b.py"], ["test_a.py"]),
        ("src/**", ["src/a", "src/a/b"], ["src"]),
        ("./a.py", ["a.py"], ["b/a.py"]),
        ("a?.py", ["ab.py"], ["a.py"]),
        ("[ab].py", ["a.py"], ["c.py"]),
        ("a(b|c)+.py", ["a(b|c)+.py"], ["ab.py"]),
        ("line\nbreak", ["line\nbreak"], ["line"]),
        ("**/**/**/**/**/**/a", ["a", "x/y/a"], ["b"]),
    ],
)
def test_globs_match_the_whole_path(glob: str, matches: list[str], misses: list[str]) -> None:
    includes, excludes = PathFilter(inclusion=[glob]), PathFilter(exclusion=[glob])

    assert [path for path in matches if not includes(path) or excludes(path)] == []
    assert [path for path in misses if includes(path) or not excludes(path)] == []


def test_exclusion_wins_over_inclusion() -> None:
    wanted = PathFilter(inclusion=["a/*", "b/*"], exclusion=["a/x*"])

    assert [path for path in ("a/1", "a/x1", "b/1", "c/1") if wanted(path)] == ["a/1", "b/1"]


def test_a_hostile_glob_takes_no_time() -> None:
    started = time.process_time()
    wanted = PathFilter(inclusion=["*a" * 200 + "b", "**/a*" * 4 + "*" * 100 + "b"])

    assert not wanted("a" * 4096)
    assert not wanted("a/" * 2048)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "changes",
    [
        {"inclusion": [""]},
        {"inclusion": ["a\0"]},
        {"exclusion": ["x" * 501]},
        {"exclusion": ["a"] * 501},
        {"inclusion": ["**/a/" * 5]},
        {"scan_path": "../x"},
        {"scan_path": "a/../../x"},
        {"scan_path": "a//b"},
        {"scan_path": ".git/hooks"},
        {"scan_path": "a\0b"},
    ],
)
def test_globs_and_folders_that_cannot_be_used_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidField):
        PathFilter(**changes)  # type: ignore[arg-type]  # wrong on purpose


@given(st.text(alphabet="a/*?[]!-.\\(", max_size=20), st.text(alphabet="a/.b(", max_size=20))
def test_any_glob_is_used_or_refused(glob: str, path: str) -> None:
    try:
        wanted = PathFilter(inclusion=[glob])
    except InvalidField:
        return
    assert wanted(path) in {True, False}
