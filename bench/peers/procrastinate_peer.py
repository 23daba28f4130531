"""procrastinate: its worker takes one job a call; `concurrency` is what it has for a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate  # type: ignore[import-not-found]  # in the peers' environment

from bench.peers.measures import Seen, main

#: More parallel jobs than that made it slower on two cores.
_MOST = 30


class Procrastinate:
    def __init__(self, app: procrastinate.App, seen: Seen) -> None:
        self._app = app

        @app.task(name="bench", queue="bench")
        async def noop(sent_at: float) -> None:
            seen.note(sent_at)

        self._noop = noop

    async def install(self, _dsn: str) -> None:
        await self._app.schema_manager.apply_schema_async()

    async def enqueue(self, sent_at: float) -> None:
        await self._noop.defer_async(sent_at=sent_at)

    async def enqueue_many(self, count: int) -> None:
        await self._noop.batch_defer_async(*({"sent_at": 0.0} for _ in range(count)))

    async def work(self, batch: int, *, until_empty: bool) -> None:
        await self._app.run_worker_async(
            queues=["bench"],
            concurrency=min(batch, _MOST),
            wait=not until_empty,
            install_signal_handlers=False,
        )

    async def left(self) -> int:
        rows = await self._app.connector.execute_query_all_async(
            "SELECT count(*) AS n FROM procrastinate_jobs WHERE status <> 'succeeded'"
        )
        return int(rows[0]["n"])


@asynccontextmanager
async def connect(dsn: str, seen: Seen, batch: int) -> AsyncIterator[Procrastinate]:
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn, min_size=2, max_size=min(batch, _MOST) + 2
    )
    app = procrastinate.App(connector=connector)
    async with app.open_async():
        yield Procrastinate(app, seen)


if __name__ == "__main__":
    main(connect)
