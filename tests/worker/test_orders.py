"""Cancel, disowning and the fence: what must die dies, at once and whole, and nothing is reported."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from core.domain.outcomes import Reason
from core.protocol.messages import RegisterRequest
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import Peer
from worker.client import WorkerClient
from worker.engines.pylint import PylintEngine
from worker.enrolment import Enrolment
from worker.heartbeat import Heartbeat
from worker.identity import hold_state_dir
from worker.reporting import Reporter
from worker.roster import Roster
from worker.spool import Spool

#: A tree: a child in a session of its own, one in the background, all deaf to TERM.
STUBBORN = "trap '' TERM; setsid sleep 600 & sleep 600 & echo pid $$; while :; do sleep 1; done"


async def test_a_cancel_kills_a_running_pylint_within_a_second(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    if not PylintEngine().probe().is_usable:
        pytest.skip("pylint is not installed: pip install kennel[engines]")
    functions = "\n".join(f"def f{n}(a, b):\n    return a + b + {n}\n" for n in range(3000))
    repository.commit({f"big{n}.py": functions for n in range(20)})
    spec = repository.spec(engine="pylint", config={})
    del spec["config"]["scripts"]
    attempt_id = await peer.offer(spec)

    async with workers.inside(engines=[PylintEngine()], slots=1):
        await peer.until(lambda: attempt_id in peer.running)
        await eventually(lambda: len(workers.living(attempt_id)) >= 1)
        ordered_at = time.monotonic()
        await peer.order(attempt_id, "abort")
        await eventually(lambda: not workers.living(attempt_id), within_s=5)
        took_s = time.monotonic() - ordered_at

        # The slot is free again.
        await peer.offer(repository.spec(engine="pylint", config={}))
        await peer.until(lambda: len(peer.named("start")) == 2)
    assert took_s < 1.0
    assert not [r for r in peer.named("result") if r[1] == attempt_id]


@pytest.mark.parametrize("mode", ["graceful", "abort"])
async def test_a_cancel_kills_the_whole_tree_and_reports_nothing(
    peer: Peer, workers: Workers, repository: Repository, mode: str
) -> None:
    attempt_id = await peer.offer(repository.spec(STUBBORN, config={"grace_s": 0.2}))

    async with workers.inside():
        await peer.pid(attempt_id)
        assert len(workers.living(attempt_id)) >= 3
        await peer.order(attempt_id, mode)
        await eventually(lambda: not workers.living(attempt_id))
        await eventually(lambda: not [*(workers.folder / "state" / "spool").iterdir()])

    assert not peer.named("result")


async def test_a_cancelled_attempt_is_in_no_later_heartbeat(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec(STUBBORN, config={"grace_s": 1.0}))

    async with workers.inside():
        await peer.pid(attempt_id)
        await peer.until(lambda: any(beat.attempts for beat in peer.beats))
        seen = len(peer.beats)
        await peer.order(attempt_id, "graceful")
        await peer.until(lambda: len(peer.beats) > seen + 4)

        # The one that was under way may still name it.
        assert not any(beat.attempts for beat in peer.beats[seen + 1 :])


async def test_an_unknown_attempt_is_killed_and_dropped(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo pid $$; exec sleep 600"))

    async with workers.inside():
        await peer.pid(attempt_id)
        await peer.disown(attempt_id)
        await eventually(lambda: not workers.living(attempt_id))

    assert not peer.named("result")


async def test_a_lost_lease_heard_of_by_the_log_kills_the_tree(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals["heartbeat_s"] = 2.0
    script = "echo pid $$; sleep 600 & while :; do echo x; sleep 0.05; done"
    attempt_id = await peer.offer(repository.spec(script))

    async with workers.inside():
        await peer.pid(attempt_id)
        peer.lost.add(attempt_id)
        await eventually(lambda: not workers.living(attempt_id))

    assert not peer.named("result")


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """A repository's address where every fetch waits for ever."""
    connected: set[asyncio.StreamWriter] = set()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a/b.git"
    for writer in connected:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


def fetching(url: str) -> list[str]:
    """Return the command lines of git that fetch from *url*."""
    lines = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    return [line for line in lines if url in line]


