"""A worker as a process of its own: `python worker_process.py <settings as JSON>`."""

from __future__ import annotations

import asyncio
import sys

from core.domain.errors import KennelError
from core.runtime.logs import configure_logs
from core.runtime.settings import Settings
from core.runtime.signals import StopSignals
from tests.worker.shell_engine import ShellEngine
from worker.service import run_worker


async def main(settings: Settings) -> int:
    async with StopSignals() as stop:
        return await run_worker(settings, stop=stop, engines=[ShellEngine()])


if __name__ == "__main__":
    settings = Settings.model_validate_json(sys.argv[1])
    configure_logs(settings.log, "worker", secrets=settings.secrets())
    try:
        sys.exit(asyncio.run(main(settings)))
    except KennelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 78))
