"""Source trees of real packages, from their source distributions, kept beside the interpreter."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

#: Where distributions are kept between runs.
CACHE = Path(sys.prefix) / "share" / "sdists"


def unpack_sdist(name: str, version: str, target: Path) -> Path:
    """Unpack a package's source distribution below *target*, downloading it at the first use."""
    archive = CACHE / f"{name}-{version}.tar.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", ":all:", "--dest", str(CACHE), f"{name}=={version}"),
            ],
            check=True,
            timeout=300,
        )
    with tarfile.open(archive) as content:
        content.extractall(target, filter="data")
    return target / f"{name}-{version}"
