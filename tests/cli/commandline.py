"""Kennel as a person at a terminal has it: commands in processes of their own, on one data folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

KENNEL = Path(sys.executable).with_name("kennel")
#: Generous: these tests start whole systems, on machines that may run other tests.
WITHIN_S = 120.0

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], *, within_s: float = WITHIN_S, what: str = "") -> Found:
    """Return what *look* finds once it is true."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or look}"
        pause.wait(0.05)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(slots=True)
class CommandLine:
    """Runs commands with an environment of its own: nothing of the one the tests run in."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "KENNEL_DATA_DIR": str(self.data_dir),
            **self.settings,
            **(settings or {}),
        }

    def __call__(
        self,
        *arguments: str | Path | int,
        settings: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        within_s: float = WITHIN_S,
    ) -> Ended:
        done = subprocess.run(
            [KENNEL, *map(str, arguments)],
            env=self.environment(settings),
            cwd=cwd or self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(
        self, *arguments: str | Path, settings: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """Start a command for the block; kill it when it still runs at the end."""
        out, err = (self.folder / f"started-{len(list(self.folder.iterdir()))}.{n}" for n in "oe")
        with out.open("w") as out_file, err.open("w") as err_file:
            process = subprocess.Popen(
                [KENNEL, *map(str, arguments)],
                env=self.environment(settings),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
            )
        try:
            yield Running(process, out, err)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @contextmanager
    def up(self, *arguments: str, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Run `kennel up` on a free port for the block."""
        with self.started("up", "--listen", "127.0.0.1:0", *arguments, settings=settings) as up:
            up.says("stop ")
            yield up

    def card(self) -> dict[str, Any]:
        """Return what the running server left of itself."""
        card: dict[str, Any] = json.loads((self.data_dir / "server.json").read_text())
        return card

    def processes(self) -> dict[int, str]:
        """Return the processes that belong to the data folder, with their command lines."""
        mark = os.fsencode(self.data_dir)
        found = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            try:
                where = os.fsencode((process / "cwd").readlink())
                said = (process / "cmdline").read_bytes()
                has_ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if not has_ended and (where.startswith(mark) or mark in said or mark in environment):
                found[int(process.name)] = said.replace(b"\0", b" ").decode()
        return found

    def workers(self) -> list[int]:
        """Return the worker processes of `kennel up`."""
        return [pid for pid, said in self.processes().items() if " -m cli worker " in said]


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    out_file: Path
    err_file: Path

    @property
    def out(self) -> str:
        return self.out_file.read_text()

    @property
    def err(self) -> str:
        return self.err_file.read_text()

    def says(self, text: str, *, within_s: float = WITHIN_S) -> None:
        """Wait until it has printed *text*."""

        def has_said() -> bool:
            assert self.process.poll() is None or text in self.out + self.err, (
                f"ended with {self.process.returncode}: {self.out}{self.err[-2000:]}"
            )
            return text in self.out + self.err

        eventually(has_said, within_s=within_s, what=f"{text!r} in {self.out_file}")

    def stop(self, number: int = signal.SIGINT, *, within_s: float = WITHIN_S) -> Ended:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.ended(within_s=within_s)

    def ended(self, *, within_s: float = WITHIN_S) -> Ended:
        """Wait for the end."""
        status = self.process.wait(timeout=within_s)
        return Ended(status, self.out, self.err)
