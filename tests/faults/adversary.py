"""What goes wrong, when, and to whom: a plan drawn from a seed, and who carries it out.

The plan depends on the seed and the time only, so a campaign can be repeated. Every kind of fault
comes once before any comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import asyncpg
import psutil

from tests.faults.fleet import APIS, MEDDLED, MOVED_CLOCK, SCHEDULERS, SMALL_DISK, WORKERS, Fleet
from tests.faults.links import Weather
from tests.faults.meddler import Mischief
from tests.faults.waiting import within

_APIS = [f"api-{number}" for number in range(1, APIS + 1)]
_SCHEDULERS = [f"scheduler-{number}" for number in range(1, SCHEDULERS + 1)]
_WORKERS = [f"worker-{number}" for number in range(1, WORKERS + 1)]
_LISTENERS = [f"{name}>notifications" for name in _APIS + _SCHEDULERS]
_LINKS = [
    *(f"{name}>api" for name in _WORKERS),
    *(f"{name}>database" for name in _APIS + _SCHEDULERS),
    *(f"clients>{name}" for name in _APIS),
]
_CLOCK_JUMPS = (-86400.0, -600.0, -3.0, 3.0, 600.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: to whom it may happen and how long it lasts, seconds."""

    targets: tuple[str, ...]
    at_least_s: float = 0.0
    at_most_s: float = 0.0


def _kinds() -> Mapping[str, Kind]:
    return {
        "api.killed": Kind((*_APIS,), 0.0, 3.0),
        "scheduler.killed": Kind((*_SCHEDULERS,), 0.0, 3.0),
        # Back at once, within its leases, or after them.
        "worker.killed": Kind((*_WORKERS,), 0.0, 7.0),
        "worker.asked_to_end": Kind((*_WORKERS,)),
        "api.asked_to_end": Kind((*_APIS,)),
        # Past its leases: FAST_LEASES has four seconds.
        "worker.frozen": Kind((*_WORKERS,), 4.5, 8.0),
        "api.frozen": Kind((*_APIS,), 1.0, 5.0),
        "scheduler.frozen": Kind((*_SCHEDULERS,), 1.0, 6.0),
        "supervisor.killed": Kind((*_WORKERS,)),
        "fork_server.killed": Kind((*_WORKERS,)),
        "postgres.stopped_at_once": Kind(("postgres",)),
        "postgres.killed": Kind(("postgres",)),
        "postgres.backend_killed": Kind(("postgres",)),
        "link.cut": Kind((*_LINKS,), 0.0, 6.0),
        "link.slow": Kind((*_LINKS,), 1.0, 5.0),
        "link.stalled": Kind((*_LINKS,), 1.0, 8.0),
        "link.half_open": Kind((*_LINKS,), 1.0, 8.0),
        "notifications.lost": Kind((*_LISTENERS,), 2.0, 12.0),
        "notifications.cut": Kind(("postgres",)),
        "disk.full": Kind((SMALL_DISK,), 1.0, 6.0),
        "clock.jumped": Kind((MOVED_CLOCK,), 0.5, 6.0),
        "requests.duplicated": Kind((*MEDDLED,), 2.0, 8.0),
        "requests.reordered": Kind((*MEDDLED,), 2.0, 8.0),
        "requests.unanswered": Kind((*MEDDLED,), 2.0, 8.0),
        "requests.replayed": Kind((*MEDDLED,), 2.0, 8.0),
    }


