"""What a worker owes its server outlasts the daemon, and after a moment the power, too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.domain.outcomes import Outcome, Reason
from core.protocol.messages import AttemptRef, AttemptResult
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import Peer
from worker.spool import Entry, Spool

REF = AttemptRef(attempt_id=7, lease_token="t" * 43)
RESULT = AttemptResult(attempt_id=7, lease_token="t" * 43, outcome=Outcome.SUCCEEDED)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    (tmp_path / "spool").mkdir()
    return Spool(tmp_path / "spool")


async def with_result(spool: Spool) -> Entry:
    (entry,) = await spool.open([REF])
    entry.log.write_bytes(b"log")
    (entry.artifacts / "result.json").write_bytes(b"{}")
    await spool.commit(entry, RESULT)
    return entry


async def test_a_result_is_found_by_the_next_daemon(spool: Spool, tmp_path: Path) -> None:
    await with_result(spool)

    ((entry, result),) = await Spool(tmp_path / "spool").load()

    assert (entry.ref, result) == (REF, RESULT)


async def test_a_lease_without_a_result_is_handed_back(spool: Spool, tmp_path: Path) -> None:
    await spool.open([REF])

    ((_, result),) = await Spool(tmp_path / "spool").load()

    assert result.reason is Reason.WORKER_INTERRUPTED


@pytest.mark.parametrize("content", [b"", b"\0" * 80])
async def test_a_lease_that_a_power_cut_took_is_dropped(
    spool: Spool, tmp_path: Path, content: bytes
) -> None:
    entry = await with_result(spool)
    (entry.folder / "lease.json").write_bytes(content)

    assert await Spool(tmp_path / "spool").load() == []
    assert not entry.folder.exists()


async def test_forcing_takes_all_of_an_entry_to_the_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await with_result(spool)
    forced: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        forced.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    await spool.force(entry)

    assert forced == {"lease.json", "result.json", "log", "7", "artifacts", "spool"}


async def test_forcing_what_was_discarded_meanwhile_does_nothing(spool: Spool) -> None:
    entry = await with_result(spool)
    await spool.discard(entry)

    await spool.force(entry)

    assert not entry.folder.exists()


async def test_a_result_that_waits_for_its_verdict_is_forced_to_disk(
    peer: Peer, workers: Workers, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[int] = []
    real = Spool.force

    async def force(self: Spool, entry: Entry) -> None:
        await real(self, entry)
        forced.append(entry.attempt_id)

    monkeypatch.setattr(Spool, "force", force)
    peer.failing.add("results")
    attempt_id = await peer.offer(repository.spec("true"))

    async with workers.inside():
        await eventually(lambda: forced == [attempt_id])
        peer.failing.clear()
        result = await peer.result(attempt_id)

    assert result.reason is None
