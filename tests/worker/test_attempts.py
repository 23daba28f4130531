"""What a worker makes of one task: log, report, result, and the right reason when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from core.domain.outcomes import Outcome, Reason
from core.protocol.messages import EngineReport
from tests.worker.conftest import Repository, Workers, eventually
from tests.worker.peer import Peer


async def test_a_task_runs_and_its_log_report_and_result_arrive(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("ls; echo done", "echo second"))

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.outcome is Outcome.SUCCEEDED
    assert result.reason is None
    assert (result.exit_code, result.engine_version) == (0, "1.0")
    assert result.coverage.analysed == result.coverage.planned == 2
    assert result.findings == {"warning": 1}
    assert set(result.timings_s) == {"checkout", "run", "collect"}
    assert peer.log_of(attempt_id) == "a.py\nb.py\ndone\nsecond\n"
    assert result.log_bytes == len(peer.logs[attempt_id])
    report = EngineReport.model_validate_json(peer.artifacts[attempt_id, "result.json"])
    assert (report.engine, report.revision) == ("shell", repository.revision)
    assert [finding.path for finding in report.findings] == ["a.py"]


async def test_a_prepare_task_reports_files_languages_and_the_change(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    base = repository.revision
    repository.commit({"c.md": "# c\n"})
    spec = repository.spec(kind="prepare", engine="prepare", source={"base_revision": base})
    attempt_id = await peer.offer(spec)

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.outcome is Outcome.SUCCEEDED
    assert result.prepare is not None
    assert result.prepare.languages == {"python": 2, "markdown": 1}
    assert (result.prepare.base, result.prepare.changed) == ("ancestor", 1)
    assert not result.artifacts


async def test_nothing_of_an_attempt_stays_on_the_workers_disk(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo x > $HOME/kept"))

    async with workers.inside():
        await peer.result(attempt_id)
        state = workers.folder / "state"
        await eventually(lambda: not [*(state / "spool").iterdir(), *(state / "scratch").iterdir()])


@pytest.mark.parametrize(
    ("changes", "scripts", "reason", "words"),
    [
        ({}, ["exit 3"], Reason.ENGINE_FAILED, "a script failed"),
        ({"engine": "nonesuch"}, ["true"], Reason.UNSUPPORTED, "nonesuch"),
        ({"config": {"scripts": 5}}, [], Reason.CONFIG_REFUSED, "scripts"),
        ({"source": {"scan_path": "../up"}}, ["true"], Reason.PARAMETERS_REFUSED, "scan_path"),
        ({"source": {"revision": "1" * 40}}, ["true"], None, ""),
        ({"limits": {"wall_s": 1.0}}, ["exec sleep 60"], Reason.ENGINE_TIMEOUT, "1 s"),
        ({"limits": {"idle_s": 0.5}}, ["exec sleep 60"], Reason.ENGINE_SILENT, "0.5 s"),
        ({"config": {"is_broken": True}}, ["true"], Reason.WORKER_ERROR, "its log"),
    ],
    ids=["engine", "unsupported", "config", "parameters", "revision", "wall", "idle", "bug"],
)
async def test_a_failure_comes_with_its_reason(
    peer: Peer,
    workers: Workers,
    repository: Repository,
    changes: dict[str, Any],
    scripts: list[str],
    reason: Reason | None,
    words: str,
) -> None:
    attempt_id = await peer.offer(repository.spec(*scripts, **changes))

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.outcome is Outcome.FAILED
    if reason is None:  # how a missing commit is named is the checkout's
        assert result.reason in {Reason.CHECKOUT_FAILED, Reason.SCM_NOT_FOUND}
    else:
        assert result.reason is reason
    assert words in result.message
    assert "a bug in the engine" not in result.message


async def test_a_local_repository_is_refused_where_it_is_not_allowed(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("true"))

    async with workers.inside(allow_local_repos=False):
        result = await peer.result(attempt_id)

    assert result.reason is Reason.SCM_FORBIDDEN
    assert "KENNEL_ALLOW_LOCAL_REPOS" in result.message


async def test_the_log_streams_while_the_command_runs(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo pid $$; exec sleep 600"))

    async with workers.inside():
        pid = await peer.pid(attempt_id)

        assert pid in workers.living(attempt_id)
        assert not peer.results


async def test_a_log_is_rewound_to_where_the_server_stands(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    script = 'echo pid $$; until [ -e "$0" ]; do sleep 0.02; done; echo more'
    flag = workers.folder / "flag"
    attempt_id = await peer.offer(repository.spec(script.replace("$0", str(flag))))

    async with workers.inside():
        await peer.pid(attempt_id)
        sent = bytes(peer.logs[attempt_id])
        del peer.logs[attempt_id][3:]
        flag.touch()
        result = await peer.result(attempt_id)

    assert set(peer.log_refusals) == {attempt_id}
    # Mended at once, not when the result was found incomplete.
    assert len(peer.named("result")) == 1
    assert bytes(peer.logs[attempt_id]) == sent + b"more\n"
    assert result.log_bytes == len(sent) + 5


async def test_a_log_longer_than_the_server_takes_arrives_cut_and_whole(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    peer.limits["log_bytes"] = 4096
    attempt_id = await peer.offer(repository.spec("yes | head -c 50000; echo; echo the end"))

    async with workers.inside():
        result = await peer.result(attempt_id)

    log = peer.log_of(attempt_id)
    assert result.log_bytes == len(log) <= 4096
    assert log.startswith("y\ny\n")
    assert log.rstrip().endswith("the end")


async def test_a_log_the_server_lost_is_sent_again_with_the_result(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo hello"))
    peer.forgetting.add(attempt_id)

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert len(peer.named("result")) == 2
    assert peer.log_of(attempt_id) == "hello\n"
    assert result.log_bytes == 6


async def test_an_artifact_the_server_misses_is_sent_again(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo hello"))
    peer.verdicts[attempt_id] = [{"verdict": "artifact_missing"}]

    async with workers.inside():
        await peer.result(attempt_id)

    assert len(peer.named("result")) == 2
    assert len(peer.named("artifact")) == 2


async def test_a_result_of_which_the_server_always_misses_parts_ends_as_a_failure(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("echo hello"))
    peer.verdicts[attempt_id] = [{"verdict": "artifact_missing"}] * 5

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.reason is Reason.UPLOAD_FAILED
    assert not result.artifacts


async def test_a_report_the_server_does_not_take_fails_the_attempt(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("true"))
    peer.limits["artifact_bytes"] = 10

    async with workers.inside():
        result = await peer.result(attempt_id)

    assert result.reason is Reason.OUTPUT_LIMIT
    assert not result.artifacts


async def test_an_upload_the_server_refuses_after_all_fails_the_attempt(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    attempt_id = await peer.offer(repository.spec("true"))

    async with workers.inside():
        await peer.until(lambda: peer.registrations)
        peer.limits["artifact_bytes"] = 10  # the worker has heard of the larger one
        result = await peer.result(attempt_id)

    assert result.reason is Reason.UPLOAD_FAILED
    assert "too large" in result.message


async def test_progress_is_counted_in_heartbeats(
    peer: Peer, workers: Workers, repository: Repository
) -> None:
    script = 'echo a.py >> "$HOME/../progress"; echo pid $$; exec sleep 600'
    attempt_id = await peer.offer(repository.spec(script))

    async with workers.inside():
        beat = await peer.until(
            lambda: [b for beats in peer.beats for b in beats.attempts if b.files_done]
        )

    assert (beat[0].attempt_id, beat[0].phase) == (attempt_id, "running")
    assert (beat[0].files_done, beat[0].files_planned) == (1, 2)
