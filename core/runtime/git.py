"""Run git on what strangers name: a fixed environment, bounded in time and output, never a shell.

Owns how git is started and ended, and the one question asked of a remote without fetching:
which commit a branch is at. Works with the stock loop and with uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import ScmCredentials, ScmUrl, check_branch, check_revision, parse_scm_url
from core.runtime.git_failures import scm_error, too_slow
from core.runtime.git_secrets import private_environment

_PATH = "/usr/local/bin:/usr/bin:/bin"
_STDERR_BYTES = 16 << 10
_OUTPUT_BYTES = 1 << 20
#: A killed group is gone in milliseconds; a process the kernel cannot kill must not hold us.
_KILLED_WITHIN_S = 5.0
_PIPES_WITHIN_S = 1.0
_BACKOFF_S = (0.5, 8.0)

#: Old and harmless defects of real repositories, which fsck would refuse whole histories for.
_FORGIVEN = (
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedFilemode",
    "zeroPaddedDate",
    "badDateOverflow",
)

_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.autocrlf=false",
    "core.quotePath=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "http.followRedirects=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "http.sslVerify=true",
    "credential.helper=",
    "transfer.fsckObjects=true",
    "protocol.version=2",
    "gc.auto=0",
    "gc.autoDetach=false",
    "maintenance.auto=false",
    *(f"fetch.fsck.{defect}=ignore" for defect in _FORGIVEN),
)


@dataclass(frozen=True, slots=True)
class GitResult:
    """How a git command ended and what it said."""

    ended: Literal["exit", "timeout", "overflow"]
    #: Negative for a signal; meaningful with `exit` only.
    exit_code: int
    stdout: bytes
    stderr: str

    @property
    def is_ok(self) -> bool:
        """Tell whether it ended by itself, with status 0."""
        return self.ended == "exit" and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class Git:
    """Starts git. Holds what is the same for all commands of a process."""

    allow_local: bool = False
    #: Certificate authorities instead of the system's.
    ca_file: Path | None = None
    #: Host keys instead of those of the service's user and of the host.
    known_hosts: Path | None = None
    #: Where files with credentials exist while a command runs; None: the temporary folder.
    private_root: Path | None = None

    async def run(
        self,
        *arguments: str,
        timeout_s: float,
        git_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        credentials: ScmCredentials | None = None,
        trusted: Sequence[Path] = (),
        max_output_bytes: int = _OUTPUT_BYTES,
        max_file_bytes: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> GitResult:
        """Run `git <arguments>`; whatever happens, no process of it is left afterwards.

        The caller puts `--` before anything a stranger named.
        """
        argv = [*("git", "--no-pager", "--literal-pathspecs"), *self._options(), *arguments]
        with (
            private_environment(
                credentials,
                known_hosts=self.known_hosts,
                trusted=trusted,
                root=self.private_root,
            ) as private,
            _input(stdin) as source,
        ):
            environment = {**self._environment(), **private, **(env or {})}
            if git_dir is not None:
                environment["GIT_DIR"] = str(git_dir)
            return await _run(
                argv,
                environment,
                source,
                timeout_s=timeout_s,
                max_output_bytes=max_output_bytes,
                max_file_bytes=max_file_bytes,
                pass_fds=pass_fds,
            )

    async def ls_remote(
        self,
        url: str,
        branch: str,
        *,
        credentials: ScmCredentials | None = None,
        timeout_s: float = 20.0,
    ) -> str:
        """Ask the remote which commit *branch* is at. One try.

        Raises:
            ScmError: with its reason and what to do.
        """
        address = parse_scm_url(url, allow_local=self.allow_local)
        wanted = f"refs/heads/{check_branch(branch)}"
        result = await self.run(
            *("ls-remote", "--quiet", "--", address.url, wanted, "HEAD"),
            timeout_s=timeout_s,
            credentials=credentials,
            trusted=trusted_folders(address),
        )
        raise_unless_ok(result, address, timeout_s=timeout_s)
        # Patterns match the ends of names, so that others than the wanted one may be listed.
        found = dict(_listed(result.stdout))
        if wanted in found:
            return check_revision(found[wanted])
        missing = "does not exist" if "HEAD" in found else "does not exist, or nothing does yet"
        raise ScmError(Reason.SCM_NOT_FOUND, f"the branch {branch!r} {missing} in the repository")

    async def resolve_head(
        self,
        url: str,
        branch: str,
        *,
        credentials: ScmCredentials | None = None,
        total_s: float = 60.0,
        per_try_s: float = 20.0,
        chance: random.Random | None = None,
    ) -> str:
        """Ask until the remote answers; only what may pass by itself is asked again.

        Raises:
            ScmError: the last try's.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + total_s
        pause = _BACKOFF_S[0]
        while True:
            try:
                return await self.ls_remote(
                    url,
                    branch,
                    credentials=credentials,
                    timeout_s=min(per_try_s, max(0.1, deadline - loop.time())),
                )
            except ScmError as error:
                wait = pause * (chance or random).uniform(0.5, 1.5)
                if not error.is_transient or loop.time() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)
            pause = min(2 * pause, _BACKOFF_S[1])

    def _options(self) -> list[str]:
        settings = list(_CONFIG)
        if self.ca_file is not None:
            settings.append(f"http.sslCAInfo={self.ca_file}")
        return [word for setting in settings for word in ("-c", setting)]

    def _environment(self) -> dict[str, str]:
        """Return git's environment, built from nothing: no home, no configuration, no proxy."""
        return {
            "PATH": _PATH,
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "LANGUAGE": "C",
            "TZ": "UTC",
            "GIT_ALLOW_PROTOCOL": "https:http:ssh" + (":file" if self.allow_local else ""),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_SSH_VARIANT": "ssh",
            # Without one git looks for a repository around the current folder.
            "GIT_CEILING_DIRECTORIES": "/",
        }


