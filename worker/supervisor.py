"""Keep one command's process tree inside its limits and its lease, and leave nothing of it alive.

A small process of its own, forked by `worker.forkserver`; it imports the standard library only.
Orders arrive as lines on standard input: first `run <path of the spec, as JSON>`, for which it may
wait long, then `lease <end by CLOCK_BOOTTIME>`, `cancel graceful`, `cancel abort`.
The end of that pipe, or of the lease, means that the daemon is gone or stopped, and kills the tree.
How it ended is one JSON file, written once. It is one module, though long, because it runs without
an import path.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.05
#: Engines give way to who watches over them: a starved host still beats, cancels and kills.
_NICE = 10
#: Of a supervisor that kills.
_URGENT = -20
#: Repeated passes over a tree that forks while it is killed; each pass takes milliseconds, but
#: thousands of processes need their share of a busy processor even to end.
_KILL_WITHIN_S = 30.0
_MAX_LISTED = 32_768
_DISK_EVERY_S = 1.0
_MAX_ENTRIES = 200_000
_MAX_LINE = 4096
#: Of the order to run: PATH_MAX, each byte escaped.
_LONGEST_PATH = 6 * 4096 + 16


def descendants(pid: int, *, at_most: int = _MAX_LISTED) -> list[int]:
    """Return the processes below *pid*. Orphans stay below a subreaper, so none escapes.

    It stops soon after *at_most*: a tree that grows faster than it is listed has no end.
    """
    if not _kernel_lists_children():
        return descendants_by_parent(pid)
    found: list[int] = []
    pending = [pid]
    while pending and len(found) <= at_most:
        children = children_of(pending.pop())
        found.extend(children)
        pending.extend(children)
    return found


@functools.cache
def _kernel_lists_children() -> bool:
    return Path("/proc/self/task", str(threading.get_native_id()), "children").exists()


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of *pid*; none when it is gone."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - no pathlib here: hot
            with open(f"/proc/{pid}/task/{task}/children") as file:  # noqa: PTH123
                children.extend(int(child) for child in file.read().split())
    return children


def descendants_by_parent(pid: int) -> list[int]:
    """Return the same from all processes' parents: slower, for kernels that list no children."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            parent = parent_of(int(entry))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found.extend(below)
        pending.extend(below)
    return found


def tagged(tag: str) -> list[int]:
    """Return the processes whose environment carries `KENNEL_TASK=<tag>`, our own excepted."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208
    return [pid for pid in pids if pid != os.getpid() and carries(pid, tag)]


def carries(pid: int, tag: str) -> bool:
    """Tell whether the environment of a process carries `KENNEL_TASK=<tag>`."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return f"KENNEL_TASK={tag}".encode() in file.read(1 << 20).split(b"\0")
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Tell whether *pid* is a process that still runs: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read(4096).rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def signal_tree(tree: list[int], number: int, *, spared: frozenset[int] = frozenset()) -> None:
    """Signal the processes of a tree of ours, as it was listed a moment ago, but for the spared.

    A process may have ended since, and its number be another's: a bomb of processes goes through
    all numbers in seconds. So each is held first, and left alone unless its parent is in the tree.
    """
    family = {os.getpid(), *tree}
    pids = [pid for pid in tree if pid not in spared]
    signal_all(pids, number, is_ours=lambda pid: parent_of(pid) in family)


def signal_all(pids: list[int], number: int, *, is_ours: Callable[[int], bool]) -> None:
    """Send a signal to each of *pids* that still exists and, held, still *is_ours*."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if is_ours(pid):
                signal.pidfd_send_signal(handle, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(handle)


def parent_of(pid: int) -> int | None:
    """Return the parent of a process, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except OSError:
        return None


