"""Mirrors: what is fetched when, how they are shared, bounded and mended, what is written."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.runtime.git import Git
from tests.scm.conftest import HttpServer, Repo, git, source
from worker import checkout
from worker.checkout import Mirror, MirrorCache
from worker.tree import remove_tree


async def test_a_commit_is_written_as_it_is_and_read_only(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    repo.write({"run.sh": "#!/bin/sh\n", "a/b/仓 库\n.txt": b"\r\nx\xff\x00"})
    (repo.path / "run.sh").chmod(0o755)
    revision = repo.commit({"crlf.py": b"a\r\nb\n"})
    into = tmp_path / "tree"

    async with mirrors.open(source(f"{http.url}/repo/.git", revision), timeout_s=30) as mirror:
        await mirror.check_out(into, timeout_s=30)

    assert (into / "a/b/仓 库\n.txt").read_bytes() == b"\r\nx\xff\x00"
    assert (into / "crlf.py").read_bytes() == b"a\r\nb\n"
    assert stat.S_IMODE((into / "crlf.py").stat().st_mode) & 0o333 == 0
    assert (into / "run.sh").stat().st_mode & stat.S_IXUSR
    assert stat.S_IMODE((into / "a").stat().st_mode) == 0o555
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mirrors",
        "private",
        "served",
        "tree",
    ]
    remove_tree(into)
    assert not into.exists()


async def test_a_warm_mirror_is_used_without_asking_the_server(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    revision = repo.commit({"a": "1"})
    chosen = source(f"{http.url}/repo/.git", revision)
    async with mirrors.open(chosen, timeout_s=30):
        pass
    http.requests.clear()

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        assert mirror.revision == revision

    assert http.requests == []


async def test_a_commit_no_branch_holds_any_more_is_fetched_by_its_id(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    old = repo.commit({"a": "1"})
    repo.git("commit", "--quiet", "--amend", "--message", "rewritten")

    async with mirrors.open(source(f"{http.url}/repo/.git", old), timeout_s=30) as mirror:
        assert await mirror.read("cat-file", "-t", old) == b"commit\n"


async def test_a_deleted_branch_does_not_matter_while_the_commit_is_there(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    revision = repo.commit({"a": "1"})
    chosen = source(f"{http.url}/repo/.git", revision, branch="gone")

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        assert mirror.revision == revision


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"revision": "1" * 40}, "commit does not exist"), ({"branch": "no"}, "branch")],
)
async def test_what_does_not_exist_is_told_as_such(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, changes: dict[str, str], words: str
) -> None:
    repo.commit({"a": "1"})
    chosen = source(f"{http.url}/repo/.git", "2" * 40).model_copy(update=changes)

    with pytest.raises(ScmError, match=words) as caught:
        async with mirrors.open(chosen, timeout_s=30):
            pass

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_NOT_FOUND, False)


async def test_a_base_that_is_gone_is_told_and_the_rest_goes_on(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    revision = repo.commit({"a": "1"})
    chosen = source(f"{http.url}/repo/.git", revision, base_revision="3" * 40)

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        assert (mirror.base, mirror.is_base_missing) == (None, True)


async def test_an_unreachable_server_is_transient_and_a_slow_one_too(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    chosen = source(f"{http.url}/repo/.git", repo.commit({"a": "1"}))

    async def hang(request: object) -> object:
        await asyncio.Event().wait()
        return None

    http.answer = hang  # type: ignore[assignment]  # never answers
    with pytest.raises(ScmError) as caught:
        async with mirrors.open(chosen, timeout_s=0.5):
            pass

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_UNREACHABLE, True)


async def test_a_repository_that_is_too_large_is_refused(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "_PACK_BYTES", 1 << 20)
    chosen = source(f"{http.url}/repo/.git", repo.commit({"a": os.urandom(3 << 20)}))

    with pytest.raises(ScmError, match="larger than is accepted") as caught:
        async with mirrors.open(chosen, timeout_s=30):
            pass

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_REFUSED, False)


async def test_a_private_repository_is_fetched_with_its_credentials(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    revision = repo.commit({"a": "1"})
    http.user, http.password = "u", "top-secret"
    url = f"{http.url}/repo/.git"
    with pytest.raises(ScmError) as caught:
        async with mirrors.open(source(url, revision), timeout_s=30):
            pass
    assert caught.value.reason == Reason.SCM_AUTH

    auth = {"username": "u", "password": "top-secret"}
    async with mirrors.open(source(url, revision, auth=auth), timeout_s=30):
        pass

    stored = [path for path in (tmp_path / "mirrors").rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if b"top-secret" in path.read_bytes()]


async def test_mirrors_of_different_owners_share_nothing(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    revision = repo.commit({"a": "1"})
    http.user, http.password = "u", "p"
    url = f"{http.url}/repo/.git"
    mine = source(url, revision, auth={"username": "u", "password": "p"})
    async with mirrors.open(mine, timeout_s=30):
        pass

    with pytest.raises(ScmError) as caught:
        async with mirrors.open(source(url, revision, cache_key="tenant-2/repo-9"), timeout_s=30):
            pass

    assert caught.value.reason == Reason.SCM_AUTH


@pytest.mark.parametrize("key", ["../../escape", "/etc", "a\0b", "x" * 5000, "."])
async def test_a_cache_key_is_never_a_path(
    repo: Repo, mirrors: MirrorCache, tmp_path: Path, key: str
) -> None:
    revision = repo.commit({"a": "1"})

    async with mirrors.open(source(repo.url, revision, cache_key=key), timeout_s=30) as mirror:
        assert mirror.git_dir.parent == tmp_path / "mirrors"


def damage_objects(folder: Path) -> None:
    for path in (folder / "objects").rglob("*"):
        if path.is_file() and path.suffix != ".idx":
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:20])


def damage_refs(folder: Path) -> None:
    (folder / "packed-refs").write_bytes(b"\0\0garbage")
    for path in (folder / "refs").rglob("*"):
        if path.is_file():
            path.write_text("garbage")


def damage_config(folder: Path) -> None:
    (folder / "config").write_bytes(b"[core\n\0")


def lose_objects(folder: Path) -> None:
    remove_tree(folder / "objects")


@pytest.mark.parametrize("damage", [damage_objects, damage_refs, damage_config, lose_objects])
async def test_a_damaged_mirror_is_fetched_anew(
    damage: object, http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    url = f"{http.url}/repo/.git"
    first = repo.commit({"a": "1" * 5000})
    async with mirrors.open(source(url, first), timeout_s=30) as mirror:
        folder = mirror.git_dir
    second = repo.commit({"b": "2" * 5000})
    damage(folder)  # type: ignore[operator]  # one of the functions above

    async def work(mirror: Mirror) -> None:
        await mirror.check_out(tmp_path / "tree", timeout_s=30)

    await mirrors.use(source(url, second), work, timeout_s=30)

    assert (tmp_path / "tree" / "a").read_text() == "1" * 5000


async def test_damage_that_shows_while_reading_is_mended_once(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    chosen = source(f"{http.url}/repo/.git", repo.commit({"a": "1"}))
    async with mirrors.open(chosen, timeout_s=30) as mirror:
        blob = (await mirror.read("rev-parse", f"{mirror.revision}:a")).decode().strip()
        folder = mirror.git_dir
    for pack in (folder / "objects" / "pack").glob("*.pack"):
        content = pack.read_bytes()
        remove_tree(pack.parent)
        git("--git-dir", str(folder), "unpack-objects", cwd=folder, stdin=content)
    lost = folder / "objects" / blob[:2] / blob[2:]
    lost.unlink()
    tries = 0

    async def work(mirror: Mirror) -> None:
        nonlocal tries
        tries += 1
        await mirror.check_out(tmp_path / f"tree-{tries}", timeout_s=30)

    await mirrors.use(chosen, work, timeout_s=30)

    assert tries == 2
    assert (tmp_path / "tree-2" / "a").read_text() == "1"


async def test_what_a_killed_fetch_left_does_not_stop_the_next(
    http: HttpServer, repo: Repo, mirrors: MirrorCache
) -> None:
    url = f"{http.url}/repo/.git"
    async with mirrors.open(source(url, repo.commit({"a": "1"})), timeout_s=30) as mirror:
        folder = mirror.git_dir
    pack = folder / "objects" / "pack" / "tmp_pack_abc"
    pack.write_bytes(b"half")
    (folder / "config.lock").touch()
    (folder / "packed-refs.lock").touch()
    for path in list((folder / "refs").rglob("*")):
        if path.is_file():
            path.with_name(path.name + ".lock").touch()

    async with mirrors.open(source(url, repo.commit({"a": "2"})), timeout_s=30):
        pass

    assert not pack.exists()


async def test_many_attempts_at_once_fetch_once(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    chosen = source(f"{http.url}/repo/.git", repo.commit({"a": "1"}))

    async def attempt(number: int) -> None:
        async with mirrors.open(chosen, timeout_s=30) as mirror:
            await mirror.check_out(tmp_path / f"tree-{number}", timeout_s=30)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(attempt(number))

    fetches = [request for request in http.requests if request.path.endswith("info/refs")]
    assert len(fetches) == 1
    assert all((tmp_path / f"tree-{n}" / "a").read_text() == "1" for n in range(6))


async def test_a_mirror_locked_by_another_process_is_waited_for_in_bounds(
    repo: Repo, local_git: Git, tmp_path: Path
) -> None:
    chosen = source(repo.url, repo.commit({"a": "1"}))
    mirrors = MirrorCache(tmp_path / "mirrors", git=local_git, lock_timeout_s=0.3)
    async with mirrors.open(chosen, timeout_s=30) as mirror:
        lock = mirror.git_dir.with_suffix(".lock")
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(ScmError, match="locked") as caught:
            async with mirrors.open(chosen, timeout_s=30):
                pass
        assert (caught.value.reason, caught.value.is_transient) == (Reason.CHECKOUT_FAILED, True)
    finally:
        holder.communicate(b"\n")
    async with mirrors.open(chosen, timeout_s=30):
        pass


async def test_the_least_recently_used_mirrors_go_and_those_in_use_stay(
    repo: Repo, local_git: Git, tmp_path: Path
) -> None:
    revision = repo.commit({"a": os.urandom(300_000)})
    mirrors = MirrorCache(tmp_path / "mirrors", git=local_git, max_bytes=1 << 30)
    folders = []
    for number in range(4):
        chosen = source(repo.url, revision, cache_key=str(number))
        async with mirrors.open(chosen, timeout_s=30) as mirror:
            folders.append(mirror.git_dir)
            used = mirror.git_dir / "used"
        os.utime(used, (number, number))
    small = MirrorCache(tmp_path / "mirrors", git=local_git, max_bytes=700_000)

    async with small.open(source(repo.url, revision, cache_key="1"), timeout_s=30):
        os.utime(folders[1] / "used", (1, 1))
        assert await small.trim() == 2

    assert [folder.exists() for folder in folders] == [False, True, False, True]


async def test_a_worker_that_is_killed_while_it_fetches_leaves_a_usable_mirror(
    http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    chosen = source(f"{http.url}/repo/.git", repo.commit({"a": "1"}))
    fetching, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: object) -> object:
        fetching.set()
        await go_on.wait()
        return await http.backend(request)  # type: ignore[arg-type]  # a request

    http.answer = slow  # type: ignore[assignment]  # answers late
    program = textwrap.dedent(f"""
        from __future__ import annotations
        import asyncio
        from pathlib import Path
        from core.protocol.messages import Source
        from core.runtime.git import Git
        from worker.checkout import MirrorCache
        async def main():
            mirrors = MirrorCache(Path({str(tmp_path / "mirrors")!r}), git=Git())
            chosen = Source.model_validate_json({chosen.model_dump_json()!r})
            async with mirrors.open(chosen, timeout_s=60):
                pass
        asyncio.run(main())
    """)
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=Path(checkout.__file__).parents[1]
    )
    await asyncio.wait_for(fetching.wait(), 20)
    worker.kill()
    await worker.wait()
    go_on.set()
    http.answer = None

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        assert mirror.revision == chosen.revision
