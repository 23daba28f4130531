"""The bench: `python -m bench.run`, or `make bench`, `make bench-quick`.

Takes the figures one after another on one server and writes the results after each, so that a
run that is interrupted, or a figure that fails, costs nothing of what was there before.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bench.figures import FIGURES
from bench.harness import page, results
from bench.harness.context import Context
from bench.harness.machine import machine, versions
from bench.harness.peers import Peers
from bench.harness.results import Figure, unmeasured
from bench.harness.server import Server
from bench.harness.sizes import SIZES, Sizes
from core.runtime.logs import configure_logs
from core.runtime.settings import LogSettings

Found = TypeVar("Found")

RESULTS = Path(__file__).parent / "results"


async def bench(sizes: Sizes, names: list[str], folder: Path, scratch: Path) -> dict[str, Any]:
    """Take the named figures; return the results document, which is also in *folder*."""
    peers = Peers()
    peers.look()
    begun, started_at = time.monotonic(), datetime.now(UTC)
    document: dict[str, Any] = {
        "started_at": started_at.isoformat(timespec="seconds"),
        "size": sizes.name,
        "seconds": 0.0,
        "machine": machine(),
        "versions": versions(),
        "settings": {},
        "missing": dict(peers.missing),
        "figures": [],
    }
    async with Server(scratch / "server") as server, AsyncExitStack() as stack:
        document["settings"] = await server.settings()
        context = Context(sizes, server, scratch, peers, stack)
        for name in names:
            print(f"-- {name}", flush=True)
            at = time.monotonic()
            found = await _figures(name, context)
            document["figures"] += [figure.as_json() for figure in found]
            document["seconds"] = time.monotonic() - begun
            _write(document, folder, started_at)
            for figure in found:
                print(f"   {_line(figure)}", flush=True)
            print(f"   {time.monotonic() - at:.0f} s", flush=True)
    return document


async def _figures(name: str, context: Context) -> list[Figure]:
    """Take one module's figures; one that fails is a figure that is not measured."""
    try:
        async with asyncio.timeout(context.sizes.figure_limit_s):
            return list(await FIGURES[name](context))
    except Exception as error:  # noqa: BLE001 - the edge of a figure: the others are worth having
        traceback.print_exc()
        return [unmeasured(name, "", f"{type(error).__name__}: {error}")]


def _write(document: dict[str, Any], folder: Path, started_at: datetime) -> None:
    _, latest = results.write(document, folder, day=f"{started_at:%Y-%m-%d}")
    page.write(document, latest.with_suffix(".html"))


def _line(figure: Figure) -> str:
    value = "not measured" if figure.value is None else f"{figure.value:.4g} {figure.unit}"
    met = {True: "met", False: f"NOT MET ({'; '.join(figure.shortfalls())})", None: ""}
    return f"{figure.name}: {value}  {figure.goal_text()}  {met[figure.met]}".rstrip()


async def until_told(work: Coroutine[Any, Any, Found]) -> Found:
    """Run *work*; SIGTERM ends it as Ctrl-C does, with every process it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder on disk, not in memory, that PostgreSQL's own user can walk through."""
    folder = tempfile.TemporaryDirectory(prefix="kennel-bench-", dir="/var/tmp")
    Path(folder.name).chmod(0o711)
    (Path(folder.name) / "server").mkdir(mode=0o711)
    return folder


def main() -> int:
    """Run the bench; 1 when a figure could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--only", help="figures, with commas between them", default="")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(FIGURES)
    if unknown := set(names) - set(FIGURES):
        parser.error(
            f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}"
        )
    configure_logs(LogSettings(level="error"), "bench", secrets=())
    with scratch_folder() as scratch:
        work = bench(SIZES[options.size], names, options.results, Path(scratch))
        document = asyncio.run(until_told(work))
    print(f"{options.results / 'latest.html'}: {document['seconds'] / 60:.1f} minutes")
    return int(any(figure["value"] is None for figure in document["figures"]))


if __name__ == "__main__":
    raise SystemExit(main())
