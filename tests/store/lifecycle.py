"""One step of a job's life a function, through the store's own doors, for tests of the next step."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from typing import Any

from core.domain.ids import AttemptId, JobId, ProjectId, WorkerId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import ActiveJobPolicy, FullReason, ScanType
from core.runtime.settings import SchedulerSettings
from core.store import admissions, attempts, classes, jobs, workers
from core.store.admissions import PlannedTask, Resolved
from core.store.attempts import AttemptProof, Finished, FinishVerdict, Offer
from core.store.store import Store

RETRY = SchedulerSettings(retry_base_s=0.001, retry_cap_s=0.001)
REVISION = "a" * 40


def new_job(project_id: int, **changes: Any) -> jobs.NewJob:
    values: dict[str, Any] = {
        "is_incremental": True,
        "is_forced": False,
        "revision": None,
        "created_from": "api",
        "creator": "ann",
        "policy": ActiveJobPolicy.QUEUE,
        "queue_limit_s": 3600.0,
    } | changes
    return jobs.NewJob(project_id=ProjectId(project_id), **values)


async def add_worker(
    store: Store, *, engines: tuple[str, ...] = ("lines",), key: bytes | None = None
) -> WorkerId:
    registration = workers.Registration(
        name="w",
        instance_hash=key or secrets.token_bytes(32),
        tags=[],
        engines=[
            {"name": name, "version": "1.2", "module": "codemetric", "languages": []}
            for name in engines
        ],
        slots=4,
        isolation="bwrap",
        version="1",
    )
    return await workers.register(store, registration, retry=RETRY)


async def admit(store: Store) -> tuple[uuid.UUID, list[JobId]]:
    token = uuid.uuid4()
    return token, await admissions.admit(store, token, lease_s=60, limit=100)


async def prepare(store: Store, token: uuid.UUID, job_id: JobId) -> bool:
    class_id = await classes.ensure_class(store, classes.Requirement("prepare"))
    resolved = Resolved(
        revision=REVISION,
        base=None,
        config_hash="c",
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        class_id=class_id,
        spec={"source": {}},
        sort_key=1,
    )
    return await admissions.prepare(store, job_id, token, resolved)


@dataclass(frozen=True, slots=True)
class Claimed:
    """An offer with the proof of its lease."""

    offer: Offer
    worker_id: WorkerId

    @property
    def proof(self) -> AttemptProof:
        return AttemptProof(self.offer.attempt_id, self.offer.token_hash)


async def claim(store: Store, worker_id: WorkerId, slots: int = 1) -> list[Claimed]:
    hashes = [secrets.token_bytes(32) for _ in range(slots)]
    offers = await attempts.claim(
        store, worker_id, claim_id=uuid.uuid4(), token_hashes=hashes, head_start_s=0
    )
    return [Claimed(offer, worker_id) for offer in offers]


async def start(store: Store, claimed: Claimed) -> bool:
    running = await attempts.start(store, claimed.worker_id, [claimed.proof])
    return claimed.offer.attempt_id in running


def finished(claimed: Claimed, *, reason: Reason | None = None, result: Any = None) -> Finished:
    """The result of an attempt."""
    return Finished(
        attempt_id=AttemptId(claimed.offer.attempt_id),
        token_hash=claimed.offer.token_hash,
        outcome=Outcome.FAILED if reason else Outcome.SUCCEEDED,
        reason=reason,
        message="3 files skipped" if reason is None else "it broke",
        exit_code=0,
        signal=None,
        result=result or {},
        body_hash=hashlib.sha256(repr((reason, result)).encode()).digest(),
    )


async def finish(
    store: Store, claimed: Claimed, *, reason: Reason | None = None, result: Any = None
) -> FinishVerdict:
    ended = finished(claimed, reason=reason, result=result)
    return await attempts.finish(store, claimed.worker_id, ended, retry=RETRY)


async def claim_and_start(store: Store, worker_id: WorkerId) -> Claimed:
    (claimed,) = await claim(store, worker_id)
    assert await start(store, claimed)
    return claimed


async def plan(store: Store, job_id: JobId, engines: tuple[str, ...] = ("lines",)) -> bool:
    tasks = [
        PlannedTask(
            engine=name,
            module="codemetric",
            class_id=await classes.ensure_class(store, classes.Requirement(name)),
            spec={},
        )
        for name in engines
    ]
    return await admissions.plan(
        store,
        job_id,
        tasks,
        scan_type=ScanType.FULL,
        full_reason=FullReason.NO_BASE,
        base_revision=None,
        sort_key=1,
        preferred_worker_id=None,
    )


async def planned_job(
    store: Store,
    project_id: int,
    worker_id: WorkerId,
    *,
    engines: tuple[str, ...] = ("lines",),
    is_forced: bool = False,
) -> JobId:
    """A job whose engine tasks are ready."""
    created = await jobs.create(store, new_job(project_id, is_forced=is_forced))
    token, admitted = await admit(store)
    assert created.job_id in admitted
    assert await prepare(store, token, created.job_id)
    preparation = await claim_and_start(store, worker_id)
    assert await finish(store, preparation) is FinishVerdict.ACCEPTED
    assert await plan(store, created.job_id, engines)
    return created.job_id
