"""pgqueuer over asyncpg, with the autovacuum settings its documents recommend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer, Queries  # type: ignore[import-not-found]  # in the peers' environment
from pgqueuer.models import Job  # type: ignore[import-not-found]  # in the peers' environment
from pgqueuer.types import QueueExecutionMode  # type: ignore[import-not-found]  # in the peers' environment

from bench.peers.measures import Seen, main


class Pgqueuer:
    def __init__(self, pool: asyncpg.Pool, connection: asyncpg.Connection, seen: Seen) -> None:
        self._connection = connection
        self._queries = Queries.from_asyncpg_pool(pool)
        self._worker = PgQueuer.from_asyncpg_connection(connection)

        @self._worker.entrypoint("bench")
        async def noop(job: Job) -> None:
            seen.note(float(job.payload or b"0"))

    async def install(self, _dsn: str) -> None:
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def enqueue(self, sent_at: float) -> None:
        await self._queries.enqueue("bench", b"%f" % sent_at)

    async def enqueue_many(self, count: int) -> None:
        await self._queries.enqueue(["bench"] * count, [b"0"] * count, [0] * count)

    async def work(self, batch: int, *, until_empty: bool) -> None:
        mode = QueueExecutionMode.drain if until_empty else QueueExecutionMode.continuous
        await self._worker.run(batch_size=batch, mode=mode)

    async def left(self) -> int:
        return int(await self._connection.fetchval("SELECT count(*) FROM pgqueuer"))


@asynccontextmanager
async def connect(dsn: str, seen: Seen, batch: int) -> AsyncIterator[Pgqueuer]:
    connection = await asyncpg.connect(dsn)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=max(2, min(batch, 30))) as pool:
        yield Pgqueuer(pool, connection, seen)


if __name__ == "__main__":
    main(connect)
