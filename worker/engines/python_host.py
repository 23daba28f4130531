"""What a Python process needs to read outside the source: the interpreter's own installation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def interpreter_paths() -> Sequence[Path]:
    """Return the folders of the running interpreter, its virtual environment included."""
    candidates = (
        Path(sys.prefix),
        Path(sys.exec_prefix),
        Path(sys.base_prefix),
        Path(sys.base_exec_prefix),
        Path(sys.executable).parent,
        Path(sys.executable).resolve().parent,
    )
    return list(dict.fromkeys(path for path in candidates if path.is_dir()))
