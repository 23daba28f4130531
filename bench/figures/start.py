"""From a create with a revision to its engine's process running, contained; the mirror warm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness.context import Context
from bench.harness.results import Figure, at_most, percentile
from bench.harness.scans import Scanning, scanning

_P50, _P99 = at_most(60), at_most(150)
#: Scans before the first that counts: the mirror, the pools and the fork server are warm then.
_WARM_UP = 3


async def measure(context: Context) -> Sequence[Figure]:
    """Scan one after another, each on an idle worker."""
    async with scanning(context, "start", ":") as scans:
        for _ in range(_WARM_UP):
            await _start_ms(scans)
        samples = [await _start_ms(scans) for _ in range(context.sizes.engine_runs)]
        workers = (await scans.crew.get(scans.api, "/api/v1/workers/"))["data"]["results"]
    detail = {f"p{p}": percentile(samples, p / 100) for p in (50, 90, 99, 100)} | {
        "samples": len(samples)
    }
    how = (
        "one api, scheduler and worker, one scan at a time, preparation included, isolation"
        f" {workers[0]['isolation']}; the engine's process says itself when it began"
    )
    return [
        Figure(
            f"create_to_engine_p{p}",
            percentile(samples, p / 100),
            "ms",
            goal,
            how=how,
            detail=detail,
        )
        for p, goal in ((50, _P50), (99, _P99))
    ]


async def _start_ms(scans: Scanning) -> float:
    starts = scans.crew.folder / "data" / "starts"
    known = _lines(starts)
    sent = time.time()
    job = await scans.closed(await scans.create())
    if job["result_code"] != 0:
        raise RuntimeError(f"a scan ended with {job['result_code']}: {job['result_msg']}")
    new = _lines(starts)[len(known) :]
    if len(new) != 1:
        raise RuntimeError(f"one scan ran {len(new)} engines")
    return (float(new[0]) - sent) * 1000


def _lines(starts: Path) -> list[str]:
    return starts.read_text(encoding="ascii").splitlines() if starts.exists() else []
