"""Keep bare mirrors of repositories, so that a commit is fetched once for all tasks of a job.

Owns what a mirror must hold (the branch, the revision, the base), its lock and its bound on disk.
A mirror belongs to one `cache_key` and shares no object with another.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import (
    ScmCredentials,
    ScmUrl,
    check_branch,
    check_revision,
    parse_scm_url,
)
from core.protocol.messages import ScmAuth, Source
from core.runtime.git import Git, raise_unless_ok, trusted_folders
from worker.listings import Listings
from worker.mirror import (
    LOCAL_TIMEOUT_S,
    Mirror,
    MirrorDamaged,
    checkout_failed,
    raise_when_damaged,
)
from worker.tree import remove_tree

__all__ = ["Mirror", "MirrorCache", "MirrorDamaged", "MirrorLocked"]

_PACK_BYTES = 16 << 30
_GC_EVERY_PACKS = 50
_OPEN_TRIES = 3
_LOCK_POLL_S = (0.01, 0.25)
#: Bytes as committed: no line ends, keywords, filters or encodings that attributes ask for.
_ATTRIBUTES = "* -text -eol -ident -filter -working-tree-encoding\n"
T = TypeVar("T")


class MirrorCache:
    """Bare mirrors below one folder, one a cache key; the least recently used are evicted."""

    def __init__(
        self,
        root: Path,
        *,
        git: Git,
        max_bytes: int = 20 << 30,
        lock_timeout_s: float = 600.0,
    ) -> None:
        self._root = root
        self._git = git
        self._max_bytes = max_bytes
        self._lock_timeout_s = lock_timeout_s
        self._listings = Listings()

    @asynccontextmanager
    async def open(self, source: Source, *, timeout_s: float) -> AsyncIterator[Mirror]:
        """Fetch what is missing and hold the mirror for the block.

        Raises:
            ScmError: with a reason and what to do; transient when the mirror is damaged.
        """
        wanted = _Wanted.of(source, allow_local=self._git.allow_local and source.is_local)
        folder = self._folder(source.cache_key)
        for _ in range(_OPEN_TRIES):
            async with self._locked(folder, fcntl.LOCK_SH) as lock:
                mirror = await self._found(folder, wanted, lock)
                if mirror is not None:
                    _touch(folder)
                    yield mirror
                    return
            async with self._locked(folder, fcntl.LOCK_EX) as lock:
                if await self._found(folder, wanted, lock) is None:
                    wanted = await self._fetched(folder, wanted, lock, timeout_s)
                _touch(folder)
            await self.trim(keep=folder)
        raise ScmError(
            Reason.CHECKOUT_FAILED, "the mirror was evicted again and again", is_transient=True
        )

    async def use(
        self, source: Source, work: Callable[[Mirror], Awaitable[T]], *, timeout_s: float
    ) -> T:
        """Do some work with an open mirror; with a fresh one, once, when it proves damaged.

        Raises:
            ScmError: as `open` and the work.
        """
        try:
            async with self.open(source, timeout_s=timeout_s) as mirror:
                return await work(mirror)
        except MirrorDamaged:
            await self.discard(source)
        async with self.open(source, timeout_s=timeout_s) as mirror:
            return await work(mirror)

    async def discard(self, source: Source) -> None:
        """Throw a mirror away, because it turned out to be damaged."""
        folder = self._folder(source.cache_key)
        async with self._locked(folder, fcntl.LOCK_EX):
            await asyncio.to_thread(remove_tree, folder)

    async def trim(self, *, keep: Path | None = None) -> int:
        """Evict mirrors that are not in use until the cache fits; return how many went."""
        mirrors = await asyncio.to_thread(self._measured)
        total = sum(size for _, size, _ in mirrors)
        evicted = 0
        for _, size, folder in sorted(mirrors):
            if total <= self._max_bytes:
                break
            if folder == keep:
                continue
            with suppress(MirrorLocked):
                async with self._locked(folder, fcntl.LOCK_EX, timeout_s=0):
                    await asyncio.to_thread(remove_tree, folder)
                    total -= size
                    evicted += 1
        return evicted

    def _folder(self, cache_key: str) -> Path:
        return self._root / hashlib.sha256(cache_key.encode()).hexdigest()[:40]

    @asynccontextmanager
    async def _locked(
        self, folder: Path, kind: int, *, timeout_s: float | None = None
    ) -> AsyncIterator[int]:
        """Hold a mirror's lock. Its file stays, so that all wait at the same one."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder.with_suffix(".lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _take(lock, kind, self._lock_timeout_s if timeout_s is None else timeout_s)
            yield lock
        finally:
            os.close(lock)

    async def _found(self, folder: Path, wanted: _Wanted, lock: int) -> Mirror | None:
        """Return the mirror when it holds all that is wanted already."""
        if not (folder / "HEAD").exists():
            return None
        mirror = Mirror(
            self._git,
            folder,
            wanted.revision,
            wanted.base,
            wanted.is_base_missing,
            lock,
            self._listings,
        )
        for sha in wanted.commits:
            if not await _has(mirror, sha):
                return None
        return mirror

    async def _fetched(self, folder: Path, wanted: _Wanted, lock: int, timeout_s: float) -> _Wanted:
        try:
            return await self._fetch(folder, wanted, lock, timeout_s)
        except MirrorDamaged:
            await asyncio.to_thread(remove_tree, folder)
        return await self._fetch(folder, wanted, lock, timeout_s)

    async def _fetch(self, folder: Path, wanted: _Wanted, lock: int, timeout_s: float) -> _Wanted:
        """Bring the mirror up to what is wanted; the caller holds its lock alone.

        Returns what it then holds: without the base, if that cannot be had any more.
        """
        mirror = Mirror(self._git, folder, wanted.revision, wanted.base, False, lock)
        await self._initialise(mirror)
        deadline = asyncio.get_running_loop().time() + timeout_s
        absent: ScmError | None = None
        try:
            ref = f"refs/kennel/heads/{_digest(wanted.branch)}"
            await _fetch_ref(mirror, wanted, f"refs/heads/{wanted.branch}", ref, deadline)
        except ScmError as error:
            # A branch deleted since may have left its commit on the server.
            if error.reason != Reason.SCM_NOT_FOUND:
                raise
            absent = error
        if not await _has(mirror, wanted.revision):
            try:
                await _fetch_commit(mirror, wanted, wanted.revision, deadline)
            except ScmError as error:
                raise (absent or error) from error
        await _keep(mirror, wanted.revision)
        if wanted.base is not None and not await _has(mirror, wanted.base):
            try:
                await _fetch_commit(mirror, wanted, wanted.base, deadline)
            except ScmError as error:
                if error.reason != Reason.SCM_NOT_FOUND:
                    raise
                wanted = replace(wanted, base=None, is_base_missing=True)
        if wanted.base is not None:
            await _keep(mirror, wanted.base)
        await self._collect_garbage(mirror)
        return wanted

    async def _initialise(self, mirror: Mirror) -> None:
        folder = mirror.git_dir
        await asyncio.to_thread(_remove_leftovers, folder)
        if not (folder / "HEAD").exists():
            await asyncio.to_thread(remove_tree, folder)
            arguments = ("init", "--quiet", "--bare", "--template=", "--initial-branch=kennel")
            result = await self._git.run(
                *arguments, "--", str(folder), timeout_s=LOCAL_TIMEOUT_S, pass_fds=(mirror.lock,)
            )
            if not result.is_ok:
                raise checkout_failed("init", result)
            folder.chmod(0o700)
        (folder / "info").mkdir(exist_ok=True)
        (folder / "info" / "attributes").write_text(_ATTRIBUTES)

    async def _collect_garbage(self, mirror: Mirror) -> None:
        packs = await asyncio.to_thread(_count, mirror.git_dir / "objects" / "pack")
        if packs > _GC_EVERY_PACKS:
            result = await mirror.ask("gc", "--quiet", timeout_s=LOCAL_TIMEOUT_S * 10)
            raise_when_damaged(result, mirror)

    def _measured(self) -> list[tuple[float, int, Path]]:
        """Return (last use, bytes, folder) of every mirror."""
        found = []
        for folder in self._root.glob("*/"):
            with suppress(FileNotFoundError):
                used = (folder / "used").stat().st_mtime if (folder / "used").exists() else 0.0
                found.append((used, _bytes_below(folder), folder))
        return found


