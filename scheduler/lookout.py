"""Wake the other loops when there is work that nobody told of: lost notifications, passing time.

Each of them would otherwise ask the database in turns. One look stands for all, comes at the very
moment the next lease, offer, delay or admission ends, and costs an idle system next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Protocol

from core.runtime.settings import Settings
from core.store import duties
from core.store.duties import Duties
from core.store.store import Store

#: Between two looks at least, seconds: what is due may be another scheduler's, and still under way.
_LEAST_S = 0.05


class Wakeable(Protocol):
    """What a loop waits on."""

    def wake(self) -> None:
        """Wake it, or its next wait."""
        ...

    async def wait(self, timeout_s: float) -> bool:
        """Return True on a wake-up, False after *timeout_s* seconds."""
        ...


class Lookout:
    """The loop that looks for all loops; its own wake-up, since it knows when to look next."""

    name = "lookout"

    def __init__(
        self, store: Store, settings: Settings, wakes: Mapping[str, Wakeable], told: Wakeable
    ) -> None:
        """*wakes* has what wakes each loop, by the loop's name; *told*, what calls for a look."""
        self._store = store
        self._settings = settings
        self._wakes = wakes
        self._told = told
        #: Until the next loop has work, as the last look had it.
        self._next_s: float | None = None

    async def tick(self) -> int:
        """Look once, and wake whoever has work."""
        found = await duties.look(
            self._store,
            lease_s=self._settings.lease.lease_s,
            start_s=self._settings.lease.start_s,
            saving_limit_s=self._settings.scheduler.saving_limit_s,
        )
        due = _due(found)
        for name, seconds in due.items():
            if seconds <= 0:
                self._wakes[name].wake()
        # Asked here and not in `wait`, where no error of the database may come from.
        self._next_s = min((seconds for seconds in due.values() if seconds > 0), default=None)
        return 0

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it is told, but not beyond the moment the next loop has work."""
        if self._next_s is not None:
            timeout_s = min(timeout_s, max(_LEAST_S, self._next_s))
        return await self._told.wait(timeout_s)


def _due(found: Duties) -> dict[str, float]:
    every = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: seconds for name, seconds in every.items() if seconds is not None}