def trusted_folders(address: ScmUrl) -> list[Path]:
    """Return the folders of a local repository, which may belong to somebody else."""
    if not address.is_local:
        return []
    folder = Path(address.path)
    return [folder, folder / ".git", folder.resolve(), folder.resolve() / ".git"]


def raise_unless_ok(result: GitResult, address: ScmUrl, *, timeout_s: float) -> None:
    """Raise what a failed remote command means."""
    if result.ended == "timeout":
        raise too_slow(url=address.url, timeout_s=timeout_s)
    if result.ended == "overflow":
        raise ScmError(Reason.SCM_REFUSED, f"{address.url}: the remote answers without end")
    if result.exit_code == -signal.SIGXFSZ:
        raise ScmError(Reason.SCM_REFUSED, f"{address.url}: the repository is too large")
    if result.exit_code != 0:
        raise scm_error(result.stderr, url=address.url)


def _listed(stdout: bytes) -> list[tuple[str, str]]:
    lines = stdout.decode("utf-8", "surrogateescape").split("\n")
    return [(name, sha) for sha, _, name in (line.partition("\t") for line in lines) if name]


@contextlib.contextmanager
def _input(content: bytes | None) -> Iterator[IO[bytes] | int]:
    if content is None:
        yield asyncio.subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


class _Sink(asyncio.Protocol):
    """One output of git: all of it up to a limit, or its last bytes.

    A pipe of our own: `Process.wait` waits for asyncio's pipes, which a grandchild can hold.
    """

    def __init__(self, limit: int, *, keeps_tail: bool) -> None:
        self.content = bytearray()
        self.is_full = asyncio.Event()
        self.is_over = asyncio.Event()
        self._limit = limit
        self._keeps_tail = keeps_tail

    def data_received(self, data: bytes) -> None:
        if self.is_full.is_set():
            return
        self.content += data
        if len(self.content) > self._limit:
            if self._keeps_tail:
                del self.content[: len(self.content) - self._limit]
            else:
                self.is_full.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_over.set()


async def _run(
    argv: list[str],
    env: Mapping[str, str],
    stdin: IO[bytes] | int,
    *,
    timeout_s: float,
    max_output_bytes: int,
    max_file_bytes: int | None,
    pass_fds: Sequence[int],
) -> GitResult:
    stdout = _Sink(max_output_bytes, keeps_tail=False)
    stderr = _Sink(_STDERR_BYTES, keeps_tail=True)
    async with _connected(stdout) as out, _connected(stderr) as err:
        process = await _spawn(argv, env, stdin, out, err, pass_fds)
        try:
            if max_file_bytes is not None:  # in time: git forks the unpacker after the answer
                with contextlib.suppress(ProcessLookupError):
                    limit = (max_file_bytes, max_file_bytes)
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limit)
            ended = await _end_of(process, stdout, timeout_s)
        finally:
            await _kill(process)
            # git's transports hold both pipes too: their end is the end of the last of them.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PIPES_WITHIN_S):
                    await stdout.is_over.wait()
                    await stderr.is_over.wait()
    if stdout.is_full.is_set():
        ended = "overflow"
    code = -9 if process.returncode is None else process.returncode
    return GitResult(ended, code, bytes(stdout.content), stderr.content.decode("utf-8", "replace"))


async def _end_of(
    process: asyncio.subprocess.Process, stdout: _Sink, timeout_s: float
) -> Literal["exit", "timeout", "overflow"]:
    exiting = asyncio.create_task(process.wait(), name="git.exit")
    flooding = asyncio.create_task(stdout.is_full.wait(), name="git.flood")
    try:
        await asyncio.wait(
            {exiting, flooding}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if exiting.done():
            return "exit"
        return "overflow" if flooding.done() else "timeout"
    finally:
        exiting.cancel()
        flooding.cancel()


@contextlib.asynccontextmanager
async def _connected(sink: _Sink) -> AsyncIterator[IO[bytes]]:
    """Yield the write end of a pipe into *sink*; close it once a process has it."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", 0) as writer:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: sink, os.fdopen(read_end, "rb", 0)
        )
        try:
            yield writer
        finally:
            transport.close()


async def _spawn(
    argv: list[str],
    env: Mapping[str, str],
    stdin: IO[bytes] | int,
    stdout: IO[bytes],
    stderr: IO[bytes],
    pass_fds: Sequence[int],
) -> asyncio.subprocess.Process:
    """Start git in its own group, and lose no process when cancelled between fork and return."""
    spawning = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        ),
        name="git.spawn",
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await _kill(await spawning)
        raise
    except OSError as error:
        # Not installed, or the host is out of processes: another host may do better, or this later.
        raise ScmError(
            Reason.SCM_UNREACHABLE,
            f"git cannot be started on this host: {error.strerror or error}",
            is_transient=True,
        ) from error
    finally:
        stdout.close()
        stderr.close()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of git's group: the programs for its transports live in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_WITHIN_S):
            await process.wait()
