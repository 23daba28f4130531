"""Deploy keys and host keys against a real ssh server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import ScmCredentials
from core.runtime.git import Git
from tests.sandbox.conftest import until
from tests.scm.conftest import Repo, source
from worker.checkout import MirrorCache

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed (openssh-server)"),
    pytest.mark.skipif(os.getuid() != 0, reason="sshd logs in as root here"),
]


@dataclass
class SshServer:
    url: str
    known_hosts: Path
    key: str
    other_key: str


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.read_text()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Its own: sshd wants no folder above the keys to be writable by others.
    return tmp_path_factory.mktemp("sshd")


@pytest.fixture
async def ssh(folder: Path, repo: Repo, unused_tcp_port: int) -> AsyncIterator[SshServer]:
    make_key(folder / "host")
    key, other = make_key(folder / "user"), make_key(folder / "other")
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = unused_tcp_port
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    public = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    assert SSHD
    log = folder / "log"
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", log])
    try:
        await _listening(port)
        url = f"ssh://root@127.0.0.1:{port}{repo.url}"
        yield SshServer(url, folder / "known_hosts", key, other)
    finally:
        server.terminate()
        server.wait(10)


async def _listening(port: int) -> None:
    def connects() -> bool:
        done = subprocess.run(
            ["ssh-keyscan", "-T", "1", "-p", str(port), "127.0.0.1"],
            capture_output=True,
            check=False,
        )
        return bool(done.stdout)

    await until(connects, within_s=10)


async def test_a_deploy_key_opens_a_repository(ssh: SshServer, repo: Repo, tmp_path: Path) -> None:
    head = repo.commit({"a": "1"})
    git = Git(known_hosts=ssh.known_hosts)
    auth = {"private_key": ssh.key}

    assert await git.ls_remote(ssh.url, "main", credentials=ScmCredentials(**auth)) == head
    mirrors = MirrorCache(tmp_path / "mirrors", git=git)
    async with mirrors.open(source(ssh.url, head, auth=auth), timeout_s=30) as mirror:
        await mirror.check_out(tmp_path / "tree", timeout_s=30)
    assert (tmp_path / "tree" / "a").read_text() == "1"


@pytest.mark.parametrize("which", ["other", "none"])
async def test_a_wrong_key_or_none_is_refused_as_credentials(
    ssh: SshServer, repo: Repo, which: str
) -> None:
    repo.commit({"a": "1"})
    credentials = ScmCredentials(private_key=ssh.other_key) if which == "other" else None

    with pytest.raises(ScmError) as caught:
        await Git(known_hosts=ssh.known_hosts).ls_remote(ssh.url, "main", credentials=credentials)

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_AUTH, False)


async def test_a_host_key_nobody_knows_is_untrusted(
    ssh: SshServer, repo: Repo, tmp_path: Path
) -> None:
    repo.commit({"a": "1"})
    (tmp_path / "empty").touch()
    credentials = ScmCredentials(private_key=ssh.key)

    with pytest.raises(ScmError) as caught:
        await Git(known_hosts=tmp_path / "empty").ls_remote(
            ssh.url, "main", credentials=credentials
        )

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_UNTRUSTED, False)


async def test_a_host_key_that_changed_is_untrusted(
    ssh: SshServer, repo: Repo, folder: Path
) -> None:
    repo.commit({"a": "1"})
    host = ssh.known_hosts.read_text().split()[0]
    public = (folder / "other.pub").read_text().split()
    ssh.known_hosts.write_text(f"{host} {public[0]} {public[1]}\n")

    with pytest.raises(ScmError) as caught:
        await Git(known_hosts=ssh.known_hosts).ls_remote(
            ssh.url, "main", credentials=ScmCredentials(private_key=ssh.key)
        )

    assert (caught.value.reason, caught.value.is_transient) == (Reason.SCM_UNTRUSTED, False)


async def test_a_repository_that_is_not_there_is_not_found(ssh: SshServer) -> None:
    with pytest.raises(ScmError) as caught:
        await Git(known_hosts=ssh.known_hosts).ls_remote(
            ssh.url + "-missing", "main", credentials=ScmCredentials(private_key=ssh.key)
        )

    assert caught.value.reason == Reason.SCM_NOT_FOUND


async def test_a_command_in_the_path_is_not_run_on_the_server(
    ssh: SshServer, repo: Repo, tmp_path: Path
) -> None:
    repo.commit({"a": "1"})
    canary = tmp_path / "canary"

    with pytest.raises(ScmError):
        await Git(known_hosts=ssh.known_hosts).ls_remote(
            f"{ssh.url}';touch${{IFS}}{canary};'",
            "main",
            credentials=ScmCredentials(private_key=ssh.key),
        )

    assert not canary.exists()
