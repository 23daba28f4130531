"""A killed daemon loses nothing and overlaps nobody: real processes, kill -9, the same folder again."""

from __future__ import annotations

import asyncio

import pytest

from core.domain.errors import SettingError
from core.domain.outcomes import Reason
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import WITHIN_S, Peer


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await asyncio.wait_for(process.wait(), WITHIN_S)


async def test_a_result_the_server_could_not_take_is_delivered_after_a_kill_and_restart(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.failing |= {"/results", "/artifacts"}
    attempt_id = await peer.offer(repository.spec("echo hello; echo there"))
    first = await workers.process()
    await peer.until(
        lambda: ("failed", f"/worker/v1/attempts/{attempt_id}/artifacts/result.json") in peer.calls
    )
    await eventually((workers.folder / f"state/spool/{attempt_id}/result.json").exists)
    await kill(first)
    peer.failing.clear()
    peer.calls.clear()
    peer.beats.clear()
    # As if the log had been lost with a disk of the server's.
    peer.logs.clear()

    await workers.process()
    result = await peer.result(attempt_id)

    assert result.reason is None
    assert peer.log_of(attempt_id) == "hello\nthere\n"
    assert (attempt_id, "result.json") in peer.artifacts
    # Their leases are kept while they are delivered.
    assert [beat.attempt_id for beat in peer.beats[0].attempts] == [attempt_id]
    assert peer.calls.index(("heartbeat",)) < peer.calls.index(("result", attempt_id, None))
    # Registering gives leases away: results go first.
    await peer.until(lambda: peer.named("register"))
    assert peer.calls.index(("result", attempt_id, None)) < peer.calls.index(("register",))
    await eventually(lambda: not [*(workers.folder / "state/spool").iterdir()])


async def test_an_attempt_a_killed_daemon_ran_dies_and_is_handed_back_at_the_restart(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo pid $$; setsid sleep 600 & exec sleep 600"))
    first = await workers.process()
    await peer.pid(attempt_id)

    await kill(first)
    await eventually(lambda: not workers.living(attempt_id), within_s=5)
    await workers.process()

    result = await peer.result(attempt_id)
    assert result.reason is Reason.WORKER_INTERRUPTED
    await peer.until(lambda: len(peer.registrations) == 2)
    assert peer.calls.index(("result", attempt_id, result.reason)) < len(
        peer.calls
    ) - 1 - peer.calls[::-1].index(("register",))


async def test_a_restarted_worker_has_its_old_key_and_needs_no_second_enrolment(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.enrolment_uses = 1
    first = await workers.process()
    await peer.until(lambda: peer.claims)
    await kill(first)

    await workers.process()
    attempt_id = await peer.offer(repository.spec("true"))
    await peer.result(attempt_id)

    # The used-up token was refused, the worker's own was still good.
    assert ("unauthorized", "/worker/v1/register") in peer.calls
    assert len(peer.registrations) == 1
    assert peer.named("token")


async def test_the_instance_key_stays_over_restarts_and_is_private(
    peer: Peer, workers: Workers
) -> None:
    async with workers.inside():
        await peer.until(lambda: peer.claims)
    peer.claims.clear()
    async with workers.inside():
        await peer.until(lambda: peer.claims)

    keys = {registration.instance_key for registration in peer.registrations}
    state = workers.folder / "state"
    assert (len(keys), len(peer.registrations)) == (1, 2)
    assert state.stat().st_mode & 0o777 == 0o700
    for name in ("instance_key", "registration.json", "lock"):
        assert (state / name).stat().st_mode & 0o777 == 0o600


async def test_a_second_daemon_on_the_same_folder_is_refused(peer: Peer, workers: Workers) -> None:
    async with workers.inside():
        await peer.until(lambda: peer.registrations)

        with pytest.raises(
            SettingError, match=r"KENNEL_WORKER__STATE_DIR: .* in use .*process \d+"
        ):
            async with workers.inside() as (_, second):
                await second


async def test_a_token_is_shown_to_no_other_server(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    async with workers.inside():
        await peer.until(lambda: peer.registrations)

    async with Peer() as other:
        async with workers.inside(server_url=other.url, enrolment_token=other.enrolment_token):
            await other.until(lambda: other.claims)

        assert not other.named("unauthorized")
        assert other.calls[0] == ("register",)


async def test_rubbish_in_the_spool_does_not_stop_a_worker(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    spool = workers.folder / "state/spool"
    for name, lease in {
        "12": "{",
        "13": None,
        "x": '{"attempt_id": 9, "lease_token": "aaaaaaaaaa"}',
    }.items():
        (spool / name).mkdir(parents=True)
        if lease is not None:
            (spool / name / "lease.json").write_text(lease)

    async with workers.inside():
        attempt_id = await peer.offer(repository.spec("true"))
        await peer.result(attempt_id)

    assert not [*spool.iterdir()]
