"""The entry to the worker: what `kennel worker` and `kennel up` call.

Builds the parts from the settings and lends them to the daemon for its life. To be run on the
stock event loop: uvloop starts processes many times slower, and the loop stands still meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import metadata

from core.domain.clock import SystemClock
from core.domain.states import Isolation
from core.protocol.messages import EngineOffer, RegisterRequest
from core.runtime.git import Git
from core.runtime.logs import get_logger
from core.runtime.loops import EventWake
from core.runtime.settings import Settings, WorkerSettings
from worker.checkout import MirrorCache
from worker.client import WorkerClient
from worker.daemon import Daemon, Stop, StopBounds, Wakes
from worker.engines.base import Engine
from worker.engines.catalogue import load_engines
from worker.enrolment import Enrolment
from worker.identity import StateDir, hold_state_dir
from worker.reporting import Reporter
from worker.roster import Roster
from worker.sandbox import Sandbox, detect
from worker.spool import Spool
from worker.supervisors import Supervisors
from worker.tools import OfferedEngine, Tools

log = get_logger(__name__)

#: Longest wait for one engine's probe, seconds.
_PROBE_S = 60.0


async def run_worker(
    settings: Settings,
    *,
    stop: Stop,
    hand_back_within_s: float | None = None,
    engines: Sequence[Engine] | None = None,
) -> int:
    """Work until *stop* says otherwise; return the exit code, 0.

    *hand_back_within_s* bounds a drain: what has not finished by then is killed and handed back.
    *engines*: other ones than those that come along.

    Raises:
        core.domain.errors.SettingError: a setting cannot be used, or the state directory is held
            by another worker.
        worker.enrolment.EnrolmentRefused: the server does not take this worker; exit with its
            `exit_code`.
    """
    worker = settings.worker
    isolation = await asyncio.to_thread(detect, worker.isolation)
    offered = await probe(load_engines() if engines is None else engines)
    with hold_state_dir(worker.state_dir) as state:
        async with (
            WorkerClient(worker.server_url, version=_version()) as client,
            Supervisors() as supervisors,
        ):
            enrolment = Enrolment(
                client,
                state,
                _registration(worker, state, isolation, offered),
                enrolment_token=_secret(worker),
                clock=SystemClock(),
            )
            wakes = Wakes(EventWake(), EventWake())
            sandbox = Sandbox(isolation, supervisors)
            tools = _tools(settings, state, client, enrolment, sandbox, offered, wakes)
            roster = Roster(worker.slots, tools.reporter, on_change=wakes.set)
            bounds = StopBounds(worker.shutdown_s, hand_back_within_s)
            await Daemon(tools, roster, wakes, stop=stop, bounds=bounds).run()
    return 0


async def probe(engines: Sequence[Engine]) -> dict[str, OfferedEngine]:
    """Return the engines that work on this host, by name; say why the others do not."""
    found = await asyncio.gather(*(_probe(engine) for engine in engines))
    offered = {one.engine.name: one for one in found if one is not None}
    log.info("engines.probed", usable={name: one.version for name, one in offered.items()})
    return offered


async def _probe(engine: Engine) -> OfferedEngine | None:
    try:
        async with asyncio.timeout(_PROBE_S):
            answer = await asyncio.to_thread(engine.probe)
    except TimeoutError:
        log.warning("engine.missing", engine=engine.name, why=f"no answer within {_PROBE_S:g} s")
        return None
    if not answer.is_usable:
        log.warning("engine.missing", engine=engine.name, why=answer.problem)
        return None
    return OfferedEngine(engine, answer.version[:64] or "unknown")


def _tools(
    settings: Settings,
    state: StateDir,
    client: WorkerClient,
    enrolment: Enrolment,
    sandbox: Sandbox,
    offered: dict[str, OfferedEngine],
    wakes: Wakes,
) -> Tools:
    git = Git(allow_local=settings.allow_local_repos, private_root=state.private)
    spool = Spool(state.spool)
    return Tools(
        client=client,
        enrolment=enrolment,
        spool=spool,
        reporter=Reporter(client, spool, on_unauthorized=enrolment.refuse, on_change=wakes.set),
        mirrors=MirrorCache(state.mirrors, git=git, max_bytes=settings.worker.cache_bytes),
        sandbox=sandbox,
        engines=offered,
        scratch=state.scratch,
        clock=SystemClock(),
        memory_bytes=settings.worker.memory_bytes,
        allow_local_repos=settings.allow_local_repos,
    )


def _registration(
    worker: WorkerSettings,
    state: StateDir,
    isolation: Isolation,
    offered: dict[str, OfferedEngine],
) -> RegisterRequest:
    return RegisterRequest(
        name=worker.name,
        instance_key=state.instance_key(),
        tags=list(worker.tags),
        engines=[
            EngineOffer(
                name=name,
                version=one.version,
                module=one.engine.module,
                languages=list(one.engine.languages),
            )
            for name, one in offered.items()
        ],
        slots=worker.slots,
        isolation=isolation,
        version=_version(),
    )


def _secret(worker: WorkerSettings) -> str | None:
    token = worker.enrolment_token
    return None if token is None else token.get_secret_value()


def _version() -> str:
    try:
        return metadata.version("kennel")
    except metadata.PackageNotFoundError:
        return "0"
