"""The wheel stands alone: installed into an empty environment, Kennel works there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command with next to no environment; return what it printed."""
    keep = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **keep, **env},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_installs_and_the_doctor_is_green(tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT),
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=True)
    run(
        *(empty / "bin" / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"),
        f"{wheel}[engines]",
        cwd=tmp_path,
    )

    kennel = empty / "bin" / "kennel"
    report = json.loads(run(kennel, "doctor", "--json", cwd=tmp_path))
    version = run(kennel, "--version", cwd=tmp_path)

    assert report["ok"] is True, report
    checked = {check["name"]: check["level"] for check in report["checks"]}
    assert {checked[name] for name in ("lines", "pylint", "ruff", "database")} == {"good"}
    assert "0.1.0" in version