class Supervisor:
    """The life of one command: spawn, watch, end, account."""

    def __init__(self, spec: dict[str, Any], orders: bytes = b"") -> None:
        self.spec = spec
        self.main = 0
        self.status: int | None = None
        self.cause = "exit"
        self.detail = ""
        self.max_rss = 0
        self.cpu_s = 0.0
        # Points in time, not spans: what was read late must not live longer for it.
        self.lease_ends = float(spec["lease_ends"])
        self.started = time.monotonic()
        self.ending_at: float | None = None
        self.moved_at = self.started
        self.sizes: tuple[int, ...] = ()
        self.next_disk_check = self.started + _DISK_EVERY_S
        #: What was read of the orders and not obeyed yet.
        self.line = orders
        self.log_start = max(0, _size(spec["log"]))
        self.wake, self._wake_in = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self._wake_in, False)

    # --- spawn -------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the command: own session, files for its output, limits that bind all below it."""
        spec = self.spec
        log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        out = log
        if spec["stdout"]:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
            out = os.open(spec["stdout"], flags | os.O_CLOEXEC, 0o600)
        parent = os.getpid()
        limits: list[tuple[int, tuple[int, int]]] = spec["rlimits"]

        def bind() -> None:  # runs in the child; safe here: this process has one thread
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(127)
            os.nice(_NICE)
            for kind, (soft, hard) in limits:
                ceiling = resource.getrlimit(kind)[1]
                if ceiling != resource.RLIM_INFINITY:
                    soft, hard = min(soft, ceiling), min(hard, ceiling)  # noqa: PLW2901
                resource.setrlimit(kind, (soft, hard))

        try:
            child = subprocess.Popen(
                spec["argv"],
                cwd=spec["cwd"],
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                preexec_fn=bind,  # noqa: PLW1509 - single-threaded
                umask=0o077,
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.write(log, f"kennel: cannot start {spec['argv'][0]}: {error}\n".encode())
            self.status = 127 << 8
            return
        finally:
            os.close(log)
            if out != log:
                os.close(out)
        self.main = child.pid
        child.returncode = 0  # reaped by wait4 below, for its resource usage

    # --- watch -------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until the command has ended and nothing of its tree is left."""
        signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.end("lease", "the supervisor was told to end"))
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        self.obey_lines()
        self.read_orders(poll, wait_ms=0)  # a daemon that died meanwhile starts nothing
        if self.ending_at is None:
            self.spawn()
        while self.status is None and self.main and not self.is_overdue():
            self.read_orders(poll, wait_ms=int(_TICK_S * 1000))
            self.reap()
            if self.status is None:
                self.check()
        self.kill_tree()

    def is_overdue(self) -> bool:
        return self.ending_at is not None and time.monotonic() >= self.ending_at

    def read_orders(self, poll: select.poll, *, wait_ms: int) -> None:
        for fd, _ in poll.poll(wait_ms):
            if fd == self.wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 512)
                continue
            chunk = os.read(0, _MAX_LINE)
            if not chunk:
                poll.unregister(0)
                self.end("lease", "the worker is gone")
                return
            self.line += chunk
            self.obey_lines()

    def obey_lines(self) -> None:
        *lines, self.line = self.line.split(b"\n")
        self.line = self.line[:_MAX_LINE]
        for line in lines:
            self.obey(line.decode("ascii", "replace").split())

    def obey(self, words: list[str]) -> None:
        match words:
            case ["lease", end]:
                with contextlib.suppress(ValueError):
                    self.lease_ends = max(self.lease_ends, float(end))
            case ["cancel", "graceful"]:
                self.end("cancelled", "cancelled", grace_s=self.spec["grace_s"])
            case ["cancel", "abort"]:
                self.end("cancelled", "cancelled")
            case _:
                pass

    def check(self) -> None:
        """Compare the tree with its limits."""
        spec = self.spec
        now = time.monotonic()
        if time.clock_gettime(time.CLOCK_BOOTTIME) >= self.lease_ends:
            self.end("lease", "the lease ended")
            return
        if self.ending_at is not None:
            return
        if now - self.started >= spec["wall_s"]:
            self.end("wall", f"ran longer than {spec['wall_s']:g} s", grace_s=spec["grace_s"])
            return
        sizes = tuple(_size(path) for path in spec["watched"])
        if sizes != self.sizes:
            self.sizes, self.moved_at = sizes, now
        if now - self.moved_at >= spec["idle_s"]:
            text = f"silent and without progress for {spec['idle_s']:g} s"
            self.end("idle", text, grace_s=spec["grace_s"])
        elif max(sizes, default=0) >= spec["file_bytes"]:
            self.end("output", f"wrote a file of {spec['file_bytes']} bytes")
        self.check_tree(now)

    def check_tree(self, now: float) -> None:
        spec = self.spec
        tree = descendants(os.getpid(), at_most=spec["processes"])
        if len(tree) > spec["processes"]:
            self.end("processes", f"started more than {spec['processes']} processes")
            return
        rss = sum(_resident(pid) for pid in tree)
        if rss > spec["memory_bytes"]:  # counts shared pages twice: ask exactly before killing
            rss = sum(_proportional(pid) for pid in tree)
        self.max_rss = max(self.max_rss, rss)
        if rss > spec["memory_bytes"]:
            self.end("memory", f"used more than {spec['memory_bytes']} bytes of memory")
            return
        if now >= self.next_disk_check:
            self.next_disk_check = now + _DISK_EVERY_S
            if _is_fuller(spec["out"], spec["disk_bytes"]):
                self.end("output", f"wrote more than {spec['disk_bytes']} bytes or too many files")

    # --- end ---------------------------------------------------------------------------------

    def end(self, cause: str, detail: str, *, grace_s: float = 0.0) -> None:
        """Begin to end the tree; the first cause counts, a shorter grace always does."""
        deadline = time.monotonic() + grace_s
        if self.ending_at is not None:
            self.ending_at = min(self.ending_at, deadline)
            return
        self.ending_at, self.cause, self.detail = deadline, cause, detail
        if grace_s > 0:
            tree = descendants(os.getpid())
            # A signal to bwrap itself would kill the sandbox before the engine can write a report.
            signal_tree(tree, signal.SIGTERM, spared=self.spared())

    def spared(self) -> frozenset[int]:
        return frozenset({self.main} if self.spec["is_wrapped"] else ())

    def kill_tree(self) -> None:
        """Kill until a whole pass finds nothing: the command, its leftovers, its orphans."""
        deadline = time.monotonic() + _KILL_WITHIN_S
        # A bomb of processes must not outnumber us on the processor; only root needs it (and may).
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _URGENT)
        while time.monotonic() < deadline:
            self.kill_groups()
            tree = descendants(os.getpid())
            # Stopped first: a tree that forks as fast as it is killed would win otherwise.
            signal_tree(tree, signal.SIGSTOP)
            tree = descendants(os.getpid())
            signal_tree(tree, signal.SIGKILL)
            self.reap()
            if not tree and not descendants(os.getpid()):
                return
            select.select([self.wake], [], [], 0.002)
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 512)

    def kill_groups(self) -> None:
        """Kill the command's process group and the one bwrap gave it, each in one stroke.

        The kernel signals a group whole before any of it may fork again; a walk through a tree of
        thousands is slower than the tree grows.
        """
        if not self.main or self.status is not None:  # reaped: its number may be another's
            return
        wrapped = children_of(self.main) if self.spec["is_wrapped"] else []
        for leader in (*wrapped, self.main):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, leader, os.getpriority(os.PRIO_PROCESS, 0))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGKILL)

    def reap(self) -> None:
        """Collect every ended process below us, adopted orphans too."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.cpu_s += usage.ru_utime + usage.ru_stime
            self.max_rss = max(self.max_rss, usage.ru_maxrss * 1024)
            if pid == self.main:
                self.status = status

    # --- account -----------------------------------------------------------------------------

    def report(self) -> None:
        """Bound the log, then write the result: whoever reads it finds everything done."""
        exit_code, number = _decode(self.status, is_wrapped=self.spec["is_wrapped"])
        if self.cause == "exit":
            self.judge_exit(exit_code, number)
        with contextlib.suppress(OSError):
            _bound_log(self.spec["log"], self.spec["log_bytes"], self.detail)
        result = {
            "exit_code": exit_code,
            "signal": number,
            "cause": self.cause,
            "detail": self.detail,
            "max_rss_bytes": self.max_rss,
            "cpu_s": round(self.cpu_s, 3),
            "wall_s": round(time.monotonic() - self.started, 3),
        }
        path = Path(self.spec["result"])
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result) + "\n")
        temporary.replace(path)

    def judge_exit(self, exit_code: int | None, number: int | None) -> None:
        """Find the limits that the kernel enforced, not we."""
        spec = self.spec
        if number == signal.SIGXCPU or (number == signal.SIGKILL and self.cpu_s >= spec["cpu_s"]):
            self.cause, self.detail = "cpu", f"used more than {spec['cpu_s']:g} s of CPU"
        elif number == signal.SIGXFSZ or (exit_code != 0 and self.has_full_file()):
            self.cause, self.detail = "output", f"wrote a file of {spec['file_bytes']} bytes"
        elif exit_code not in {0, None} and _ran_out_of_memory(spec["log"], self.log_start):
            self.cause, self.detail = "memory", "could not allocate memory"

    def has_full_file(self) -> bool:
        """Tell whether an output reached the limit: Python gets an error there, no signal."""
        return any(_size(path) >= self.spec["file_bytes"] for path in self.spec["watched"])


def _prctl(option: int, value: int | bytes) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


_LIBC = ctypes.CDLL(None, use_errno=True)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return -1


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident(pid)


def _is_fuller(folder: str, limit: int) -> bool:
    """Tell whether a folder holds more than *limit* bytes, or more entries than we count."""
    total = entries = 0
    pending = [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as listing:
            for entry in listing:
                entries += 1
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                if total > limit or entries > _MAX_ENTRIES:
                    return True
    return False


def _decode(status: int | None, *, is_wrapped: bool) -> tuple[int | None, int | None]:
    """Return (exit code, signal); bwrap passes a signal on as 128 + its number."""
    if status is None:
        return None, int(signal.SIGKILL)
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if is_wrapped and code > 128 and code - 128 in _PASSED_ON:
        return None, code - 128
    return code, None


_PASSED_ON = frozenset(
    int(number)
    for number in (
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGTERM,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    )
)

_NO_MEMORY = (b"MemoryError", b"Cannot allocate memory", b"std::bad_alloc", b"memory allocation of")


def _ran_out_of_memory(log: str, start: int) -> bool:
    """Tell whether the last words were about memory: an address-space limit kills nobody itself."""
    try:
        with open(log, "rb") as file:  # noqa: PTH123
            file.seek(max(start, _size(log) - 2048))
            tail = file.read(2048)
    except OSError:
        return False
    return any(words in tail for words in _NO_MEMORY)


def _bound_log(path: str, limit: int, detail: str) -> None:
    """Say why it ended, and cut the log to its head ¾ and tail ¼ around a marker."""
    with open(path, "r+b") as file:  # noqa: PTH123
        size = file.seek(0, os.SEEK_END)
        note = f"\nkennel: ended: {detail}\n".encode() if detail else b""
        if size + len(note) <= limit:
            file.write(note)
            return
        head = limit * 3 // 4
        tail = max(0, limit - head - len(note) - 80)
        file.seek(size - min(tail, size - head))
        last = file.read()
        marker = f"\nkennel: {size - head - len(last)} bytes of the log left out here\n".encode()
        file.seek(head)
        file.truncate()
        file.write(marker + last + note)


def main() -> int:
    """Wait to be told what to run, then run it; its result says how it went."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NAME, b"supervisor")  # `ps` would show all of them as the fork server
    line, orders = _first_order()
    if not line.startswith(b"run "):
        return 0  # the daemon is gone, and nothing was begun
    spec = json.loads(Path(json.loads(line[4:])).read_bytes())
    with open(spec["errors"], "ab") as errors:  # noqa: PTH123
        os.dup2(errors.fileno(), 2)
    supervisor = Supervisor(spec, orders)
    try:
        supervisor.run()
    finally:
        supervisor.kill_tree()
    supervisor.report()
    return 0


def _first_order() -> tuple[bytes, bytes]:
    """Return the first line of standard input and what came after it; no line: its end."""
    received = b""
    while b"\n" not in received and len(received) <= _LONGEST_PATH:
        chunk = os.read(0, _MAX_LINE)
        if not chunk:
            return b"", b""
        received += chunk
    line, _, rest = received.partition(b"\n")
    return line, rest
