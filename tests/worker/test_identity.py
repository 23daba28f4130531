"""Enrolment: registering, rotating, registering again, and clear words when nothing helps."""

from __future__ import annotations

import asyncio
import random

import pytest

from core.protocol.messages import RegisterRequest
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import Peer
from tests.worker.shell_engine import ShellEngine
from worker.client import WorkerClient
from worker.enrolment import EnrolmentRefused


async def test_a_worker_registers_with_what_it_can_do(peer: Peer, workers: Workers) -> None:
    engines = [ShellEngine()]

    async with workers.inside(engines=engines, slots=3, tags=["linux", "big"]):
        await peer.until(lambda: peer.registrations)

    request = peer.registrations[0]
    assert (request.name, request.slots, request.tags) == ("w1", 3, ["linux", "big"])
    assert [(e.name, e.version, e.module) for e in request.engines] == [
        ("shell", "1.0", "codelint")
    ]
    assert request.isolation == "group"


async def test_an_engine_that_does_not_work_is_not_offered(peer: Peer, workers: Workers) -> None:
    async with workers.inside(engines=[ShellEngine(problem="no shell here: install one")]):
        await peer.until(lambda: peer.registrations)

    assert peer.registrations[0].engines == []


async def test_the_token_is_rotated_before_its_end_and_work_goes_on(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.token_expires_in_s = 1.4

    async with workers.inside():
        await peer.until(lambda: len(peer.named("token")) >= 2)
        attempt_id = await peer.offer(repository.spec("true"))
        await peer.result(attempt_id)

    assert len(peer.registrations) == 1
    assert not peer.named("unauthorized")


async def test_a_disk_that_takes_no_registration_does_not_end_the_worker(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.token_expires_in_s = 1.4

    async with workers.inside():
        await peer.until(lambda: peer.claims)
        kept = workers.folder / "state" / "registration.json"
        kept.unlink()
        (kept / "in the way").mkdir(parents=True)
        await peer.until(lambda: len(peer.named("token")) >= 2)
        attempt_id = await peer.offer(repository.spec("true"))
        await peer.result(attempt_id)

    assert not peer.named("unauthorized")


async def test_a_call_that_is_tried_again_shows_the_token_of_that_moment(peer: Peer) -> None:
    class Patient(random.Random):
        """Draws the longest pause: time enough for what happens meanwhile."""

        def uniform(self, a: float, b: float) -> float:
            return max(a, b)

    request = RegisterRequest(name="w1", instance_key="k" * 20, engines=[], slots=1)
    async with WorkerClient(peer.url, chance=Patient()) as client:
        await client.register(request, peer.enrolment_token)
        peer.failing.add("goodbye")
        call = asyncio.create_task(client.goodbye("stopped"))
        await peer.until(lambda: peer.named("failed"))
        for _ in range(2):
            await client.rotate()
        peer.failing.clear()

        await call

    assert not peer.named("unauthorized")


async def test_a_refused_token_ends_all_attempts_and_enrols_again(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo pid $$; exec sleep 600"))

    async with workers.inside():
        await peer.pid(attempt_id)
        peer.tokens.clear()
        await peer.until(lambda: len(peer.registrations) == 2)
        # Registering gives its lease away, so it was dead by then.
        assert not workers.living(attempt_id)
        second = await peer.offer(repository.spec("true"))
        await peer.result(second)

    assert [r for r in peer.named("result") if r[1] == attempt_id] == []


async def test_a_refused_token_without_an_enrolment_token_ends_the_worker(
    peer: Peer, workers: Workers
) -> None:
    async with workers.inside():
        await peer.until(lambda: peer.claims)

    async with workers.inside(enrolment_token=None) as (_, worker):
        await peer.until(lambda: len(peer.claims) >= 2)
        peer.tokens.clear()
        with pytest.raises(EnrolmentRefused, match="KENNEL_WORKER__ENROLMENT_TOKEN") as refusal:
            await worker
    assert refusal.value.exit_code == 77


async def test_a_worker_nobody_knows_says_what_to_set(peer: Peer, workers: Workers) -> None:
    with pytest.raises(EnrolmentRefused, match="KENNEL_WORKER__ENROLMENT_TOKEN"):
        async with workers.inside(enrolment_token=None) as (_, worker):
            await worker


async def test_a_wrong_enrolment_token_ends_the_worker_at_once(
    peer: Peer, workers: Workers
) -> None:
    with pytest.raises(EnrolmentRefused, match="refused the enrolment token"):
        async with workers.inside(enrolment_token="kne_" + "x" * 40) as (_, worker):
            await worker


async def test_a_worker_waits_for_its_server_and_says_so_once(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    await peer.stop()
    process = await workers.process()
    await eventually(lambda: workers.log.exists() and workers.events("server.lost"))

    await peer.start()
    attempt_id = await peer.offer(repository.spec("true"))
    await peer.result(attempt_id)

    assert process.returncode is None
    assert len(workers.events("server.lost")) == 1
    assert len(workers.events("server.reached")) == 1


async def test_intervals_follow_the_server(peer: Peer, workers: Workers) -> None:
    peer.intervals |= {"heartbeat_s": 0.5, "fence_s": 5.0}
    async with workers.inside():
        await peer.until(lambda: len(peer.beats) >= 2)
        peer.intervals |= {"claim_s": 0.05}
        seen = len(peer.claims)
        # The claim that is open keeps its old time; the next ones have the new one.
        await peer.until(lambda: len(peer.claims) >= seen + 4)
