"""Where the time goes, for a goal that is not met: sampled in a run of its own, after the others.

py-spy looks at Python processes from outside; what the database does is sampled from
`pg_stat_activity`, which costs it next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.harness.server import Server

PY_SPY = Path(__file__).parents[1] / ".venv" / "bin" / "py-spy"
_EVERY_S = 0.02
_LINES = 12

_ACTIVE = """
SELECT
    regexp_replace(left(query, 2000), '\\s+', ' ', 'g') AS query,
    coalesce(wait_event_type || ':' || wait_event, 'CPU') AS event
FROM pg_stat_activity
WHERE state = 'active' AND datname = $1 AND pid <> pg_backend_pid()
"""


class Profile:
    """Samples of a database and of processes while the block runs; `text` says what they saw."""

    def __init__(
        self, server: Server, database: str, pids: Mapping[str, int], folder: Path
    ) -> None:
        self._server = server
        self._database = database
        self._pids = pids
        self._folder = folder
        self._spies: dict[str, asyncio.subprocess.Process] = {}
        self._samples: Counter[tuple[str, str]] = Counter()
        self._looks = 0
        self._looking: asyncio.Task[None] | None = None
        self.text = ""

    async def __aenter__(self) -> Self:
        if PY_SPY.exists():
            for name, pid in self._pids.items():
                self._spies[name] = await asyncio.create_subprocess_exec(
                    PY_SPY,
                    *("record", "--pid", str(pid), "--rate", "100", "--nonblocking"),
                    *("--format", "raw", "--duration", "600"),
                    *("--output", str(self._file(name))),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
        self._looking = asyncio.create_task(self._look(), name="profile")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._looking is not None
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking
        parts = [self._database_text()]
        for name, spy in self._spies.items():
            with contextlib.suppress(ProcessLookupError):
                # It writes what it has on an interrupt.
                spy.send_signal(2)
            await spy.wait()
            if self._file(name).exists():
                parts.append(_stacks_text(name, self._file(name).read_text(errors="replace")))
        if self._pids and not self._spies:
            parts.append("Python processes were not sampled: bench/setup installs py-spy.")
        self.text = "\n\n".join(parts)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.stacks"

    async def _look(self) -> None:
        async with self._server.connected() as connection:
            while True:
                for row in await connection.fetch(_ACTIVE, self._database):
                    self._samples[(row["event"], row["query"][:160])] += 1
                self._looks += 1
                await asyncio.sleep(_EVERY_S)

    def _database_text(self) -> str:
        lines = [f"PostgreSQL: active backends, of {self._looks} looks"]
        for (event, query), count in self._samples.most_common(_LINES):
            lines.append(f"{count:6} {event:24} {query}")
        return "\n".join(lines)


def _stacks_text(name: str, raw: str) -> str:
    """Return the functions most samples ended in, and those most passed through."""
    ended: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdigit():
            continue
        frames = stack.split(";")
        total += int(count)
        ended[frames[-1]] += int(count)
        for frame in set(frames):
            passed[frame] += int(count)
    lines = [f"{name}: {total} samples while at work; in the function itself"]
    lines += [f"{n / max(total, 1):6.1%} {frame}" for frame, n in ended.most_common(_LINES)]
    lines.append("in it or what it called")
    lines += [f"{n / max(total, 1):6.1%} {frame}" for frame, n in passed.most_common(3 * _LINES)]
    return "\n".join(lines)