KINDS = _kinds()
_WEATHERS = {
    "link.cut": Weather.CUT,
    "link.slow": Weather.SLOW,
    "link.stalled": Weather.STALLED,
    "link.half_open": Weather.HALF_OPEN,
    "notifications.lost": Weather.DEAF,
}
_MISCHIEFS = {
    "requests.duplicated": Mischief.DUPLICATE,
    "requests.reordered": Mischief.REORDER,
    "requests.unanswered": Mischief.LOSE_ANSWER,
    "requests.replayed": Mischief.REPLAY,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan."""

    number: int
    at_s: float
    kind: str
    target: str
    lasts_s: float
    #: By how much a clock jumps, seconds; 0 for the others.
    by_s: float = 0.0


def plan(seed: int, seconds: float) -> list[Fault]:
    """Return what goes wrong in a campaign of *seconds*, in order of time."""
    chance = random.Random(seed)
    # Short campaigns are dense: every kind has its turn.
    gap_s = min(2.0, 0.85 * seconds / len(KINDS))
    faults: list[Fault] = []
    bag: list[str] = []
    at_s = gap_s
    while at_s < seconds * 0.95:
        if not bag:
            bag = chance.sample(sorted(KINDS), len(KINDS))
        name = bag.pop()
        kind = KINDS[name]
        faults.append(
            Fault(
                len(faults) + 1,
                round(at_s, 2),
                name,
                chance.choice(kind.targets),
                round(chance.uniform(kind.at_least_s, kind.at_most_s), 2),
                chance.choice(_CLOCK_JUMPS) if name == "clock.jumped" else 0.0,
            )
        )
        at_s += gap_s * chance.uniform(0.5, 1.5)
    return faults


class Adversary:
    """Carries out a plan on a fleet and writes down what it did."""

    def __init__(self, fleet: Fleet, faults: list[Fault], log: IO[str]) -> None:
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._fleet = fleet
        self._faults = faults
        self._log = log
        self._over = asyncio.Event()
        self._weathers: dict[str, list[tuple[int, Weather]]] = {}
        self._mischiefs: dict[str, list[tuple[int, Mischief]]] = {}
        self._frozen: Counter[str] = Counter()
        self._killed: Counter[str] = Counter()
        #: Who is met where a plan cannot know who is there.
        self._chance = random.Random(len(faults))
        self._lasting: Mapping[str, Callable[[Fault], AbstractContextManager[str]]] = {
            **dict.fromkeys(_WEATHERS, self._weather),
            **dict.fromkeys(_MISCHIEFS, self._mischief),
            **{f"{role}.killed": self._killing for role in ("api", "scheduler", "worker")},
            **{f"{role}.frozen": self._freezing for role in ("api", "scheduler", "worker")},
            "disk.full": self._filling,
            "clock.jumped": self._jumping,
        }

    async def run(self, seconds: float) -> None:
        """Carry out the whole plan; return when the time is over and everything is healed."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                await within(self._over, max(0.0, begun + fault.at_s - time.monotonic()))
                group.create_task(self._commit(fault), name=f"fault-{fault.number}")
            await within(self._over, max(0.0, begun + seconds - time.monotonic()))
            # What still lasts is healed now.
            self._over.set()

    async def _commit(self, fault: Fault) -> None:
        why_not = self._problem(fault)
        if why_not:
            self.skipped[f"{fault.kind} ({why_not})"] += 1
            self._note(fault, "skipped", why_not)
            return
        try:
            async with self._harm(fault) as what:
                self.done[fault.kind] += 1
                self._note(fault, "begun", what)
                await within(self._over, fault.lasts_s)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, psutil.Error) as error:
            # Another fault had been at the same thing before.
            self._note(fault, "failed", repr(error))
            return
        self._note(fault, "ended", "")

    def _problem(self, fault: Fault) -> str:
        if fault.kind == "disk.full" and not self._fleet.has_small_disk:
            return "needs root, to mount a small tmpfs"
        if fault.kind == "clock.jumped" and self._fleet.faketime is None:
            return "needs libfaketime: apt-get install faketime"
        return ""

    def _note(self, fault: Fault, event: str, what: str) -> None:
        line = {"at": time.time(), "event": event, "what": what}
        self._log.write(json.dumps(asdict(fault) | line) + "\n")
        self._log.flush()

    @asynccontextmanager
    async def _harm(self, fault: Fault) -> AsyncIterator[str]:
        """Do it, say what was done, and undo it at the end of the block."""
        lasting = self._lasting.get(fault.kind)
        if lasting is None:
            yield await self._at_once(fault)
            return
        with lasting(fault) as what:
            yield what

    async def _at_once(self, fault: Fault) -> str:
        """Do what needs no undoing."""
        match fault.kind:
            case "worker.asked_to_end" | "api.asked_to_end":
                return f"pid {self._fleet.terminate(fault.target)}"
            case "postgres.stopped_at_once":
                return self._signal_postgres(signal.SIGQUIT)  # what `pg_ctl stop -m immediate` does
            case "postgres.killed":
                return self._signal_postgres(signal.SIGKILL)
            case "postgres.backend_killed":
                return await self._kill_backend()
            case "supervisor.killed":
                return self._kill_below(fault.target, _supervisors)
            case "fork_server.killed":
                return self._kill_below(fault.target, _fork_servers)
            case "notifications.cut":
                return await self._cut_notifications()
            case _:
                raise ValueError(f"nobody knows how to do {fault.kind}")

    # --- the ways to harm --------------------------------------------------------------------

    @contextmanager
    def _weather(self, fault: Fault) -> Iterator[str]:
        link = self._fleet.links[fault.target]
        now = self._weathers.setdefault(fault.target, [])
        now.append((fault.number, _WEATHERS[fault.kind]))
        link.become(now[-1][1])
        try:
            yield fault.target
        finally:
            now[:] = [one for one in now if one[0] != fault.number]
            link.become(now[-1][1] if now else Weather.CLEAR)

    @contextmanager
    def _mischief(self, fault: Fault) -> Iterator[str]:
        meddler = self._fleet.meddlers[fault.target]
        now = self._mischiefs.setdefault(fault.target, [])
        now.append((fault.number, _MISCHIEFS[fault.kind]))
        meddler.become(now[-1][1])
        try:
            yield fault.target
        finally:
            now[:] = [one for one in now if one[0] != fault.number]
            meddler.become(now[-1][1] if now else Mischief.NONE)

    @contextmanager
    def _killing(self, fault: Fault) -> Iterator[str]:
        self._killed[fault.target] += 1
        pid = self._fleet.kill(fault.target)
        try:
            yield f"pid {pid}"
        finally:
            self._killed[fault.target] -= 1
            if not self._killed[fault.target]:
                self._fleet.revive(fault.target)

    @contextmanager
    def _freezing(self, fault: Fault) -> Iterator[str]:
        self._frozen[fault.target] += 1
        pid = self._fleet.freeze(fault.target)
        try:
            yield f"pid {pid}"
        finally:
            self._frozen[fault.target] -= 1
            if not self._frozen[fault.target]:
                self._fleet.thaw(fault.target)

    @contextmanager
    def _filling(self, fault: Fault) -> Iterator[str]:
        ballast = self._fleet.state_dir(fault.target) / "ballast"
        size = _fill(ballast)
        try:
            yield f"{size} bytes"
        finally:
            ballast.unlink(missing_ok=True)

    @contextmanager
    def _jumping(self, fault: Fault) -> Iterator[str]:
        self._fleet.clock_file.write_text(f"{fault.by_s:+g}\n")
        try:
            yield f"{fault.by_s:+g} s"
        finally:
            self._fleet.clock_file.write_text("+0\n")

    def _signal_postgres(self, number: signal.Signals) -> str:
        pid = self._fleet.postgres.pid
        if pid is None:
            raise ProcessLookupError("PostgreSQL is down already")
        os.kill(pid, number)
        return f"pid {pid}"

    async def _kill_backend(self) -> str:
        connection = await self._fleet.connect()
        try:
            rows = await connection.fetch(
                "SELECT pid, application_name AS name FROM pg_stat_activity"
                " WHERE application_name LIKE 'kennel-%' ORDER BY pid"
            )
        finally:
            connection.terminate()
        if not rows:
            raise ProcessLookupError("nobody is connected")
        row = self._chance.choice(rows)
        os.kill(row["pid"], signal.SIGKILL)
        return f"{row['name']}, pid {row['pid']}"

    async def _cut_notifications(self) -> str:
        connection = await self._fleet.connect()
        try:
            found = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'kennel-signals'"
            )
            pids = [row["pid"] for row in found]
            ended = await connection.fetch("SELECT pg_terminate_backend(unnest($1::int[]))", pids)
        finally:
            connection.terminate()
        return f"{len(ended)} listening connections"

    def _kill_below(self, worker: str, find: Callable[[int], list[int]]) -> str:
        pid = self._fleet.members[worker].pid
        found = [] if pid is None else find(pid)
        if not found:
            raise ProcessLookupError(f"{worker} has none now")
        victim = self._chance.choice(found)
        os.kill(victim, signal.SIGKILL)
        return f"pid {victim}"


def _fork_servers(worker_pid: int) -> list[int]:
    found = []
    for child in psutil.Process(worker_pid).children():
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("forkserver.py") for word in child.cmdline()):
                found.append(child.pid)
    return found


def _supervisors(worker_pid: int) -> list[int]:
    found = []
    for server in _fork_servers(worker_pid):
        with contextlib.suppress(psutil.Error):
            found += [child.pid for child in psutil.Process(server).children()]
    return found


def _fill(path: Path) -> int:
    """Write zeros until the disk takes no more; return how many."""
    size = 0
    with path.open("ab", buffering=0) as file:
        for chunk in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    size += file.write(bytes(chunk))
    return size