async def test_a_cancel_during_the_checkout_ends_the_fetch_and_frees_the_slot(
    peer: Peer, workers: Workers, repository: Repository, silent_url: str
) -> None:
    spec = repository.spec("true", source={"scm_url": silent_url, "is_local": False})
    attempt_id = await peer.offer(spec)

    async with workers.inside(slots=1):
        await eventually(lambda: fetching(silent_url))
        await peer.order(attempt_id)
        await eventually(lambda: not fetching(silent_url), within_s=5)
        await peer.result(await peer.offer(repository.spec("true")))

        state = workers.folder / "state"
        await eventually(lambda: not [*(state / "spool").iterdir(), *(state / "scratch").iterdir()])
    assert not [call for call in peer.named("result") if call[1] == attempt_id]


async def test_a_worker_that_lost_the_server_ends_its_checkouts_too(
    peer: Peer, workers: Workers, repository: Repository, silent_url: str
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 2.0}
    spec = repository.spec("true", source={"scm_url": silent_url, "is_local": False})
    attempt_id = await peer.offer(spec)

    async with workers.inside():
        await eventually(lambda: fetching(silent_url))
        peer.is_down = True
        await eventually(lambda: not fetching(silent_url), within_s=5)
        peer.is_down = False
        result = await peer.result(attempt_id)

    assert result.reason is Reason.WORKER_INTERRUPTED


async def test_heartbeats_keep_an_attempt_alive_beyond_its_first_lease(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 2.0}
    attempt_id = await peer.offer(repository.spec("sleep 2.5"))

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.reason is None


async def test_a_lease_counts_from_the_sending_of_the_heartbeat_that_is_confirmed(
    peer: Peer, workers: Workers, tmp_path: Path
) -> None:
    clock = MovedClock()
    peer.on_heartbeat = lambda: clock.move(4.0)  # held that long
    async with WorkerClient(peer.url) as client:
        with hold_state_dir(tmp_path / "state") as state:
            request = RegisterRequest(name="w", instance_key="k" * 40, engines=[], slots=1)
            enrolment = Enrolment(
                client, state, request, enrolment_token=peer.enrolment_token, clock=clock
            )
            await enrolment.open()
            reporter = Reporter(client, Spool(state.spool), on_unauthorized=enrolment.refuse)
            heartbeat = Heartbeat(
                client, enrolment, Roster(1, reporter), clock, on_directives=lambda _: None
            )
            clock.move(2.0)
            sent_at = clock.monotonic()

            await heartbeat.tick()

            assert heartbeat.lease_ends_at() == sent_at + peer.intervals["fence_s"]


