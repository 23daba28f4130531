"""Where in the queue the first task may be, so that a claim need not walk over what is dead.

While an old snapshot is held anywhere in the database (a dump, a report, a forgotten session),
entries of claimed tasks stay in the index, in front, and every claim would visit them all. Claims
of a process therefore begin at the last one's first task. A hint only: others put tasks before
it, so everything is looked at again and again, the less often the longer such a look takes: a
task of a project that has waited for nothing yet is not kept waiting by the mark
(docs/adr/0006-claims-begin-at-a-low-water-mark.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

#: Between two looks at everything at most, while claims find all they want, seconds.
RESCAN_S = 1.0
#: Looks at everything take at most this share of the time: while they are quick, which is nearly
#: always, what was put before the mark is found within milliseconds.
SHARE = 0.1
#: Looks quicker than this are made whenever a claim found too little, seconds.
_QUICK_S = 0.05


@dataclass(slots=True)
class LowWater:
    """The hints of one process: capability class → least sort key."""

    clock: Callable[[], float] = time.monotonic
    _least: dict[int, int] = field(default_factory=dict)
    #: The next look at everything that is due, and the first that is allowed.
    _due_at: float = 0.0
    _allowed_at: float = 0.0

    def hints(self) -> dict[int, int]:
        """Return where to begin in each class; what is missing is looked at from the start."""
        return {} if self.clock() >= self._due_at else dict(self._least)

    def note(
        self, taken: Iterable[tuple[int, int]], *, is_short: bool, was_full: bool, took_s: float
    ) -> None:
        """Learn from a claim.

        Args:
            taken: Class and sort key of each task it took.
            is_short: It found less than it wanted: what it wants may lie before the mark.
            was_full: It looked at everything.
            took_s: How long it took, seconds.
        """
        now = self.clock()
        first: dict[int, int] = {}
        for class_id, sort_key in taken:
            first[class_id] = min(sort_key, first.get(class_id, sort_key))
        if was_full:
            self._least = first
            pause_s = min(took_s / SHARE, RESCAN_S)
            self._due_at = now + pause_s
            self._allowed_at = now + (pause_s if took_s > _QUICK_S else 0.0)
        else:
            self._least |= first
        if is_short:
            self._due_at = self._allowed_at
