"""What one unit of work costs each part: CPU by kind of process, and write-ahead log.

Rates say what this machine reaches; costs are what can be carried over to another one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bench.harness.processes import Crew
from bench.harness.server import Server


class Costs:
    """Meters the block; `each(units)` then says what one of them cost."""

    def __init__(self, server: Server, crew: Crew | None = None) -> None:
        self._server = server
        self._crew = crew
        self._cpu_s: dict[str, float] = {}
        self._wal_bytes = 0

    async def __aenter__(self) -> Self:
        self._wal_bytes = -await self._wal()
        self._cpu_s = self._read()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            before, after = self._cpu_s, self._read()
            self._cpu_s = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
            self._wal_bytes += await self._wal()

    def each(self, units: int) -> dict[str, float]:
        """Return CPU microseconds by kind of process and bytes of write-ahead log, a unit."""
        found = {f"{kind}_cpu_us": round(s / units * 1e6, 2) for kind, s in self._cpu_s.items()}
        return found | {"wal_bytes": round(self._wal_bytes / units, 1)}

    def _read(self) -> dict[str, float]:
        found = {"postgres": self._server.cpu_s()}
        for daemon in self._crew.daemons if self._crew else ():
            found[daemon.kind] = found.get(daemon.kind, 0.0) + daemon.cpu_s()
        return found

    async def _wal(self) -> int:
        async with self._server.connected() as connection:
            return int(
                await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
            )
