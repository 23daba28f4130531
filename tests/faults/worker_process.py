"""A worker with the campaign's engines: `python -m tests.faults.worker_process <log> <locks>`.

The daemon is the product's; only the catalogue differs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

from core.domain.errors import KennelError
from core.runtime.logs import configure_logs
from core.runtime.settings import Settings, load_settings
from core.runtime.signals import StopSignals
from tests.faults.engine import NAMES, WitnessEngine
from worker.service import run_worker


def wait(seconds: float) -> None:
    """Wait in another way than `time` does, which libfaketime 0.9.10 breaks: it takes the absolute
    monotonic time that Python hands to clock_nanosleep for one of the wall clock.
    """
    threading.Event().wait(seconds)


async def main(settings: Settings, log: Path, locks: Path) -> int:
    engines = [WitnessEngine(name, log, locks, settings.worker.name) for name in NAMES]
    async with StopSignals() as stop:
        return await run_worker(settings, stop=stop, engines=engines)


if __name__ == "__main__":
    setattr(time, "sleep", wait)  # noqa: B010 - the way around a defect, said above
    settings = load_settings()
    configure_logs(settings.log, "worker", secrets=settings.secrets())
    try:
        sys.exit(asyncio.run(main(settings, *map(Path, sys.argv[1:3]))))
    except KennelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 69))
