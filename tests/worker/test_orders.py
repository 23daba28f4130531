"""Cancel, disowning and the fence: what must die dies, at once and whole, and nothing is reported."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from core.domain.outcomes import Reason
from tests.worker.conftest import Repository, Workers, eventually, living
from tests.worker.peer import Peer
from worker.engines.pylint import PylintEngine

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
        await eventually(lambda: len(living(attempt_id)) >= 1)
        ordered_at = time.monotonic()
        await peer.order(attempt_id, "abort")
        await eventually(lambda: not living(attempt_id), within_s=5)
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
        assert len(living(attempt_id)) >= 3
        await peer.order(attempt_id, mode)
        await eventually(lambda: not living(attempt_id))
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
        await eventually(lambda: not living(attempt_id))

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
        await eventually(lambda: not living(attempt_id))

    assert not peer.named("result")


async def test_a_cancel_during_the_checkout_starts_nothing(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    # A fetch from a pipe that nobody serves: it waits until it is stopped.
    url = f"{peer.url}/nothing/here.git"
    spec = repository.spec("true", source={"scm_url": url, "is_local": False})
    attempt_id = await peer.offer(spec)
    peer.lost.add(-1)

    async with workers.inside():
        await peer.until(lambda: attempt_id in peer.running)
        await peer.order(attempt_id)
        await eventually(lambda: not [*(workers.folder / "state" / "spool").iterdir()])
        await eventually(lambda: not [*(workers.folder / "state" / "scratch").iterdir()])


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


async def test_a_worker_that_lost_the_server_kills_its_own_attempts_in_time(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals |= {"heartbeat_s": 0.1, "fence_s": 1.0, "lease_s": 2.0}
    attempt_id = await peer.offer(repository.spec(STUBBORN))

    async with workers.inside():
        await peer.pid(attempt_id)
        lost_at = time.monotonic()
        peer.is_down = True
        await eventually(lambda: not living(attempt_id))
        took_s = time.monotonic() - lost_at
        assert not peer.results

        # Back again: what became of it is said, so that nobody waits for its lease.
        peer.is_down = False
        result = await peer.result(attempt_id)

    assert 0.5 < took_s < 2.0
    assert result.reason is Reason.WORKER_INTERRUPTED


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
        await eventually(lambda: len(living(attempt_id)) >= 1)
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
        await eventually(lambda: not living(attempt_id), within_s=5)
    finally:
        os.kill(process.pid, signal.SIGCONT)

    result = await peer.result(attempt_id)
    assert result.reason is Reason.WORKER_INTERRUPTED
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
