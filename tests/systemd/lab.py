"""A real systemd to run units in: this machine's root file system, booted under an overlay.

Everything lives in a mount namespace of its own and below one process that dies with the one that
started it: whatever happens to a test run, no mount and no process is left. The network is the
machine's; files written inside are gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

#: Units of the machine that would only make noise inside, or act on what both share.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "man-db.timer",
    "networking.service",
    "postgresql@.service",
    "ssh.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
)

#: $1: an empty folder, $2: what lies above the machine's files; the rest: the container's options.
_BOOT = """
set -eu
mount -t tmpfs -o mode=0755 tmpfs "$1"
mkdir -p "$1/upper" "$1/work" "$1/root"
cp -a "$2/." "$1/upper/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
shift 2
exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit "$@"
"""

Content = str | bytes | Path

_BOOT_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "",
}


class LabError(Exception):
    """What was asked of the lab did not work; the message holds what it printed."""


class NotBooted(LabError):
    """This machine lets no container boot; the message holds what its console said."""


def until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Wait until *condition* holds; LabError, which says *what* did not happen, after *limit_s*."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {limit_s:g} s: {what}")
        pause.wait(0.1)


def obstacle() -> str | None:
    """Tell why no lab can be booted here; None when it should work."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    for program in ("systemd-nspawn", "nsenter", "unshare", "setpriv"):
        if shutil.which(program) is None:
            return f"{program} is missing: install systemd-container and util-linux"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlay file system"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(trial, check=False, capture_output=True, text=True, timeout=30)
    return None if done.returncode == 0 else f"mounting is not allowed: {done.stderr.strip()}"


class Lab:
    """One booted systemd.

    *files*: paths inside and their content, a Path for a link to it; *binds*: inside → outside.
    """

    def __init__(
        self, folder: Path, *, files: Mapping[str, Content], binds: Mapping[str, Path]
    ) -> None:
        self._folder = folder
        self._files = files
        self._binds = binds
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        above, place = self._folder / "above", self._folder / "lab"
        place.mkdir()
        self._lay_out(above)
        console = (self._folder / "console").open("wb")
        with console:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--propagation", "private", "--fork"),
                    *("--kill-child=KILL", "sh", "-c", _BOOT, "boot"),
                    *(str(place), str(above), f"--machine=kennel-test-{os.getpid()}"),
                    *(f"--bind-ro={outside}:{inside}" for inside, outside in self._binds.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        try:
            until(self._is_up, _BOOT_LIMIT_S, "systemd came up")
        except (LabError, OSError, subprocess.SubprocessError) as error:
            self._stop()
            said = (self._folder / "console").read_text(errors="replace")[-4000:]
            raise NotBooted(f"{error}\n{said}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(
        self, *argv: str, check: bool = True, limit_s: float = 120.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; LabError with its output when *check* and it fails."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._leader}", "--mount", "--pid", "--uts", "--ipc"),
                *("--cgroup", "--root", "--wd=/", "--", "env", "-i"),
                *(f"{name}={value}" for name, value in _ENVIRONMENT.items()),
                *argv,
            ],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
        if check and done.returncode != 0:
            raise LabError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, content: str, *, mode: int = 0o600) -> None:
        """Write a file inside, as root."""
        file = Path(f"/proc/{self._leader}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def start(self, *units: str) -> None:
        """Start units, each ready when this returns; LabError with their journal otherwise."""
        done = self.run("systemctl", "start", *units, check=False, limit_s=180)
        if done.returncode != 0:
            told = "".join(self.journal(unit)[-6000:] for unit in units)
            raise LabError(f"start {' '.join(units)}: {done.stderr}\n{told}")

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it has ended."""
        self.run("systemctl", "stop", unit, limit_s=180)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit as systemd prints them."""
        wanted = f"--property={','.join(properties)}"
        printed = self.run("systemctl", "show", wanted, unit).stdout
        return dict(line.split("=", 1) for line in printed.splitlines())

    def journal(self, unit: str) -> str:
        """Return what a unit and systemd about it wrote so far."""
        return self.run(
            "journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}"
        ).stdout

    def kill_main(self, unit: str) -> None:
        """Kill the main process of a unit as nothing can prevent."""
        self.run("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", unit)

    def _lay_out(self, above: Path) -> None:
        masked = {f"/etc/systemd/system/{unit}": Path("/dev/null") for unit in MASKED}
        for path, content in {**masked, **self._files}.items():
            file = above / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                file.symlink_to(content)
                continue
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            file.chmod(0o755 if "/bin/" in path else 0o644)
        # These folders become the machine's own, inside.
        for folder in (above, *(found for found in above.rglob("*") if found.is_dir())):
            folder.chmod(0o755)

    def _is_up(self) -> bool:
        process = self._process
        if process is None or process.poll() is not None:
            raise LabError("the container ended")
        if not self._leader:
            self._leader = _leader_below(process.pid)
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._leader:
            # What systemd in a container takes for "power off".
            power_off = signal.SIGRTMIN + 4
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, power_off)
        try:
            process.wait(_STOP_LIMIT_S if self._leader else 1)
        except subprocess.TimeoutExpired:
            # Everything below goes with it: each has its parent's death as its signal.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_LIMIT_S)


def _leader_below(pid: int) -> int:
    """Return the process that is the container's first: it sees itself as number 1."""
    below: Sequence[int] = [pid]
    while below:
        for found in below:
            try:
                status = Path(f"/proc/{found}/status").read_text()
            except OSError:
                continue
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if numbers.split()[-1] == "1" and len(numbers.split()) > 2:
                return found
        below = [child for parent in below for child in _children(parent)]
    return 0


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]
