"""What a folder or URL means to `kennel scan`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import core.runtime.git
from cli.exits import CommandError
from cli.scan.target import Target, find_target
from tests.cli.repositories import commit, git, make_repository


async def target(
    where: Path | str, branch: str | None = None, revision: str | None = None
) -> Target:
    return await find_target(str(where), branch=branch, revision=revision)


async def test_a_folder_is_scanned_at_the_branch_it_is_on(repository: Path) -> None:
    git(repository, "checkout", "-q", "-b", "feature/x")

    assert await target(repository) == Target(str(repository), "feature/x", is_local=True)


async def test_another_branch_can_be_named(repository: Path) -> None:
    git(repository, "branch", "other")
    (repository / "app.py").write_text("dirty, but not of that branch\n")

    found = await target(repository, branch="other")

    assert (found.branch, found.is_dirty) == ("other", False)


@pytest.mark.parametrize("change", ["edit", "delete", "stage", "untracked"])
async def test_a_folder_with_changes_is_dirty(repository: Path, change: str) -> None:
    if change == "delete":
        (repository / "app.py").unlink()
    else:
        (repository / ("new.py" if change == "untracked" else "app.py")).write_text("x = 1\n")
    if change == "stage":
        git(repository, "add", "app.py")

    assert (await target(repository)).is_dirty


async def test_what_git_ignores_makes_nothing_dirty(repository: Path) -> None:
    commit(repository, {".gitignore": "*.log\n"})
    (repository / "a.log").write_text("")
    os.utime(repository / "app.py", (1, 1))

    assert not (await target(repository)).is_dirty


async def test_a_folder_inside_a_repository_is_scanned_alone(repository: Path) -> None:
    commit(repository, {"src/deep/a.py": ""})

    found = await target(repository / "src" / "deep")

    assert (found.url, found.scan_path) == (str(repository), "src/deep")


async def test_a_bare_repository_and_a_work_tree_elsewhere_are_found(
    repository: Path, tmp_path: Path
) -> None:
    bare, tree = tmp_path / "bare.git", tmp_path / "tree"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    git(repository, "worktree", "add", "-q", "-b", "aside", str(tree))
    (tree / "app.py").write_text("")

    assert await target(bare) == Target(str(bare), "main", is_local=True)
    found = await target(tree)
    assert (found.url, found.branch, found.is_dirty) == (str(tree), "aside", True)


async def test_a_short_revision_of_a_folder_becomes_a_whole_one(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, {"b.py": ""})

    assert (await target(repository, revision="HEAD~1")).revision == first


async def test_the_repository_of_somebody_else_is_read(repository: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)

    assert (await target(repository)).branch == "main"


async def test_nothing_that_a_repository_configures_is_run(
    repository: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    commit(repository, {".gitattributes": "* filter=evil diff=evil\n"})
    for key in ("filter.evil.clean", "core.fsmonitor", "diff.evil.textconv", "core.pager"):
        git(repository, "config", key, f"touch {proof}; cat")
    (repository / "app.py").write_text("changed\n")

    found = await target(repository)

    assert found.is_dirty
    assert not proof.exists()


async def test_a_path_that_cannot_be_scanned_is_refused_with_the_reason(
    repository: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    plain = tmp_path / "plain"
    plain.mkdir()
    detached = make_repository(tmp_path / "detached", {"a": ""})
    git(detached, "checkout", "-q", "--detach")
    refusals = {
        tmp_path / "gone": "neither a folder nor the URL",
        repository / "app.py": "is a file",
        plain: "is not in a git repository",
        empty: "no commit yet",
        detached: "name one with --branch",
    }

    for where, reason in refusals.items():
        with pytest.raises(CommandError, match=reason):
            await target(where)


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c touch% x", "https://user:pass@example.org/a.git", "--upload-pack=x", "a\x00b"],
)
async def test_a_hostile_url_is_refused(url: str) -> None:
    with pytest.raises(CommandError):
        await target(url, branch="main")


async def test_a_machine_without_git_is_told_so(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.runtime.git, "_PATH", str(tmp_path))

    for where in (repository, "https://example.org/a.git"):
        with pytest.raises(CommandError, match="git cannot be started"):
            await target(where)


async def test_a_remote_nobody_answers_at_is_told_apart_from_one_without_a_branch() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.git"

    with pytest.raises(CommandError, match="cannot be reached") as refused:
        await target(url)

    assert "--branch" not in str(refused.value)


async def test_a_url_needs_no_look_when_the_branch_is_named() -> None:
    url = "https://example.org/a.git"

    assert await target(url, branch="main") == Target(url, "main")