async def test_heartbeats_say_which_attempts_had_begun_when_they_were_sent(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    async with workers.inside():
        await peer.until(lambda: bool(peer.beats))
        assert peer.beats[0].begun_to is None
        first = await peer.offer(repository.spec("true"))
        await peer.result(first)
        second = await peer.offer(repository.spec("true"))
        await peer.result(second)
        await peer.until(lambda: peer.beats[-1].begun_to == second)

    # Never ahead of what runs: a heartbeat that comes late would disown what began meanwhile.
    named = [(beat.begun_to, {one.attempt_id for one in beat.attempts}) for beat in peer.beats]
    assert all(begun is None or not held or max(held) <= begun for begun, held in named)
    assert [begun for begun, _ in named] == sorted(
        (begun for begun, _ in named), key=lambda begun: begun or 0
    )


async def test_a_quarantine_is_logged_once_when_it_begins_and_when_it_ends(
    peer: Peer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    async with workers.inside():
        peer.quarantine = {"reason": "upload_failed", "left_s": 41.7}
        seen = len(peer.beats)
        await peer.until(lambda: len(peer.beats) > seen + 3)
        peer.quarantine = None
        seen = len(peer.beats)
        await peer.until(lambda: len(peer.beats) > seen + 2)

    said = [line for line in capsys.readouterr().out.splitlines() if "worker.quarantine" in line]
    assert len(said) == 2
    assert "worker.quarantined" in said[0]
    assert "upload_failed" in said[0]
    assert "worker.quarantine_ended" in said[1]


class MovedClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._at = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._at, UTC)

    def monotonic(self) -> float:
        return self._at

    def move(self, seconds: float) -> None:
        self._at += seconds


async def test_a_waiting_result_that_is_disowned_is_dropped(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.failing.add("/results")
    attempt_id = await peer.offer(repository.spec("true"))

    async with workers.inside():
        await peer.until(
            lambda: any(b.phase == "spooled" for beat in peer.beats for b in beat.attempts)
        )
        await peer.disown(attempt_id)
        await eventually(lambda: not [*(workers.folder / "state" / "spool").iterdir()])
        seen = len(peer.beats)
        await peer.until(lambda: len(peer.beats) > seen + 2)

    assert not peer.beats[-1].attempts


@pytest.mark.parametrize("outage", ["is_down", "is_hanging"])
async def test_a_worker_that_lost_the_server_kills_its_own_attempts_in_time(
    peer: Peer, workers: Workers, repository: Repository, outage: str
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 2.0}
    attempt_id = await peer.offer(repository.spec(STUBBORN))

    async with workers.inside():
        await peer.pid(attempt_id)
        lost_at = time.monotonic()
        setattr(peer, outage, True)
        await eventually(lambda: not workers.living(attempt_id))
        took_s = time.monotonic() - lost_at
        assert not peer.results

        # Back again: what became of it is said, so that nobody waits for its lease.
        setattr(peer, outage, False)
        await peer.note()
        result = await peer.result(attempt_id)

    assert 0.5 < took_s < 2.0
    assert result.reason is Reason.WORKER_INTERRUPTED


async def idle_beyond_the_fence(peer: Peer) -> None:
    """Wait until a heartbeat without attempts is held that confirms none in time for the fence."""
    await peer.until(lambda: any(beat.hold_s is not None for beat in peer.beats))
    held_since = time.monotonic()
    beats = len(peer.beats)
    await eventually(lambda: time.monotonic() > held_since + peer.intervals["fence_s"] + 0.2)
    assert len(peer.beats) == beats


async def test_a_worker_without_attempts_has_its_heartbeat_held_for_most_of_a_lease(
    peer: Peer, workers: Workers
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 9.0}

    async with workers.inside():
        await idle_beyond_the_fence(peer)

    assert peer.beats[0].hold is False
    assert peer.beats[-2].hold is True
    assert peer.beats[-2].hold_s == pytest.approx(6.0)
    assert peer.beats[-1].is_draining


async def test_an_attempt_of_an_idle_worker_begins_with_a_fresh_heartbeat(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 9.0}

    async with workers.inside():
        await idle_beyond_the_fence(peer)
        attempt_id = await peer.offer(repository.spec("echo pid $$; sleep 0.5"))
        await peer.pid(attempt_id)
        await peer.until(lambda: peer.beats[-1].attempts)
        result = await peer.result(attempt_id)

    assert result.reason is None


async def test_a_cancel_reaches_an_attempt_that_began_while_an_idle_heartbeat_was_held(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals |= {"heartbeat_s": 0.3, "fence_s": 2.0, "lease_s": 60.0}

    async with workers.inside():
        await peer.until(lambda: any(beat.hold_s is not None for beat in peer.beats))
        attempt_id = await peer.offer(repository.spec(STUBBORN))
        await peer.pid(attempt_id)
        await peer.until(lambda: peer.beats[-1].attempts)
        await peer.order(attempt_id)
        await eventually(lambda: not workers.living(attempt_id), within_s=10)


async def test_an_outage_shorter_than_the_fence_kills_nothing(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    flag = workers.folder / "flag"
    attempt_id = await peer.offer(
        repository.spec(f"echo pid $$; until [ -e {flag} ]; do sleep 0.02; done")
    )

    async with workers.inside():
        await peer.pid(attempt_id)
        beats = len(peer.beats)
        peer.is_down = True
        await eventually(lambda: len(workers.living(attempt_id)) >= 1)
        peer.is_down = False
        await peer.until(lambda: len(peer.beats) > beats + 1)
        flag.touch()
        result = await peer.result(attempt_id)

    assert result.reason is None


async def test_a_stopped_daemon_overlaps_nobody(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 2.0}
    process = await workers.process()
    attempt_id = await peer.offer(repository.spec(STUBBORN))
    await peer.pid(attempt_id)

    os.kill(process.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not workers.living(attempt_id), within_s=5)
    finally:
        os.kill(process.pid, signal.SIGCONT)

    result = await peer.result(attempt_id)
    assert result.reason is Reason.WORKER_INTERRUPTED
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
