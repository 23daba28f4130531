"""What concurrent requests ask of the database, gathered: one statement answers many of them.

Every lookup is still made after its request arrived, so that a revoked token or a closed project
counts at once; nothing is kept from one request for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from api.keys import SETTINGS, STORE
from api.middlewares.errors import is_unavailable
from core.domain.ids import JobId, ProjectId, WorkerId
from core.runtime.coalescing import Coalescer
from core.runtime.settings import Settings
from core.store import attempts, beats, details, jobs, listing, projects, tokens, workers
from core.store.attempts import AttemptProof, Finished, Judged
from core.store.beats import Beat, BeatAnswer
from core.store.details import JobDetail
from core.store.jobs import Created, NewJob
from core.store.listing import Asked, ListedJob
from core.store.pages import Page
from core.store.projects import Entered, Entry
from core.store.store import Store
from core.store.tokens import UserToken
from core.store.workers import WorkerIdentity

#: Results hold up to a body's size each: few of them in one statement.
_MOST_RESULTS = 64
#: A heartbeat is held for seconds anyway, and an order ends that at once: it may wait for company.
_BEAT_GATHER_S = 0.2


@dataclass(frozen=True, slots=True)
class Gathering:
    """The gathered statements of one process."""

    users: Coalescer[bytes, UserToken | None]
    workers: Coalescer[bytes, WorkerIdentity | None]
    #: Callers of what is in a project, each with the project.
    entries: Coalescer[Entry, Entered | None]
    #: Plain lists only (`Asked.is_plain`).
    lists: Coalescer[Asked, Page[ListedJob]]
    details: Coalescer[tuple[ProjectId, JobId], JobDetail | None]
    #: Plain jobs only (`NewJob.is_plain`).
    creates: Coalescer[NewJob, Created | None]
    starts: Coalescer[tuple[WorkerId, AttemptProof], bool]
    results: Coalescer[tuple[WorkerId, Finished], Judged]
    beats: Coalescer[Beat, BeatAnswer]
    #: The same for beats that are not held: somebody waits for the answer.
    urgent_beats: Coalescer[Beat, BeatAnswer]
    #: The same without noting a beat.
    orders: Coalescer[Beat, BeatAnswer]


GATHERING = web.AppKey("gathering", Gathering)


def add_gathering(app: web.Application) -> None:
    """Give an application its gathered statements."""
    app[GATHERING] = gather(app[STORE], app[SETTINGS])


def gather(store: Store, settings: Settings) -> Gathering:
    """Return the gathered statements over *store*."""
    lease_s = settings.lease.lease_s

    async def start(proofs: Sequence[tuple[WorkerId, AttemptProof]]) -> list[bool]:
        running = await attempts.start_many(store, proofs)
        return [proof.attempt_id in running for _, proof in proofs]

    return Gathering(
        users=Coalescer("users", partial(tokens.find_users, store), is_shared=is_unavailable),
        workers=Coalescer("workers", partial(workers.by_tokens, store), is_shared=is_unavailable),
        entries=Coalescer("entries", partial(projects.enter_many, store), is_shared=is_unavailable),
        # Pages may be long, and so may a job's tasks: few of them in one statement.
        lists=Coalescer(
            "lists", partial(listing.list_newest, store), is_shared=is_unavailable, most=32, lanes=2
        ),
        details=Coalescer(
            "details",
            partial(details.detail_many, store),
            is_shared=is_unavailable,
            most=32,
            lanes=2,
        ),
        creates=Coalescer("creates", partial(jobs.create_many, store), is_shared=is_unavailable),
        starts=Coalescer("starts", start, is_shared=is_unavailable),
        results=Coalescer(
            "results",
            partial(attempts.finish_many, store, retry=settings.scheduler),
            is_shared=is_unavailable,
            most=_MOST_RESULTS,
        ),
        beats=Coalescer(
            "beats",
            partial(beats.beat_many, store, lease_s=lease_s),
            is_shared=is_unavailable,
            gather_s=_BEAT_GATHER_S,
        ),
        urgent_beats=Coalescer(
            "urgent beats",
            partial(beats.beat_many, store, lease_s=lease_s),
            is_shared=is_unavailable,
        ),
        orders=Coalescer(
            "orders",
            partial(beats.orders_many, store, lease_s=lease_s),
            is_shared=is_unavailable,
        ),
    )
