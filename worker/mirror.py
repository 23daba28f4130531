"""Read one mirror: list, compare, write a commit as plain, read-only files.

Nothing a repository contains is run: no hook, no filter, no link, no submodule, and no `.git`
lies beside the files. Fetching, locking and evicting mirrors is `worker.checkout`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import redact
from core.runtime.git import Git, GitResult
from core.runtime.git_failures import last_words
from worker.listings import Listing, Listings
from worker.scope import parse_tree
from worker.tree import make_read_only, remove_tree

LOCAL_TIMEOUT_S = 60.0
_LISTING_BYTES = 512 << 20
#: A listing shorter than that is read where it is: handing it to a thread would take longer.
_SHORT_BYTES = 64 << 10
_CORRUPT = re.compile(
    r"corrupt|bad object|object file .* is empty|unable to (read|find|open) |missing blob"
    r"|not a git repository|bad config|loose object|invalid sha1 pointer|could not parse|packfile"
    r"|did not match its own|bad (tree|index|signature)|fatal: bad |not a tree object"
    r"|failed to unpack tree",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror that holds `revision`, and is neither changed nor evicted while it is open."""

    git: Git
    git_dir: Path
    revision: str
    #: None: no base was asked for, or it could not be fetched.
    base: str | None
    #: A base was asked for and could not be fetched.
    is_base_missing: bool
    lock: int
    #: What is known of commits from before.
    listings: Listings = field(default_factory=Listings)

    async def check_out(self, into: Path, *, timeout_s: float) -> None:
        """Write the revision's files below *into*, in place of what is there.

        Plain, read-only, no `.git`.

        Raises:
            ScmError: `checkout_failed`.
        """
        await asyncio.to_thread(_clear, into)
        index = into.with_name(into.name + ".index")
        env = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(into)}
        try:
            await self.read(
                "read-tree", "--reset", "-u", self.revision, env=env, timeout_s=timeout_s
            )
        finally:
            index.unlink(missing_ok=True)
        await asyncio.to_thread(make_read_only, into)

    async def files(self) -> Listing:
        """Return (path, blob id) of the revision's regular files.

        Raises:
            ScmError: `checkout_failed`.
        """
        listing = self.listings.get(self.git_dir, self.revision)
        if listing is None:
            output = await self.read("ls-tree", "-r", "-z", "--full-tree", self.revision)
            if len(output) <= _SHORT_BYTES:
                listing = parse_tree(output)
            else:  # a hundred thousand names would hold up the heartbeat
                listing = await asyncio.to_thread(parse_tree, output)
            self.listings.keep(self.git_dir, self.revision, listing)
        return listing

    async def read(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float = LOCAL_TIMEOUT_S,
        max_output_bytes: int = _LISTING_BYTES,
    ) -> bytes:
        """Return what a git command on the mirror prints.

        Raises:
            ScmError: `checkout_failed`, transient when the mirror is damaged.
        """
        result = await self.ask(
            *arguments,
            env=env,
            stdin=stdin,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        if not result.is_ok:
            raise checkout_failed(arguments[0], result)
        return result.stdout

    async def ask(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float = LOCAL_TIMEOUT_S,
        max_output_bytes: int = _LISTING_BYTES,
    ) -> GitResult:
        """Run a git command on the mirror whose exit status is an answer."""
        return await self.git.run(
            *arguments,
            git_dir=self.git_dir,
            env=env,
            stdin=stdin,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
            # Whoever kills the worker, the mirror stays locked until the last git has ended.
            pass_fds=(self.lock,),
        )


def _clear(folder: Path) -> None:
    # With a fresh mirror, after a damaged one, this is the second time.
    remove_tree(folder)
    folder.mkdir(mode=0o700)


class MirrorDamaged(ScmError):
    """A mirror cannot be read any more: thrown away and fetched anew, it will be fine."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.CHECKOUT_FAILED, message, is_transient=True)


def checkout_failed(what: str, result: GitResult) -> ScmError:
    """Return the error for a git command on a mirror that failed."""
    if result.ended == "timeout":
        said = "took too long"
    else:
        said = last_words(result.stderr) or f"{result.ended} {result.exit_code}"
    message = f"git {what} failed on the worker: {redact(said)}"
    if _CORRUPT.search(result.stderr):
        return MirrorDamaged(message)
    return ScmError(Reason.CHECKOUT_FAILED, message)


def raise_when_damaged(result: GitResult, mirror: Mirror) -> None:
    """Raise when a git command failed because the mirror cannot be read any more."""
    if result.is_ok or result.ended != "exit":
        return
    # What the remote says comes with a prefix, and must not cost us the mirror.
    own = "\n".join(line for line in result.stderr.splitlines() if not line.startswith("remote:"))
    if "does not appear" not in own and (_CORRUPT.search(own) or str(mirror.git_dir) in own):
        raise MirrorDamaged(f"the mirror is damaged: {last_words(own)}")
