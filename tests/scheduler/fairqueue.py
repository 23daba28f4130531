"""The queue as a plain model: every clock and key by the scheduler's own functions, no database."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from scheduler import fairness
from scheduler.fairness import Places, Standing

DAY = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Member:
    """A project: its name, its organisation, both weights."""

    project: str
    org: str
    weight: int = 1
    org_weight: int = 1


@dataclass(slots=True)
class FairQueue:
    """Jobs are admitted, tasks are claimed; nothing else happens."""

    now: int = 10**18
    horizon: int = DAY
    _heap: list[tuple[int, int, int, Member]] = field(default_factory=list)
    _last: dict[Member, int] = field(default_factory=dict)
    _count: int = 0

    def admit(self, member: Member, tasks: int = 1, priority: int = 0) -> Places:
        """A job of a project is admitted, and all its tasks are put into the queue."""
        head = self._heap[0][2] if self._heap else None
        begin = fairness.virtual_time(head, now=self.now, horizon=self.horizon)
        standing = Standing(
            org_weight=member.org_weight,
            weight=member.weight,
            others_weight=sum(
                other.weight
                for other, last in self._last.items()
                if other.org == member.org and other != member and last > begin
            ),
            head=head,
            last=self._last.get(member),
        )
        places = fairness.reserve(standing, tasks, now=self.now, horizon=self.horizon)
        self._last[member] = places.last
        for n in range(tasks):
            place = places.first + n * places.step
            key = fairness.sort_key(place, priority)
            heapq.heappush(self._heap, (key, self._count, place, member))
            self._count += 1
        return places

    def claim(self) -> str | None:
        """The first task is claimed; return its project."""
        return heapq.heappop(self._heap)[3].project if self._heap else None

    def served(self, claims: int) -> Counter[str]:
        """Claim so many tasks; return how many of each project."""
        return Counter(project for project in (self.claim() for _ in range(claims)) if project)

    def last_claims(self) -> dict[str, int]:
        """Claim everything; return which claim was each project's last, from 1."""
        found: dict[str, int] = {}
        n = 0
        while (project := self.claim()) is not None:
            n += 1
            found[project] = n
        return found
