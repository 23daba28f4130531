"""Real repositories, and real servers that offer them over HTTP as git's own backend does."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.protocol.messages import Source, TaskLimits, TaskSpec
from core.runtime.git import Git
from worker.checkout import MirrorCache
from worker.tree import remove_tree

BACKEND = "/usr/lib/git-core/git-http-backend"
ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
}


def git(*arguments: str, cwd: Path, stdin: bytes = b"") -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=ENV, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@dataclass
class Repo:
    """A repository with a work tree, as a user has it."""

    path: Path
    branch: str = "main"

    @property
    def url(self) -> str:
        return str(self.path)

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        return git(*arguments, cwd=self.path, stdin=stdin)

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: dict[str, str | bytes] | None = None, *, message: str = "c") -> str:
        self.write(files or {})
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    path = tmp_path / "served" / "repo"
    path.mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=main", ".", cwd=path)
    return Repo(path)


@pytest.fixture
def local_git(tmp_path: Path) -> Git:
    (tmp_path / "private").mkdir(mode=0o700)
    return Git(allow_local=True, private_root=tmp_path / "private")


@pytest.fixture
def mirrors(tmp_path: Path, local_git: Git) -> MirrorCache:
    return MirrorCache(tmp_path / "mirrors", git=local_git, lock_timeout_s=20)


@pytest.fixture(autouse=True)
def _nothing_private_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    private = tmp_path / "private"
    assert not private.exists() or list(private.iterdir()) == []
    remove_tree(tmp_path)


def source(url: str, revision: str, **changes: Any) -> Source:
    values: dict[str, Any] = {
        "scm_url": url,
        "branch": "main",
        "revision": revision,
        "is_local": url.startswith(("/", "file:")),
        "cache_key": "tenant-1/repo-1",
    }
    return Source(**(values | changes))


def spec(chosen: Source, **changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "task_id": 1,
        "attempt_id": 1,
        "attempt": 1,
        "job_id": 1,
        "lease_token": "x" * 20,
        "kind": "prepare",
        "engine": "prepare",
        "source": chosen,
        "limits": TaskLimits(
            wall_s=60, idle_s=60, output_bytes=1 << 20, file_bytes=1 << 20, memory_bytes=1 << 30
        ),
    }
    return TaskSpec(**(values | changes))


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class HttpServer:
    """Serves repositories below a folder; `answer` takes over when set."""

    root: Path
    url: str = ""
    user: str | None = None
    password: str | None = None
    answer: Answer | None = None
    requests: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.answer is not None:
            return await self.answer(request)
        if self.password is not None:
            pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != f"Basic {pair}":
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        return await self.backend(request)

    async def backend(self, request: web.Request) -> web.Response:
        body = await request.read()
        process = await asyncio.create_subprocess_exec(
            BACKEND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                **ENV,
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": request.path,
                "QUERY_STRING": request.query_string,
                "REQUEST_METHOD": request.method,
                "CONTENT_TYPE": request.content_type,
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            },
        )
        output, _ = await process.communicate(body)
        head, _, content = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=headers, body=content)


@pytest.fixture
async def http(tmp_path: Path, repo: Repo) -> AsyncIterator[HttpServer]:
    server = HttpServer(tmp_path / "served")
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()
