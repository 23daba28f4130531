"""Runs an engine's commands as the sandbox does, without containing them: real processes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.protocol.messages import Finding
from worker.engines.base import Command, Ended, Engine, EngineTask, Verdict


@dataclass(frozen=True, slots=True)
class Ran:
    """A task from plan to verdict."""

    task: EngineTask
    commands: Sequence[Command]
    ended: Sequence[Ended]
    verdict: Verdict
    log: str

    def rules(self, path: str | None = None) -> set[str]:
        return {f.rule for f in self.verdict.findings if path is None or f.path == path}

    def of_rule(self, rule: str) -> list[Finding]:
        return [f for f in self.verdict.findings if f.rule == rule]

    def progress(self) -> list[bytes]:
        name = self.commands[0].progress
        assert name is not None
        return (self.task.out / name).read_bytes().splitlines()


def run_command(task: EngineTask, command: Command, log: Path) -> Ended:
    for name, content in command.inputs.items():
        (task.out / name).write_bytes(content)
    stdout = task.out / command.stdout if command.stdout else log
    with stdout.open("ab") as out, log.open("ab") as err:
        process = subprocess.run(
            command.argv,
            cwd=task.source,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=110,
            check=False,
        )
    if process.returncode < 0:
        return Ended(exit_code=None, signal=-process.returncode)
    return Ended(exit_code=process.returncode, signal=None)


def run(
    engine: Engine,
    task: EngineTask,
    *,
    before_judge: Callable[[EngineTask], None] = lambda task: None,
) -> Ran:
    commands = engine.plan(task)
    log = task.out / "log"
    log.touch()
    ended = [run_command(task, command, log) for command in commands]
    before_judge(task)
    verdict = engine.judge(task, ended)
    return Ran(task, commands, ended, verdict, log.read_text("utf-8", "replace"))


def files_below(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
