"""What a run ran on: the machine and the versions, for whoever compares two of them."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_OURS = ("kennel", "aiohttp", "asyncpg", "uvloop", "pydantic", "orjson")


def machine() -> dict[str, str]:
    """Return what hardware and system there is; nothing that names the machine."""
    return {
        "processors": str(psutil.cpu_count()),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "distribution": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "load_at_start": f"{psutil.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that is measured."""
    found = {"python": platform.python_version(), "revision": _revision()}
    for name in _OURS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    if wrk := shutil.which("wrk"):
        # It has no option that ends with success; the first line says its version.
        said = subprocess.run([wrk, "-v"], check=False, capture_output=True, text=True, timeout=10)
        found["wrk"] = (said.stdout + said.stderr).split("\n", 1)[0].split(" [", 1)[0]
    return found | _peers()


def _peers() -> dict[str, str]:
    found = {}
    for line in (_ROOT / "bench" / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if version:
            found[name] = version
    wanted = json.loads((_ROOT / "bench" / "package.json").read_text())["dependencies"]
    return found | wanted


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _revision() -> str:
    done = subprocess.run(
        ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip() or f"unknown ({sys.platform})"
