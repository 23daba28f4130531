"""Kennel's worker with an engine for the bench: it notes when its process began, then obeys.

Settings come by the environment, as `kennel worker`'s do. The file KENNEL_DATA_DIR/starts gets a
line for each engine process that ended: when it began, by its own clock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from core.domain.errors import KennelError
from core.protocol.messages import Coverage
from core.runtime.logs import configure_logs
from core.runtime.settings import load_settings
from core.runtime.signals import StopSignals
from worker.engines.base import Command, Ended, EngineTask, Probe, Verdict
from worker.service import run_worker

NAME = "bench"
_STARTED = "started"


class BenchEngine:
    """Runs the shell script its scheme's `config` holds; bash tells the time without a process."""

    name = NAME
    module: Literal["codelint"] = "codelint"
    languages: Sequence[str] = ()

    def __init__(self, starts: Path) -> None:
        self._starts = starts

    def probe(self) -> Probe:
        return Probe(is_usable=True, version="1.0")

    def readable_paths(self) -> Sequence[Path]:
        return ()

    def plan(self, task: EngineTask) -> Sequence[Command]:
        script = f"echo $EPOCHREALTIME; {task.config.get('script', ':')}"
        return [Command(argv=["/bin/bash", "-c", script], stdout=_STARTED, grace_s=1.0)]

    def judge(self, task: EngineTask, ended: Sequence[Ended]) -> Verdict:
        assert ended
        with self._starts.open("a", encoding="ascii") as out:
            out.write((task.out / _STARTED).read_text(encoding="ascii").split("\n", 1)[0] + "\n")
        files = len(task.files)
        return Verdict(None, "", Coverage(planned=files, analysed=files))


async def main() -> int:
    settings = load_settings()
    configure_logs(settings.log, "worker", secrets=settings.secrets())
    async with StopSignals() as stop:
        engines = [BenchEngine(settings.data_dir / "starts")]
        return await run_worker(settings, stop=stop, engines=engines)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KennelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(78)