class MirrorLocked(ScmError):
    """A mirror was in use by others for longer than one waits."""

    def __init__(self) -> None:
        message = "the mirror stayed locked: other attempts of this repository take too long"
        super().__init__(Reason.CHECKOUT_FAILED, message, is_transient=True)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A source whose every part was checked: it came over the wire."""

    address: ScmUrl
    branch: str
    revision: str
    base: str | None
    credentials: ScmCredentials | None
    is_base_missing: bool = False

    @classmethod
    def of(cls, source: Source, *, allow_local: bool) -> _Wanted:
        base = source.base_revision
        return cls(
            parse_scm_url(source.scm_url, allow_local=allow_local),
            check_branch(source.branch),
            check_revision(source.revision),
            None if base is None else check_revision(base),
            _credentials(source.auth),
        )

    @property
    def commits(self) -> list[str]:
        return [self.revision] + ([] if self.base is None else [self.base])


def _credentials(auth: ScmAuth | None) -> ScmCredentials | None:
    if auth is None:
        return None
    return ScmCredentials(auth.username, auth.password, auth.private_key)


async def _fetch_commit(mirror: Mirror, wanted: _Wanted, sha: str, deadline: float) -> None:
    await _fetch_ref(mirror, wanted, sha, f"refs/kennel/commits/{sha}", deadline)


async def _fetch_ref(
    mirror: Mirror, wanted: _Wanted, remote: str, local: str, deadline: float
) -> None:
    """Fetch one ref or commit of the remote and name it in the mirror."""
    timeout_s = max(0.1, deadline - asyncio.get_running_loop().time())
    result = await mirror.git.run(
        *("fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head"),
        *("--no-recurse-submodules", "--no-auto-maintenance", "--"),
        *(wanted.address.url, f"+{remote}:{local}"),
        git_dir=mirror.git_dir,
        timeout_s=timeout_s,
        credentials=wanted.credentials,
        trusted=trusted_folders(wanted.address),
        max_file_bytes=_PACK_BYTES,
        pass_fds=(mirror.lock,),
    )
    raise_when_damaged(result, mirror)
    raise_unless_ok(result, wanted.address, timeout_s=timeout_s)


async def _keep(mirror: Mirror, sha: str) -> None:
    """Let a ref hold the commit: the branch may be rewritten before a second try."""
    await mirror.read("update-ref", f"refs/kennel/commits/{sha}", sha)


async def _has(mirror: Mirror, sha: str) -> bool:
    # A ref of its own keeps what was fetched; that costs no process to see. Should the object be
    # gone all the same, whoever reads it finds the mirror damaged.
    if (mirror.git_dir / "refs/kennel/commits" / sha).is_file():
        return True
    result = await mirror.ask("cat-file", "-e", f"{sha}^{{commit}}")
    return result.is_ok


async def _take(lock: int, kind: int, timeout_s: float) -> None:
    """Take a lock; polled, because a thread that waits for one cannot be cancelled."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause = _LOCK_POLL_S[0]
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= deadline:
                raise MirrorLocked from None
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LOCK_POLL_S[1])


def _touch(folder: Path) -> None:
    now = time.time()
    used = folder / "used"
    used.touch()
    os.utime(used, (now, now))


def _remove_leftovers(folder: Path) -> None:
    """Remove what a git that was killed left; nobody else writes, since we hold the lock alone."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/??/tmp_*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.pack"))


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]
