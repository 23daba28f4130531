"""Asking remotes for a branch: what each way of failing is told as, and what git is kept from."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import core.runtime.git
from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import ScmCredentials
from core.runtime.git import Git
from core.runtime.git_failures import scm_error
from core.runtime.git_secrets import private_environment
from tests.scm.conftest import HttpServer, Repo

REMOTE = Git()


async def refused(
    url: str, *, git: Git = REMOTE, branch: str = "main", **options: object
) -> ScmError:
    with pytest.raises(ScmError) as caught:
        await git.ls_remote(url, branch, **options)  # type: ignore[arg-type]  # passed through
    return caught.value


async def test_the_head_of_a_branch_is_found_over_http(http: HttpServer, repo: Repo) -> None:
    head = repo.commit({"a": "1"})
    repo.git("branch", "other/main")
    repo.commit({"a": "2"})

    assert await REMOTE.ls_remote(f"{http.url}/repo/.git", "other/main") == head


async def test_only_the_branch_of_that_very_name_counts(http: HttpServer, repo: Repo) -> None:
    repo.commit({"a": "1"})
    repo.git("update-ref", "refs/heads/refs/heads/wanted", "HEAD")
    repo.git("tag", "wanted")

    error = await refused(f"{http.url}/repo/.git", branch="wanted")

    assert error.reason == Reason.SCM_NOT_FOUND
    assert "'wanted' does not exist" in error.message


async def test_an_empty_repository_has_no_branch(http: HttpServer) -> None:
    error = await refused(f"{http.url}/repo/.git")

    assert (error.reason, error.is_transient) == (Reason.SCM_NOT_FOUND, False)


async def test_credentials_reach_the_server_and_nothing_else(
    http: HttpServer, repo: Repo, local_git: Git
) -> None:
    head = repo.commit({"a": "1"})
    http.user, http.password = "user name@x", "p@ss:wörd '\"$(id) `x`"
    url = f"{http.url}/repo/.git"
    seen: list[str] = []

    async def spy(request: web.Request) -> web.StreamResponse:
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    seen.append((process / name).read_bytes().decode("utf-8", "replace"))
                except OSError:
                    continue
        http.answer = None
        return await http.handle(request)

    http.answer = spy
    credentials = ScmCredentials(http.user, http.password)
    found = await local_git.ls_remote(url, "main", credentials=credentials)

    assert found == head
    assert any("ls-remote" in text for text in seen)
    assert not any("p@ss:w" in text for text in seen)
    assert (await refused(url, git=local_git)).reason == Reason.SCM_AUTH
    wrong = ScmCredentials(http.user, "wrong")
    error = await refused(url, git=local_git, credentials=wrong)
    assert error.reason == Reason.SCM_AUTH
    assert "wrong" not in error.message


async def test_a_token_without_a_user_works(http: HttpServer, repo: Repo, local_git: Git) -> None:
    head = repo.commit({"a": "1"})
    http.user, http.password = "oauth2", "token"

    found = await local_git.ls_remote(
        f"{http.url}/repo/.git", "main", credentials=ScmCredentials(password="token")
    )

    assert found == head


@pytest.mark.parametrize(
    ("status", "reason", "is_transient"),
    [
        (401, Reason.SCM_AUTH, False),
        (403, Reason.SCM_FORBIDDEN, False),
        (404, Reason.SCM_NOT_FOUND, False),
        (410, Reason.SCM_NOT_FOUND, False),
        (429, Reason.SCM_UNREACHABLE, True),
        (500, Reason.SCM_UNREACHABLE, True),
        (502, Reason.SCM_UNREACHABLE, True),
        (503, Reason.SCM_UNREACHABLE, True),
        (301, Reason.SCM_REFUSED, False),
        (302, Reason.SCM_REFUSED, False),
        (307, Reason.SCM_REFUSED, False),
    ],
)
async def test_each_answer_has_its_reason(
    http: HttpServer, status: int, reason: Reason, is_transient: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
        if status < 400:
            headers["Location"] = f"{http.url}/elsewhere/info/refs?service=git-upload-pack"
        return web.Response(status=status, headers=headers)

    http.answer = answer
    error = await refused(f"{http.url}/repo/.git")

    assert (error.reason, error.is_transient) == (reason, is_transient), error.message
    assert all(request.path.startswith("/repo") for request in http.requests)


async def test_a_page_that_is_no_repository_is_not_found(http: HttpServer) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    http.answer = answer

    assert (await refused(f"{http.url}/x")).reason == Reason.SCM_NOT_FOUND


async def test_nobody_listening_and_no_such_host_are_unreachable(unused_tcp_port: int) -> None:
    for url in (f"http://127.0.0.1:{unused_tcp_port}/x", "http://no-such-host.invalid/x"):
        error = await refused(url)
        assert (error.reason, error.is_transient) == (Reason.SCM_UNREACHABLE, True)


async def test_a_host_without_git_says_so_and_leaves_it_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.runtime.git, "_PATH", str(tmp_path))

    error = await refused("http://127.0.0.1:9/a.git")

    assert (error.reason, error.is_transient) == (Reason.SCM_UNREACHABLE, True)
    assert "git cannot be started on this host" in error.message


async def test_a_server_that_hangs_is_given_up_and_git_is_killed(http: HttpServer) -> None:
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    http.answer = answer
    started = asyncio.get_running_loop().time()
    error = await refused(f"{http.url}/x", timeout_s=0.5)

    assert (error.reason, error.is_transient) == (Reason.SCM_UNREACHABLE, True)
    assert "did not answer within 0.5 s" in error.message
    assert asyncio.get_running_loop().time() - started < 3
    assert not _processes_with(http.url)


async def test_a_cancelled_question_leaves_no_git(http: HttpServer) -> None:
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    http.answer = answer
    question = asyncio.create_task(REMOTE.ls_remote(f"{http.url}/x", "main"))
    await asyncio.wait_for(asked.wait(), 10)
    assert _processes_with(http.url)

    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question

    assert not _processes_with(http.url)


def _processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if text in words and words.startswith(("git", "/usr/lib/git-core")):
            found.append(words)
    return found


async def test_a_remote_that_lists_branches_without_end_is_stopped(http: HttpServer) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/x-git-upload-pack-advertisement"
        await response.prepare(request)
        await response.write(b"001e# service=git-upload-pack\n0000")
        first = b"0" * 39 + b"1 HEAD\0 agent=x\n"
        await response.write(b"%04x" % (len(first) + 4) + first)
        line = b"1" * 40 + b" refs/x/" + b"y" * 900 + b"/refs/heads/main\n"
        packet = (b"%04x" % (len(line) + 4) + line) * 100
        for _ in range(40):
            await response.write(packet)
        await response.write(b"0000")
        return response

    http.answer = answer
    error = await refused(f"{http.url}/x")

    assert error.reason == Reason.SCM_REFUSED
    assert "without end" in error.message


async def test_transient_failures_are_asked_again_and_others_are_not(
    http: HttpServer, repo: Repo
) -> None:
    head = repo.commit({"a": "1"})
    statuses = [500, 503]

    async def flaky(request: web.Request) -> web.StreamResponse:
        if statuses:
            return web.Response(status=statuses.pop())
        return await http.backend(request)

    http.answer = flaky
    assert await REMOTE.resolve_head(f"{http.url}/repo/.git", "main") == head

    async def forbidden(request: web.Request) -> web.Response:
        return web.Response(status=403)

    http.answer, http.requests = forbidden, []
    with pytest.raises(ScmError) as caught:
        await REMOTE.resolve_head(f"{http.url}/repo/.git", "main")
    assert caught.value.reason == Reason.SCM_FORBIDDEN
    assert len(http.requests) == 1


async def test_tries_end_within_the_total_time(unused_tcp_port: int) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(ScmError) as caught:
        await REMOTE.resolve_head(f"http://127.0.0.1:{unused_tcp_port}/x", "main", total_s=1.5)

    assert caught.value.reason == Reason.SCM_UNREACHABLE
    assert asyncio.get_running_loop().time() - started < 2.5


@pytest.fixture
async def tls(tmp_path: Path, http: HttpServer) -> AsyncIterator[tuple[str, Path]]:
    """The same repositories behind a certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "cert.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = tmp_path / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", http.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}", pem
    await runner.cleanup()


