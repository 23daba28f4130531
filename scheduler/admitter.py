"""Admit waiting jobs and find out which commit each scans. Asks repositories, never a worker.

An iteration admits as many jobs as there are free resolvers and leaves; each is resolved by a
task of its own, bounded in time, so that one dead server holds up nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID, uuid4

import orjson

from core.domain.codes import ResultCode
from core.domain.errors import ScmError
from core.domain.ids import JobId
from core.domain.outcomes import CODE_OF_REASON, Reason
from core.domain.scm import ScmCredentials, check_revision
from core.domain.states import FullReason, JobPhase, ScanType
from core.runtime.git import Git
from core.runtime.logs import get_logger
from core.runtime.sealing import Sealer
from core.runtime.settings import SchedulerSettings
from core.store import admissions, classes, jobs, shares
from core.store.admissions import Base, JobPlan, Resolved
from core.store.pool import is_unavailable
from core.store.store import Store
from scheduler import fairness, specs
from scheduler.isolation import isolated

log = get_logger(__name__)

#: An admission lasts so long unless it is extended, seconds: what a scheduler that died was
#: resolving is another's so much later at most.
LEASE_S = 12.0
#: Who admits, for whoever asks why.
_NAME = f"{socket.gethostname()}:{os.getpid()}"
NOTHING_CHANGED = "代码无变更，无需再次增量扫描。如有需要，请启动全量扫描。"


class Waker(Protocol):
    """What wakes the loop that drives the admitter."""

    def wake(self) -> None:
        """Have the next iteration begin at once."""
        ...


class Admitter:
    """The loop from `waiting` to `preparing`."""

    name = "admitter"

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        *,
        git: Git,
        sealer: Sealer,
        waker: Waker,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._settings = settings
        self._git = git
        self._sealer = sealer
        self._waker = waker
        self._lease_s = lease_s
        self._keeping: asyncio.Task[None] | None = None
        self._group = asyncio.TaskGroup()
        self._resolving: dict[JobId, UUID] = {}
        #: Left as they are by the database's trouble, with their admissions.
        self._stranded: dict[JobId, UUID] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._keeping = self._group.create_task(self._keep(), name="kennel-admissions")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        abandoned = self._stranded | self._resolving if kind is not None else {}
        if self._keeping is not None:
            self._keeping.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            if abandoned:
                await admissions.abandon(self._store, abandoned)

    async def tick(self) -> int:
        """Admit what may start; return how many jobs that were."""
        await self._give_back()
        free = self._settings.resolvers - len(self._resolving)
        if free <= 0:
            return 0
        token = uuid4()
        admitted = await admissions.admit(
            self._store,
            token,
            lease_s=self._lease_s,
            limit=free,
            cost=fairness.COST,
            bonus=fairness.PRIORITY_BONUS,
            by=_NAME,
        )
        for job in await admissions.load(self._store, admitted):
            self._resolving[job.job_id] = token
            self._idle.clear()
            self._group.create_task(
                self._resolve_one(job, token), name=f"kennel-resolve-{job.job_id}"
            )
        return len(admitted)

    async def _keep(self) -> None:
        """Extend the admissions of what is being resolved, until cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            if not self._resolving:
                continue
            try:
                await admissions.extend(self._store, self._resolving, lease_s=self._lease_s)
            except Exception as error:
                # The edge of this task. Twice more before the lease is over.
                if not is_unavailable(error):
                    log.exception("admissions.failed")

    async def _give_back(self) -> None:
        """Free stranded jobs for any scheduler; else they wait for the end of their admission."""
        stranded = dict(self._stranded)
        if stranded:
            await admissions.abandon(self._store, stranded)
        for job_id in stranded:
            del self._stranded[job_id]

    async def idle(self) -> None:
        """Wait until nothing is being resolved; that ends when every resolver's time does."""
        await self._idle.wait()

    async def _resolve_one(self, job: JobPlan, token: UUID) -> None:
        try:
            await isolated(
                self._store,
                job.job_id,
                self._resolve_or_refuse(job, token),
                code=ResultCode.PREPARATION_FAILED,
                phases=[JobPhase.RESOLVING],
            )
        except Exception as error:
            # The edge of this task. Nobody is woken: the next look is soon enough for trouble.
            if is_unavailable(error):
                log.info("job.resolve_delayed", job_id=job.job_id, error=str(error)[:500])
            else:
                log.exception("job.resolve_failed", job_id=job.job_id)
            self._stranded[job.job_id] = token
        else:
            self._waker.wake()
        finally:
            self._resolving.pop(job.job_id, None)
            if not self._resolving:
                self._idle.set()

    async def _resolve_or_refuse(self, job: JobPlan, token: UUID) -> None:
        try:
            await self._resolve(job, token)
        except ScmError as error:
            await self._refuse(job, int(CODE_OF_REASON[Reason(error.reason)]), error.message)

    async def _refuse(self, job: JobPlan, code: int, message: str) -> None:
        log.info("job.refused", result_code=code, message=message)
        await jobs.close(
            self._store,
            [job.job_id],
            code=code,
            message=message,
            reason=Reason.JOB_CLOSED,
            phases=[JobPhase.RESOLVING],
        )

    async def _resolve(self, job: JobPlan, token: UUID) -> None:
        revision = await self._revision(job)
        config_hash = specs.config_hash(job)
        offers = await classes.live_engines(self._store, job.tag)
        base, full_reason = choose_base(job, config_hash=config_hash, offers=offers)
        if base is not None and base.revision == revision:
            await admissions.close_unchanged(
                self._store, job.job_id, token, base, message=NOTHING_CHANGED
            )
            log.info("job.unchanged", revision=revision)
            return
        places = await shares.reserve(
            self._store,
            job.project_id,
            fairness.tasks_of(job.engines, base.engines if base else None, len(offers)),
            cost=fairness.COST,
            bonus=fairness.PRIORITY_BONUS,
            horizon_s=self._settings.queue_limit_s,
        )
        resolved = Resolved(
            revision=revision,
            base=base,
            config_hash=config_hash,
            scan_type=ScanType.FULL if base is None else ScanType.INCREMENTAL,
            full_reason=full_reason,
            class_id=await classes.ensure_class(self._store, specs.prepare_requirement(job)),
            spec=specs.prepare_spec(
                job, revision=revision, base_revision=base.revision if base else None
            ),
            sort_key=fairness.sort_key(places.first, job.priority),
            key_step=places.step,
        )
        if await admissions.prepare(self._store, job.job_id, token, resolved):
            log.info("job.resolved", revision=revision, full_reason=full_reason)

    async def _revision(self, job: JobPlan) -> str:
        if job.asked_revision is not None:
            # Whether it exists is seen when a worker fetches it.
            return check_revision(job.asked_revision)
        return await self._git.resolve_head(
            job.scm_url,
            job.branch,
            credentials=self._credentials(job.scm_auth),
            total_s=self._settings.scm_total_s,
            per_try_s=self._settings.scm_timeout_s,
        )

    def _credentials(self, sealed: bytes | None) -> ScmCredentials | None:
        if sealed is None:
            return None
        fields: dict[str, str | None] = orjson.loads(self._sealer.unseal(sealed))
        return ScmCredentials(**fields)


def choose_base(
    job: JobPlan, *, config_hash: str, offers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Base | None, FullReason | None]:
    """Return what an incremental scan starts from, or why the scan is a full one.

    Args:
        job: The job.
        config_hash: Of its scheme as it is now.
        offers: Engines that live workers offer, by name.
    """
    base = job.base
    if not job.is_incremental:
        return None, FullReason.REQUESTED
    if base is None:
        return None, FullReason.NO_BASE
    if base.config_hash != config_hash:
        return None, FullReason.CONFIG_CHANGED
    for engine, version in base.engines.items():
        # An engine nobody offers at the moment has not changed: its task waits for it.
        offered = {offer["version"] for offer in offers.get(engine, ())}
        if offered and version not in offered:
            return None, FullReason.ENGINE_CHANGED
    return base, None
