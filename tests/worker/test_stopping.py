"""Stopping: the first signal drains, the second aborts, nothing is left behind or untold."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket

import pytest

from core.domain.outcomes import Reason
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import WITHIN_S, Peer

NEVER_ENDS = "trap '' TERM; echo pid $$; while :; do sleep 0.2; done"


def until_flag(workers: Workers) -> str:
    return f"echo pid $$; until [ -e {workers.folder}/flag ]; do sleep 0.02; done"


async def end(process: asyncio.subprocess.Process) -> int:
    return await asyncio.wait_for(process.wait(), WITHIN_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_finishes_what_runs_and_takes_nothing_new(
    peer: Peer, workers: Workers, repository: Repository, number: signal.Signals
) -> None:
    script = until_flag(workers)
    running = await peer.offer(repository.spec(script))
    process = await workers.process(slots=2)
    await peer.pid(running)

    process.send_signal(number)
    await peer.until(lambda: peer.goodbyes)
    await peer.until(lambda: peer.beats[-1].is_draining)
    late = await peer.offer(repository.spec("true"))
    seen = len(peer.beats)
    await peer.until(lambda: len(peer.beats) > seen + 2)
    (workers.folder / "flag").touch()

    assert (await peer.result(running)).reason is None
    assert await end(process) == 0
    assert late not in peer.running
    # The attempt stayed in the heartbeats to its end.
    draining = [beat for beat in peer.beats if beat.is_draining]
    assert [b.attempt_id for b in draining[0].attempts] == [running]


async def test_a_draining_worker_keeps_its_heartbeat_until_the_result_is_accepted(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.failing.add("/results")
    attempt_id = await peer.offer(repository.spec("true"))
    process = await workers.process()
    await peer.until(
        lambda: any(b.phase == "spooled" for beat in peer.beats for b in beat.attempts)
    )

    process.send_signal(signal.SIGTERM)
    await peer.until(lambda: peer.beats[-1].is_draining)
    seen = len(peer.beats)
    await peer.until(lambda: len(peer.beats) > seen + 2)
    assert process.returncode is None
    assert [b.attempt_id for b in peer.beats[-1].attempts] == [attempt_id]

    peer.failing.clear()
    await peer.result(attempt_id)
    assert await end(process) == 0


async def test_a_second_signal_ends_what_runs_and_hands_it_back(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec(NEVER_ENDS, config={"grace_s": 0.2}))
    process = await workers.process(shutdown_s=1.0)
    await peer.pid(attempt_id)

    process.send_signal(signal.SIGTERM)
    await peer.until(lambda: peer.goodbyes)
    assert workers.living(attempt_id)
    process.send_signal(signal.SIGTERM)
    result = await peer.result(attempt_id)

    assert result.reason is Reason.HANDED_BACK
    assert await end(process) == 0
    assert not workers.living(attempt_id)
    assert peer.goodbyes >= 2


async def test_an_abort_kills_what_does_not_end_by_itself_in_time(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec(NEVER_ENDS, config={"grace_s": 30.0}))
    process = await workers.process(shutdown_s=0.5)
    await peer.pid(attempt_id)

    process.send_signal(signal.SIGTERM)
    await peer.until(lambda: peer.goodbyes)
    process.send_signal(signal.SIGTERM)

    assert (await peer.result(attempt_id, within_s=10)).reason is Reason.HANDED_BACK
    assert await end(process) == 0
    assert not workers.living(attempt_id)


async def test_a_bounded_drain_hands_back_what_does_not_finish_in_time(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    long, short = NEVER_ENDS, "echo pid $$; sleep 0.2"
    config = {"grace_s": 20.0}
    attempts = [await peer.offer(repository.spec(s, config=config)) for s in (long, short)]

    bounded = workers.inside(slots=2, hand_back_within_s=1.5, shutdown_s=20.0)
    async with bounded as (stop, worker):
        for attempt_id in attempts:
            await peer.pid(attempt_id)
        stop.drain.set()
        # Neither the engine's grace nor the bound of an abort is waited for.
        assert await asyncio.wait_for(worker, 10) == 0

    assert [(await peer.result(a)).reason for a in attempts] == [Reason.HANDED_BACK, None]
    assert not workers.living(attempts[0])


async def test_what_the_server_disowned_is_not_handed_back(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec(NEVER_ENDS, config={"grace_s": 20.0}))

    async with workers.inside(shutdown_s=0.3) as (stop, worker):
        await peer.pid(attempt_id)
        seen = len(peer.beats)
        await peer.order(attempt_id, "graceful")
        await peer.until(lambda: len(peer.beats) > seen + 1)
        assert workers.living(attempt_id)
        stop.drain.set()
        stop.abort.set()
        assert await asyncio.wait_for(worker, WITHIN_S) == 0

    assert not workers.living(attempt_id)
    assert not peer.named("result")


async def test_an_abort_with_the_server_gone_ends_in_time_and_keeps_the_result(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec(NEVER_ENDS, config={"grace_s": 0.1}))
    async with workers.inside(shutdown_s=0.5) as (stop, worker):
        await peer.pid(attempt_id)
        peer.is_down = True
        stop.drain.set()
        stop.abort.set()
        assert await asyncio.wait_for(worker, WITHIN_S) == 0
    assert not workers.living(attempt_id)

    peer.is_down = False
    async with workers.inside():
        assert (await peer.result(attempt_id)).reason is Reason.HANDED_BACK


async def test_the_servers_order_to_drain_ends_the_worker(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    script = until_flag(workers)
    running = await peer.offer(repository.spec(script))
    async with workers.inside() as (_, worker):
        await peer.pid(running)
        peer.directives.append("drain")
        await peer.until(lambda: peer.goodbyes)
        (workers.folder / "flag").touch()

        assert await asyncio.wait_for(worker, WITHIN_S) == 0
    assert (await peer.result(running)).reason is None


async def test_a_worker_that_waits_for_its_server_stops_at_the_first_signal(
    peer: Peer, workers: Workers
) -> None:
    await peer.stop()
    process = await workers.process()
    await eventually(lambda: workers.log.exists() and workers.events("server.lost"))

    process.send_signal(signal.SIGTERM)

    assert await end(process) == 0


async def test_systemd_hears_ready_after_the_first_registration_and_only_then(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.failing.add("/register")
    address = f"\0kennel-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.setblocking(False)
        loop = asyncio.get_running_loop()

        async def told() -> str:
            return (await asyncio.wait_for(loop.sock_recv(channel, 4096), WITHIN_S)).decode()

        env = {"NOTIFY_SOCKET": "@" + address[1:], "WATCHDOG_USEC": "400000"}
        process = await workers.process(env=env)
        await peer.until(lambda: len(peer.named("failed")) >= 2)
        with pytest.raises(BlockingIOError):
            channel.recv(4096)
        peer.failing.clear()
        assert (await told()).startswith("READY=1\nSTATUS=0/2 slots busy")

        while await told() != "WATCHDOG=1":
            pass
        attempt_id = await peer.offer(repository.spec("echo pid $$; exec sleep 600"))
        await peer.pid(attempt_id)
        while "1/2 slots busy" not in await told():
            pass
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in await told():
            pass


async def test_no_line_of_a_workers_log_holds_a_secret(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    password = "pass-" + secrets.token_hex(12)
    auth = {"username": "bot", "password": password}
    with_auth = repository.spec(
        "true",
        source={
            "scm_url": f"{peer.url}/no/such.git",
            "is_local": False,
            "auth": auth,
            "cache_key": "k",
        },
    )
    attempts = [
        await peer.offer(repository.spec("echo hello")),
        await peer.offer(repository.spec("true", config={"is_broken": True})),
        await peer.offer(with_auth),
    ]
    process = await workers.process(slots=3)
    for attempt_id in attempts:
        await peer.result(attempt_id)
    # Answers of the wrong form, a refused token, an outage.
    peer.tokens.clear()
    await peer.until(lambda: len(peer.registrations) == 2)
    peer.is_down = True
    await eventually(lambda: workers.events("server.lost"))
    peer.is_down = False
    process.send_signal(signal.SIGTERM)
    assert await end(process) == 0

    lines = workers.log.read_text()
    leases = [spec.lease_token for spec in peer.offered.values()]
    known = [
        peer.registrations[0].instance_key,
        peer.enrolment_token,
        password,
        *leases,
        *peer.tokens,
    ]
    assert workers.events("attempt.broken")
    assert all(json.loads(line) for line in lines.splitlines())
    assert [secret for secret in known if secret in lines] == []
