"""Repositories, URLs and names that try to run something: a canary file shows whether they did."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.runtime.git import Git
from tests.scm.conftest import ENV, HttpServer, Repo, git, source, spec
from worker.checkout import MirrorCache
from worker.prepare import files_for, prepare


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def hostile_urls(canary: Path, served: str) -> list[str]:
    return [
        f"--upload-pack=touch {canary};",
        f"--upload-pack=touch${{IFS}}{canary};",
        f"-u touch {canary}",
        f"ext::sh -c touch% {canary}",
        f"ext::touch${{IFS}}{canary}",
        f"ssh://-oProxyCommand=touch${{IFS}}{canary}/x",
        f"git@-oProxyCommand=touch${{IFS}}{canary}:x",
        f"fd::17,{canary}",
        f"file://{served}",
        served,
        f"{served};touch {canary}",
        f"$(touch {canary})",
    ]


@pytest.mark.parametrize("number", range(12))
async def test_a_hostile_url_is_refused_and_runs_nothing(
    number: int, canary: Path, repo: Repo, tmp_path: Path
) -> None:
    revision = repo.commit({"a": "1"})
    url = hostile_urls(canary, repo.url)[number]
    mirrors = MirrorCache(tmp_path / "mirrors", git=Git())

    with pytest.raises(ScmError) as caught:
        await Git().ls_remote(url, "main")
    with pytest.raises(ScmError) as fetched:
        async with mirrors.open(source(url, revision), timeout_s=20):
            pass

    assert caught.value.reason == fetched.value.reason == Reason.SCM_REFUSED
    assert not canary.exists()


@pytest.mark.parametrize("number", range(12))
async def test_git_itself_is_started_so_that_a_url_that_slipped_through_runs_nothing(
    number: int, canary: Path, repo: Repo, tmp_path: Path
) -> None:
    repo.commit({"a": "1"})
    url = hostile_urls(canary, repo.url)[number]

    listed = await Git().run("ls-remote", "--", url, timeout_s=20)
    cloned = await Git().run("clone", "--bare", "--", url, str(tmp_path / "x"), timeout_s=20)

    assert listed.exit_code != 0
    assert cloned.exit_code != 0
    assert not canary.exists()


def test_the_canary_sings_when_git_is_called_carelessly(canary: Path, repo: Repo) -> None:
    repo.commit({"a": "1"})

    careless = ["git", "ls-remote", f"--upload-pack=touch {canary};", repo.url]
    subprocess.run(careless, env=ENV, capture_output=True, check=False)

    assert canary.exists()


@pytest.mark.parametrize(
    "branch",
    ["-bX", "--upload-pack=touch x", "--help", "a:b", "+a", "a..b", "refs/heads/*", "@{-1}"],
)
async def test_a_hostile_branch_name_runs_and_creates_nothing(
    branch: str, canary: Path, repo: Repo, mirrors: MirrorCache, local_git: Git
) -> None:
    revision = repo.commit({"a": "1"})

    with pytest.raises(ScmError) as caught:
        await local_git.ls_remote(repo.url, branch)
    assert caught.value.reason in {Reason.SCM_REFUSED, Reason.SCM_NOT_FOUND}
    if branch != "+a":  # a name git accepts; the commit is there all the same
        with pytest.raises(ScmError):
            async with mirrors.open(source(repo.url, revision, branch=branch), timeout_s=20):
                pass


@pytest.mark.parametrize(
    "revision", ["HEAD", "main", "--all", "abc", "-" * 40, "a" * 39 + ";", "0" * 40 + ":x"]
)
async def test_a_revision_that_is_no_commit_id_is_refused(
    revision: str, repo: Repo, mirrors: MirrorCache
) -> None:
    repo.commit({"a": "1"})
    for chosen in (
        source(repo.url, revision),
        source(repo.url, "0" * 40, base_revision=revision),
    ):
        with pytest.raises(ScmError) as caught:
            async with mirrors.open(chosen, timeout_s=20):
                pass
        assert caught.value.reason == Reason.SCM_REFUSED


async def test_a_local_url_needs_both_the_process_and_the_task_to_allow_it(
    repo: Repo, mirrors: MirrorCache
) -> None:
    revision = repo.commit({"a": "1"})

    with pytest.raises(ScmError, match="not accepted here"):
        async with mirrors.open(source(repo.url, revision, is_local=False), timeout_s=20):
            pass


SUBMODULE = '[submodule "x"]\n\tpath = sub\n\turl = ext::sh -c touch% {canary}\n'


def booby_trap(repo: Repo, canary: Path, *, modules_text: str = SUBMODULE) -> str:
    """Commit and configure everything by which a repository can try to run something."""
    touch = f"touch {canary}"
    config = (
        f"[core]\n\tfsmonitor = {touch}; false\n\tsshCommand = {touch}\n\thooksPath = hooks\n"
        f"\tpager = {touch}\n\teditor = {touch}\n\tgitProxy = {touch}\n"
        f'[filter "evil"]\n\tsmudge = {touch}\n\tclean = {touch}\n\tprocess = {touch}\n'
        f'\trequired = true\n[diff "evil"]\n\ttextconv = {touch}\n\tcommand = {touch}\n'
        f"[uploadpack]\n\tpackObjectsHook = {touch}\n[credential]\n\thelper = !{touch}\n"
        f"[protocol]\n\tallow = always\n[alias]\n\tls-tree = !{touch}\n"
    )
    hook = f"#!/bin/sh\n{touch}\n"
    head = repo.commit(
        {
            ".gitattributes": "* filter=evil diff=evil merge=evil\n*.txt text eol=crlf ident\n",
            ".gitconfig": config,
            ".lfsconfig": f"[lfs]\n\tcustomtransfer.x.path = {canary}\n",
            "hooks/post-checkout": hook,
            "line.txt": "a\n$Id$\nb\n",
            "big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        }
    )
    tree = repo.git("rev-parse", "HEAD^{tree}")
    link = repo.git("hash-object", "-w", "--stdin", stdin=b"/etc/passwd")
    folder = repo.git("hash-object", "-w", "--stdin", stdin=b"/etc")
    modules = repo.git(
        "hash-object",
        "-w",
        "--stdin",
        stdin=modules_text.format(canary=canary).encode(),
    )
    entries = repo.git("ls-tree", tree) + (
        f"\n120000 blob {link}\tevil_link.py\n120000 blob {folder}\tetc\n"
        f"160000 commit {head}\tsub\n100644 blob {modules}\t.gitmodules\n"
    )
    evil = repo.git("mktree", "--missing", stdin=entries.encode())
    commit = repo.git("commit-tree", evil, "-p", head, "-m", "evil")
    repo.git("update-ref", "refs/heads/main", commit)
    for name in ("post-checkout", "post-upload-pack", "reference-transaction", "pre-auto-gc"):
        path = repo.path / ".git" / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(hook)
        path.chmod(0o755)
    return commit


@pytest.mark.parametrize("setting", ["update = !touch {}", "url = -u{}"])
async def test_submodules_that_would_run_something_are_refused(
    setting: str, http: HttpServer, repo: Repo, canary: Path, mirrors: MirrorCache
) -> None:
    text = SUBMODULE + "\t" + setting.replace("{}", "{canary}") + "\n"
    commit = booby_trap(repo, canary, modules_text=text)

    with pytest.raises(ScmError, match="broken or dangerous") as caught:
        async with mirrors.open(source(f"{http.url}/repo/.git", commit), timeout_s=30):
            pass

    assert caught.value.reason == Reason.SCM_REFUSED
    assert not canary.exists()


@pytest.mark.parametrize("over", ["http", "local"])
async def test_a_booby_trapped_repository_runs_nothing_and_becomes_plain_files(
    over: str, http: HttpServer, repo: Repo, canary: Path, mirrors: MirrorCache, tmp_path: Path
) -> None:
    commit = booby_trap(repo, canary)
    url = f"{http.url}/repo/.git" if over == "http" else repo.url
    if over == "local":
        evil = (repo.path / ".gitconfig").read_text().replace("[core]", "[core]\n\tbare = false", 1)
        with (repo.path / ".git" / "config").open("a") as config:
            config.write(evil)
    parent = git("rev-parse", f"{commit}^", cwd=repo.path) if over == "http" else None
    chosen = source(url, commit, base_revision=parent)
    into = tmp_path / "tree"

    async with mirrors.open(chosen, timeout_s=30) as mirror:
        await mirror.check_out(into, timeout_s=30)
        report = await prepare(mirror, spec(chosen))
        scope = await files_for(mirror, spec(chosen))

    assert not canary.exists()
    assert (into / "line.txt").read_bytes() == b"a\n$Id$\nb\n"
    assert not [path for path in into.rglob("*") if path.is_symlink()]
    assert (into / "evil_link.py").read_bytes() == b"/etc/passwd"
    assert not (into / ".git").exists()
    assert not any((into / "sub").iterdir())
    assert {"evil_link.py", "etc", "sub"}.isdisjoint(scope.all_files)
    assert report.files == len(scope.all_files) == 7


@pytest.mark.parametrize("name", [".git", ".GIT", "..", ".git/hooks", "git~1"])
async def test_a_tree_that_writes_into_a_git_folder_is_refused(
    name: str, http: HttpServer, repo: Repo, mirrors: MirrorCache, tmp_path: Path
) -> None:
    repo.commit({"a": "1"})
    blob = repo.git("hash-object", "-w", "--stdin", stdin=b"x")
    inner = repo.git("mktree", stdin=f"100644 blob {blob}\tconfig\n".encode())
    # mktree and hash-object refuse such names: written as bytes.
    raw = f"40000 {name}".encode() + b"\0" + bytes.fromhex(inner)
    evil = repo.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=raw)
    commit = repo.git("commit-tree", evil, "-m", "evil")
    repo.git("update-ref", "refs/heads/main", commit)

    with pytest.raises(ScmError) as caught:
        async with mirrors.open(source(f"{http.url}/repo/.git", commit), timeout_s=30) as mirror:
            await mirror.check_out(tmp_path / "tree", timeout_s=30)

    assert caught.value.reason == Reason.SCM_REFUSED
    assert not (tmp_path / "config").exists()
