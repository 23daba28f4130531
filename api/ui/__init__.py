"""Pages for people. `static` is vendored: nothing is ever loaded from another host."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
