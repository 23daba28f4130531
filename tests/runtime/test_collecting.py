"""A process that has settled still frees what it makes, and walks no more what it was made of."""

from __future__ import annotations

import subprocess
import sys

_SETTLED = """
import gc, weakref
from core.runtime.collecting import settle

class Knot:
    def __init__(self):
        self.itself = self

before = Knot()
settle()
assert gc.get_freeze_count() > 1000
assert not any(thing is before for thing in gc.get_objects())
seen = weakref.ref(Knot())
made = [[] for _ in range(gc.get_threshold()[0] + 1)]
assert seen() is None
"""


def test_what_was_made_before_is_left_alone_and_what_comes_later_is_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SETTLED], check=False, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
