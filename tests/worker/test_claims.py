"""Claims: slots are never exceeded, nothing offered is lost or run twice, nothing runs unconfirmed."""

from __future__ import annotations

from core.domain.outcomes import Reason
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import Peer


async def test_slots_are_never_exceeded_and_every_task_gets_one(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    # Each attempt counts what runs beside it, by folders that exist while it runs.
    running, counts = workers.folder / "running", workers.folder / "counts"
    running.mkdir()
    script = f"mkdir {running}/$$; ls {running} | wc -l >> {counts}; sleep 0.1; rmdir {running}/$$"
    attempts = [await peer.offer(repository.spec(script)) for _ in range(8)]

    async with workers.inside(slots=2):
        for attempt_id in attempts:
            await peer.result(attempt_id)

    assert max(int(line) for line in counts.read_text().split()) == 2
    assert all(claim.slots <= 2 for claim in peer.claims)


async def test_what_is_offered_beyond_the_free_slots_is_not_started(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.is_generous = True
    attempts = [await peer.offer(repository.spec("true")) for _ in range(3)]

    async with workers.inside(slots=1):
        await peer.result(attempts[0])
        await peer.until(lambda: len(peer.claims) > 1)

    assert peer.named("start") == [("start", attempts[0])]


async def test_only_free_slots_are_claimed(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    first = await peer.offer(repository.spec("exec sleep 600"))

    async with workers.inside(slots=3):
        await peer.until(lambda: first in peer.running and len(peer.claims) > 1)

    assert [claim.slots for claim in peer.claims[:2]] == [3, 2]


async def test_a_full_worker_claims_nothing_until_a_slot_is_free(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    flag = workers.folder / "flag"
    script = f"until [ -e {flag} ]; do sleep 0.02; done"
    first = await peer.offer(repository.spec(script))

    async with workers.inside(slots=1):
        await peer.until(lambda: first in peer.running)
        await peer.until(lambda: len(peer.beats) > 3)
        assert len(peer.claims) == 1
        flag.touch()
        await peer.until(lambda: len(peer.claims) == 2)


async def test_a_claim_whose_answer_got_lost_is_sent_again_and_started_once(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.deaf_once.add("/claim")
    attempt_id = await peer.offer(repository.spec("true"))

    async with workers.inside():
        await peer.result(attempt_id)

    assert peer.claims[0].claim_id == peer.claims[1].claim_id
    assert peer.claims[1].claim_id != peer.claims[2].claim_id
    assert peer.named("start") == [("start", attempt_id)]


async def test_an_attempt_that_is_offered_twice_runs_once(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo pid $$; exec sleep 600"))

    async with workers.inside(slots=2):
        await peer.pid(attempt_id)
        peer._queue.append(peer.offered[attempt_id])
        await peer.note()
        await peer.until(lambda: len(peer.claims) >= 3)

        assert peer.named("start") == [("start", attempt_id)]
        assert peer.log_of(attempt_id).count("pid") == 1


async def test_an_offer_that_went_elsewhere_meanwhile_is_dropped_silently(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    mark = workers.folder / "mark"
    lost = await peer.offer(repository.spec(f"touch {mark}"))
    peer.lost.add(lost)

    async with workers.inside(slots=1):
        await peer.until(lambda: peer.named("start"))
        second = await peer.offer(repository.spec("true"))
        await peer.result(second)
        await eventually(lambda: not [*(workers.folder / "state" / "spool").iterdir()])

    assert not mark.exists()
    assert lost not in {call[1] for call in peer.named("result")}


async def test_a_start_without_an_answer_is_handed_back_not_run(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals["start_s"] = 0.3
    peer.failing.add("/start")
    mark = workers.folder / "mark"
    attempt_id = await peer.offer(repository.spec(f"touch {mark}"))

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.reason is Reason.WORKER_INTERRUPTED
    assert not mark.exists()


async def test_a_paused_worker_claims_nothing_until_the_pause_is_over(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.intervals["claim_s"] = 0.05
    async with workers.inside():
        peer.directives.append("pause")
        seen = len(peer.beats)
        await peer.until(lambda: len(peer.beats) > seen + 2)
        claims = len(peer.claims)
        await peer.until(lambda: len(peer.beats) > seen + 5)
        # One that was open when the order came may have ended in between.
        assert len(peer.claims) <= claims + 1

        peer.directives.clear()
        attempt_id = await peer.offer(repository.spec("true"))
        await peer.result(attempt_id)


async def test_a_server_that_cannot_be_reached_gets_its_claims_when_it_is_back(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    async with workers.inside():
        await peer.until(lambda: peer.claims)
        await peer.stop()
        await peer.start()
        attempt_id = await peer.offer(repository.spec("true"))

        await peer.result(attempt_id)
    assert not workers.living(attempt_id)
