"""The files of a commit are asked of git once, however many tasks want to know them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.runtime.git import Git, GitResult
from tests.scm.conftest import Repo, source, spec
from worker.checkout import MirrorCache
from worker.listings import Listings
from worker.prepare import files_for, prepare

MIRROR = Path("/mirrors/a")


def listing(*names: str) -> list[tuple[str, str]]:
    return [(name, "0" * 40) for name in names]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The git commands that were run, by name."""
    commands: list[str] = []
    run = Git.run

    async def noted(self: Git, *arguments: str, **options: object) -> GitResult:
        commands.append(arguments[0])
        return await run(self, *arguments, **options)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(Git, "run", noted)
    return commands


async def test_the_tasks_of_a_job_list_its_commit_once(
    repo: Repo, mirrors: MirrorCache, asked: list[str]
) -> None:
    chosen = source(repo.url, repo.commit({"a.py": "1\n", "b.js": "1\n"}))
    async with mirrors.open(chosen, timeout_s=30) as mirror:
        report = await prepare(mirror, spec(chosen))

    scopes = []
    for inclusion in ([], ["*.py"]):
        async with mirrors.open(chosen, timeout_s=30) as mirror:
            scopes.append(await files_for(mirror, spec(chosen, inclusion=inclusion)))

    assert report.files == 2
    assert [scope.files for scope in scopes] == [["a.py", "b.js"], ["a.py"]]
    assert asked.count("ls-tree") == 1


async def test_each_commit_has_its_own_files(repo: Repo, mirrors: MirrorCache) -> None:
    first = source(repo.url, repo.commit({"a.py": "1\n"}))
    second = source(repo.url, repo.commit({"b.py": "1\n"}))
    found = []
    for chosen in (first, second, first):
        async with mirrors.open(chosen, timeout_s=30) as mirror:
            found.append((await files_for(mirror, spec(chosen))).files)

    assert found == [["a.py"], ["a.py", "b.py"], ["a.py"]]


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    listings = Listings(most_files=4)
    listings.keep(MIRROR, "first", listing("a", "b"))
    listings.keep(MIRROR, "second", listing("c", "d"))
    assert listings.get(MIRROR, "first") == listing("a", "b")

    listings.keep(MIRROR, "third", listing("e"))

    assert listings.get(MIRROR, "second") is None
    assert listings.get(MIRROR, "first") == listing("a", "b")
    assert listings.get(MIRROR, "third") == listing("e")


def test_a_listing_that_is_too_long_is_not_kept() -> None:
    listings = Listings(most_files=2)
    listings.keep(MIRROR, "short", listing("a"))

    listings.keep(MIRROR, "long", listing("a", "b", "c"))

    assert listings.get(MIRROR, "long") is None
    assert listings.get(MIRROR, "short") == listing("a")


def test_mirrors_share_no_listing() -> None:
    listings = Listings()
    listings.keep(MIRROR, "commit", listing("a"))

    assert listings.get(MIRROR.with_name("b"), "commit") is None


def test_commits_without_files_are_bounded_too() -> None:
    listings = Listings(most_files=2)
    for commit in ("first", "second", "third"):
        listings.keep(MIRROR, commit, [])

    assert listings.get(MIRROR, "first") is None
    assert listings.get(MIRROR, "third") == []