async def test_git_runs_on_uvloop_too(http: HttpServer, repo: Repo) -> None:
    head = repo.commit({"a": "1"})

    def elsewhere() -> str:
        return uvloop.run(REMOTE.ls_remote(f"{http.url}/repo/.git", "main"))

    assert await asyncio.to_thread(elsewhere) == head


async def test_a_certificate_nobody_vouches_for_is_untrusted(
    tls: tuple[str, Path], repo: Repo
) -> None:
    url, pem = tls
    head = repo.commit({"a": "1"})

    error = await refused(f"{url}/repo/.git")

    assert (error.reason, error.is_transient) == (Reason.SCM_UNTRUSTED, False)
    assert await Git(ca_file=pem).ls_remote(f"{url}/repo/.git", "main") == head


async def test_local_repositories_are_refused_unless_allowed(repo: Repo, local_git: Git) -> None:
    head = repo.commit({"a": "1"})

    for url in (repo.url, f"file://{repo.url}"):
        assert (await refused(url)).reason == Reason.SCM_REFUSED
        assert await local_git.ls_remote(url, "main") == head
        direct = await REMOTE.run("ls-remote", "--", url, timeout_s=20)
        assert "not allowed" in direct.stderr


async def test_a_local_folder_of_another_owner_works(repo: Repo, local_git: Git) -> None:
    head = repo.commit({"a": "1"})
    subprocess.run(["chown", "-R", "12345", repo.url], check=True)

    assert await local_git.ls_remote(repo.url, "main") == head


