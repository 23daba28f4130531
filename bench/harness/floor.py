"""The floor: what this machine and this PostgreSQL do with nothing of Kennel in between.

A bare claim loop over asyncpg (three minimal tables, two statements a batch: claim moves ready →
leases, complete moves leases → history), and `pgbench` inserting single rows.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import asyncpg

from bench.harness.server import Server

_TABLES = """
CREATE TABLE ready (id bigint PRIMARY KEY, payload text NOT NULL)
    WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE TABLE leases (id bigint PRIMARY KEY, payload text NOT NULL, owner integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now())
    WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE TABLE history (id bigint PRIMARY KEY, payload text NOT NULL, owner integer NOT NULL,
    at timestamptz NOT NULL, ended_at timestamptz NOT NULL DEFAULT now())
"""

_CLAIM = """
WITH taken AS (
    DELETE FROM ready
    WHERE id = ANY(ARRAY(SELECT id FROM ready ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING id, payload
)
INSERT INTO leases (id, payload, owner)
SELECT id, payload, $2 FROM taken
RETURNING id
"""

_COMPLETE = """
WITH ended AS (
    DELETE FROM leases WHERE id = ANY($1::bigint[]) AND owner = $2 RETURNING id, payload, owner, at
)
INSERT INTO history (id, payload, owner, at)
SELECT id, payload, owner, at FROM ended
"""


async def claim_loop(server: Server, *, tasks: int, batch: int, connections: int) -> float:
    """Return the tasks a second of the bare claim loop."""
    async with (
        server.database("floor", is_migrated=False) as name,
        asyncpg.create_pool(server.url(name), min_size=connections, max_size=connections) as pool,
    ):
        await pool.execute(_TABLES)
        await pool.execute(
            "INSERT INTO ready SELECT n, repeat('x', 90) FROM generate_series(1, $1::bigint) AS n",
            tasks,
        )
        await pool.execute("ANALYZE ready")
        begun = time.perf_counter()
        await asyncio.gather(*(_consume(pool, batch, owner) for owner in range(connections)))
        seconds = time.perf_counter() - begun
        done = await pool.fetchval("SELECT count(*) FROM history")
    if done != tasks:
        raise RuntimeError(f"the floor completed {done} of {tasks} tasks")
    return tasks / seconds


async def _consume(pool: asyncpg.Pool, batch: int, owner: int) -> None:
    async with pool.acquire() as connection:
        while rows := await connection.fetch(_CLAIM, batch, owner):
            await connection.execute(_COMPLETE, [row["id"] for row in rows], owner)


async def inserts(server: Server, *, clients: int, seconds: float, folder: Path) -> float:
    """Return the single-row inserts a second of `pgbench`, a transaction each."""
    script = folder / "insert.sql"
    script.write_text("INSERT INTO rows (payload) VALUES (repeat('x', 90));\n")
    async with server.database("pgbench", is_migrated=False) as name:
        async with server.connected(name) as connection:
            await connection.execute(
                "CREATE TABLE rows (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " payload text NOT NULL)"
            )
        process = await asyncio.create_subprocess_exec(
            server.pgbench,
            *("-n", "-M", "prepared", "-c", str(clients), "-j", "1"),
            *("-T", str(max(1, round(seconds))), "-f", str(script), server.url(name)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    found = re.search(r"tps = ([0-9.]+)", output.decode())
    if process.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench ended with {process.returncode}: {errors.decode()[-1000:]}")
    return float(found[1])