async def test_a_local_folder_that_is_no_repository_is_not_found(
    tmp_path: Path, local_git: Git
) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        error = await refused(str(path), git=local_git)
        assert (error.reason, error.is_transient) == (Reason.SCM_NOT_FOUND, False)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Host key verification failed.\nfatal: Could not read from remote", Reason.SCM_UNTRUSTED),
        ("@@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@@", Reason.SCM_UNTRUSTED),
        ("git@h: Permission denied (publickey).\nfatal: Could not read", Reason.SCM_AUTH),
        ("ERROR: Repository not found.\nfatal: Could not read", Reason.SCM_NOT_FOUND),
        ("remote: The project you were looking for could not be found", Reason.SCM_NOT_FOUND),
        ("ssh: connect to host h port 22: Connection timed out", Reason.SCM_UNREACHABLE),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", Reason.SCM_UNREACHABLE),
        ("fatal: write error: No space left on device", Reason.CHECKOUT_FAILED),
        ("remote: HTTP Basic: Access denied", Reason.SCM_AUTH),
        ("", Reason.SCM_UNREACHABLE),
    ],
)
def test_words_of_other_servers_are_understood(words: str, reason: Reason) -> None:
    assert scm_error(words, url="https://h/x").reason == reason


def test_what_a_remote_says_is_shown_without_control_characters_and_secrets() -> None:
    words = "fatal: \x1b]0;x\x07 https://u:secret@h/ " + "y" * 1000
    message = scm_error(words, url="https://u:secret@h/x").message

    assert "secret" not in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "private"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def test_a_key_is_a_file_only_its_owner_reads_and_goes_away(private: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\r\nabc\r\n-----END OPENSSH PRIVATE KEY-----"
    with private_environment(
        ScmCredentials(private_key=key), known_hosts=None, trusted=(), root=private
    ) as environment:
        (file,) = private.glob("*/key")
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert file.read_text().endswith("KEY-----\n")
        assert "\r" not in file.read_text()
        assert str(file) in environment["GIT_SSH_COMMAND"]
        assert "abc" not in str(environment)
        assert "StrictHostKeyChecking=yes" in environment["GIT_SSH_COMMAND"]


async def test_ssh_to_nobody_is_unreachable_and_an_unknown_host_untrusted(
    unused_tcp_port: int,
) -> None:
    error = await refused(f"ssh://git@127.0.0.1:{unused_tcp_port}/x")

    assert (error.reason, error.is_transient) == (Reason.SCM_UNREACHABLE, True)
