"""The worker protocol over HTTP, without the two uploads: identity, claims, beats, results."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from api.holding import HOLDING
from api.keys import STOPPING
from core.domain.tokens import TokenKind, hash_token, make_token
from core.runtime.sealing import open_sealer
from core.runtime.settings import LeaseSettings, Settings
from core.store import jobs
from core.store.store import Store
from tests.api.caller import Api
from tests.api.work import (
    REPORT,
    Hand,
    artifact,
    create_job,
    enrolment_token,
    proof,
    queue_preparation,
    registration,
    result,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    lease = LeaseSettings(claim_s=1.5, heartbeat_s=1.5)
    return Settings(data_dir=tmp_path / "data", lease=lease)


@pytest.fixture
async def hand(client: TestClient, store: Store) -> Hand:
    return await Hand.register(client, store)


async def until_held(client: TestClient, count: int) -> None:
    """Wait until the server holds so many requests."""
    holding = client.app[HOLDING]
    async with asyncio.timeout(5):
        while len(holding) != count:
            await client.get("/healthz")


# --- identity -------------------------------------------------------------------------------------


async def test_a_worker_that_registers_gets_an_identity_and_the_servers_rules(
    client: TestClient, store: Store, settings: Settings
) -> None:
    hand = await Hand.register(client, store)

    assert hand.token.startswith("knw_")
    assert hand.registered["protocol"] == 1
    assert hand.registered["intervals"]["lease_s"] == settings.lease.lease_s
    assert hand.registered["limits"]["artifacts"] == settings.limits.artifacts
    assert hand.registered["token_expires_in_s"] == settings.lease.worker_token_s


async def test_a_single_use_token_serves_one_worker_and_that_one_again(
    client: TestClient, store: Store
) -> None:
    buyer = Hand(client, await enrolment_token(store, is_single_use=True))
    body = registration()

    first = await buyer.call("register", body)
    again = await buyer.call("register", body)
    other = await buyer.call("register", registration())

    assert (first.status, again.status, other.status) == (200, 200, 401)
    assert again.body["worker_id"] == first.body["worker_id"]
    assert again.body["token"] != first.body["token"]


async def test_of_many_that_come_with_one_single_use_token_at_once_one_registers(
    client: TestClient, store: Store
) -> None:
    buyer = Hand(client, await enrolment_token(store, is_single_use=True))

    answers = await asyncio.gather(*(buyer.call("register", registration()) for _ in range(8)))

    assert sorted(answer.status for answer in answers) == [200] + [401] * 7
    assert await store.db.fetchval("SELECT count(*) FROM workers") == 1


async def test_only_a_good_enrolment_token_registers(
    client: TestClient, store: Store, api: Api
) -> None:
    expired = await enrolment_token(store, expires="-1 second")

    for token, status in ((expired, 401), (make_token(TokenKind.ENROLMENT), 401), (api.token, 403)):
        answer = await Hand(client, token or "").call("register", registration())
        assert answer.status == status, token
    assert await store.db.fetchval("SELECT count(*) FROM workers") == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol": {"min": 2, "max": 3}}, "protocol"),
        ({"slots": 0}, "slots"),
        ({"name": "bad name"}, "name"),
        ({"instance_key": "short"}, "instance_key"),
        ({"engines": [{"name": "a", "version": "1"}] * 2}, "engines"),
        ({"engines": [{"name": "prepare", "version": "1"}]}, "engines"),
        ({"engines": [{"name": "a\x00b", "version": "1"}]}, "engines.0.name"),
    ],
)
async def test_a_registration_that_cannot_be_used_is_refused_by_its_field(
    client: TestClient, store: Store, changes: dict[str, Any], field: str
) -> None:
    buyer = Hand(client, await enrolment_token(store))

    answer = await buyer.call("register", registration(**changes))

    assert answer.status == 400
    assert answer.fields == [field]


async def test_a_worker_that_registers_again_loses_its_leases_but_no_task(
    client: TestClient, store: Store, api: Api
) -> None:
    buyer = Hand(client, await enrolment_token(store))
    body = registration()
    first = Hand(client, (await buyer.call("register", body)).body["token"])
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await first.claim_and_start()

    second = Hand(client, (await buyer.call("register", body)).body["token"])
    (again,) = await second.claim()

    assert again["task_id"] == task["task_id"]
    assert again["attempt_id"] != task["attempt_id"]
    assert await first.finish(task, outcome="failed", reason="scm_auth") == "lease_lost"


async def test_a_repeated_registration_gets_the_same_answer_and_takes_nothing(
    client: TestClient, store: Store, api: Api
) -> None:
    buyer = Hand(client, await enrolment_token(store))
    body = registration(registration_id="r" * 8)
    first = await buyer.call("register", body)
    hand = Hand(client, first.body["token"])
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()

    late = await buyer.call("register", body)

    assert late.body == first.body
    left_s = await store.db.fetchval(
        "SELECT extract(epoch FROM min(expires_at) - now())::float FROM worker_tokens"
    )
    assert left_s > 60
    assert await hand.finish(task, outcome="failed", reason="scm_auth") == "accepted"


async def test_a_registration_with_another_id_takes_what_the_last_one_held(
    client: TestClient, store: Store, api: Api
) -> None:
    buyer = Hand(client, await enrolment_token(store))
    key = registration()["instance_key"]
    old = registration(instance_key=key, registration_id="r" * 8)
    first = Hand(client, (await buyer.call("register", old)).body["token"])
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await first.claim_and_start()

    new = registration(instance_key=key, registration_id="s" * 8)
    second = Hand(client, (await buyer.call("register", new)).body["token"])
    (again,) = await second.claim()
    # Of the process that is gone: it takes nothing from the one that works now.
    await buyer.call("register", old)

    assert again["task_id"] == task["task_id"]
    ref = {key: again[key] for key in ("attempt_id", "lease_token")}
    started = await second.call("start", {"attempts": [ref]})
    assert started.body["attempts"][0]["verdict"] == "running"


async def test_registrations_that_arrive_together_are_one(client: TestClient, store: Store) -> None:
    buyer = Hand(client, await enrolment_token(store))
    body = registration(registration_id="r" * 8)

    answers = await asyncio.gather(*(buyer.call("register", body) for _ in range(4)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["token"] for answer in answers}) == 1
    assert (await Hand(client, answers[0].body["token"]).beat()).status == 200


async def test_a_rotated_token_leaves_the_old_one_good_for_a_moment(
    hand: Hand, store: Store
) -> None:
    answer = await hand.call("token")

    assert answer.status == 200
    assert answer.body["token"] != hand.token
    assert (await Hand(hand.client, answer.body["token"]).beat()).status == 200
    assert (await hand.beat()).status == 200
    left_s = await store.db.fetchval(
        "SELECT extract(epoch FROM min(expires_at) - now())::float FROM worker_tokens"
    )
    assert 50 < left_s <= 60


async def test_of_two_rotations_at_once_both_tokens_stay_good(hand: Hand, store: Store) -> None:
    """A network that brings a request twice lets a worker hear either answer."""
    first, second = [(await hand.call("token")).body["token"] for _ in range(2)]

    left = await store.db.fetch(
        "SELECT token_hash AS hash FROM worker_tokens"
        " WHERE expires_at > now() + interval '2 minutes'"
    )

    assert {row["hash"] for row in left} == {hash_token(first), hash_token(second)}


@pytest.mark.parametrize("call", ["token", "claim", "start", "heartbeat", "results", "goodbye"])
async def test_no_call_works_without_a_good_worker_token(
    hand: Hand, api: Api, store: Store, call: str
) -> None:
    await store.db.execute("UPDATE worker_tokens SET expires_at = now()")

    assert (await hand.call(call)).status == 401
    assert (await Hand(hand.client, make_token(TokenKind.WORKER)).call(call)).status == 401
    assert (await Hand(hand.client, api.token or "").call(call)).status == 403


# --- claims ---------------------------------------------------------------------------------------


async def test_a_claim_is_answered_with_all_a_worker_needs(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await queue_preparation(store, job_id)

    (task,) = await hand.claim()

    assert (task["job_id"], task["kind"], task["engine"]) == (job_id, "prepare", "prepare")
    assert task["attempt"] == 1
    assert task["source"]["scm_url"] == "https://git.example.org/acme/web.git"
    assert task["source"]["auth"] is None
    assert task["limits"]["wall_s"] == 60.0


async def test_the_same_claim_again_gets_the_same_answer(
    hand: Hand, api: Api, store: Store
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    claim_id = str(uuid.uuid4())

    first = await hand.claim(claim_id=claim_id)
    again = await hand.claim(claim_id=claim_id.upper())

    assert first == again != []
    assert await store.db.fetchval("SELECT count(*) FROM task_leases") == 1


async def test_credentials_reach_the_worker_unsealed(
    hand: Hand, api: Api, store: Store, settings: Settings
) -> None:
    job_id = await create_job(api, await api.a_project())
    sealed = open_sealer(settings).seal('{"username": "ann", "password": "s3cret"}')
    await store.db.execute("UPDATE repos SET scm_auth = $1", sealed)
    await queue_preparation(store, job_id)

    (task,) = await hand.claim()

    assert task["source"]["auth"] == {"username": "ann", "password": "s3cret", "private_key": None}


async def test_a_task_whose_credentials_cannot_be_unsealed_is_not_offered(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await store.db.execute("UPDATE repos SET scm_auth = 'x'")
    await queue_preparation(store, job_id)

    assert await hand.claim() == []


async def test_an_empty_claim_is_held_and_then_answered_with_nothing(
    hand: Hand, settings: Settings
) -> None:
    began = time.monotonic()

    assert await hand.claim() == []

    assert settings.lease.claim_s <= time.monotonic() - began < settings.lease.claim_s + 3


async def test_a_held_claim_is_answered_when_a_task_comes(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    began = time.monotonic()
    claim = asyncio.create_task(hand.claim())
    await until_held(hand.client, 1)

    await queue_preparation(store, job_id)

    (task,) = await claim
    assert task["job_id"] == job_id
    assert time.monotonic() - began < 1.4


async def test_a_task_left_to_another_worker_is_taken_when_its_head_start_is_over(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    claim_id = str(uuid.uuid4())
    await store.db.execute("UPDATE task_ready SET preferred_worker_id = 0, ready_at = now()")
    began = time.monotonic()

    (task,) = await hand.claim(claim_id=claim_id)

    assert task["engine"] == "todo"
    assert 0.25 < time.monotonic() - began < 1.2


async def test_a_claim_is_answered_when_the_server_stops(hand: Hand) -> None:
    claim = asyncio.create_task(hand.claim())
    await until_held(hand.client, 1)
    began = time.monotonic()

    hand.client.app[STOPPING].set()

    assert await claim == []
    assert time.monotonic() - began < 1.0


async def test_of_two_claims_of_a_worker_the_newer_is_held(hand: Hand) -> None:
    began = time.monotonic()
    older = asyncio.create_task(hand.claim())
    await until_held(hand.client, 1)
    newer = asyncio.create_task(hand.claim())

    assert await older == []
    assert time.monotonic() - began < 1.0
    assert await newer == []


async def test_a_claim_whose_worker_went_away_takes_nothing(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    gone = asyncio.create_task(hand.claim())
    await until_held(hand.client, 1)
    gone.cancel()
    await until_held(hand.client, 0)

    await queue_preparation(store, job_id)

    assert await store.db.fetchval("SELECT count(*) FROM task_leases") == 0
    assert len(await hand.claim()) == 1


async def test_a_paused_worker_is_offered_nothing_until_it_is_resumed(
    hand: Hand, api: Api, store: Store
) -> None:
    await api.post(f"/api/v1/workers/{hand.worker_id}/pause/")
    await queue_preparation(store, await create_job(api, await api.a_project()))
    claim = asyncio.create_task(hand.claim())
    await until_held(hand.client, 1)
    assert await store.db.fetchval("SELECT count(*) FROM task_leases") == 0

    await api.post(f"/api/v1/workers/{hand.worker_id}/resume/")

    assert len(await claim) == 1


async def test_a_claim_needs_a_uuid(hand: Hand) -> None:
    answer = await hand.call("claim", {"claim_id": "-" * 32, "slots": 1})

    assert (answer.status, answer.fields) == (400, ["claim_id"])


async def test_a_worker_is_given_only_what_its_engines_can_do(
    hand: Hand, api: Api, store: Store, client: TestClient
) -> None:
    other = await Hand.register(client, store, engines=("other",))
    await hand.prepare(store, await create_job(api, await api.a_project()))

    assert await other.claim() == []
    assert [task["engine"] for task in await hand.claim()] == ["todo"]


# --- start, heartbeat -----------------------------------------------------------------------------


async def test_only_the_holder_of_the_lease_starts_an_attempt(
    hand: Hand, api: Api, store: Store, client: TestClient
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    (task,) = await hand.claim()
    thief = await Hand.register(client, store)

    assert await thief.start(task) == "lease_lost"
    assert await hand.start(task | {"lease_token": "x" * 43}) == "lease_lost"
    assert await hand.start(task) == "running"
    assert await hand.start(task) == "running"


async def test_a_heartbeat_tells_what_is_known_and_what_is_not(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()

    answer = await hand.beat(task, {"attempt_id": 987654}, files_done=1, files_planned=4)

    assert answer.status == 200
    assert answer.body["known"] == [task["attempt_id"]]
    assert answer.body["unknown"] == [987654]
    assert (answer.body["cancel"], answer.body["directives"]) == ([], [])
    progress = "SELECT array[files_done, files_planned] FROM attempt_progress"
    assert await store.db.fetchval(progress) == [1, 4]


async def test_a_quiet_heartbeat_is_held(hand: Hand, settings: Settings) -> None:
    began = time.monotonic()

    assert (await hand.beat(hold=True)).status == 200

    assert time.monotonic() - began >= settings.lease.heartbeat_s


async def test_a_heartbeat_without_attempts_is_held_for_as_long_as_the_worker_takes(
    hand: Hand, api: Api, store: Store, client: TestClient
) -> None:
    busy = await Hand.register(client, store)
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await busy.claim_and_start()
    attempts = [{"attempt_id": task["attempt_id"], "phase": "running"}]
    impatient = asyncio.create_task(hand.call("heartbeat", {"hold": True, "hold_s": 0.1}))
    idle = asyncio.create_task(hand.call("heartbeat", {"hold": True, "hold_s": 3600.0}))
    beats = [
        impatient,
        asyncio.create_task(
            busy.call("heartbeat", {"hold": True, "hold_s": 3600.0, "attempts": attempts})
        ),
    ]

    for beat in beats:
        answered, _ = await asyncio.wait({beat, idle}, return_when=asyncio.FIRST_COMPLETED)
        assert answered == {beat}
        assert beat.result().status == 200
    await api.post(f"/api/v1/workers/{hand.worker_id}/drain/")

    assert (await idle).body["directives"] == ["drain"]


async def test_a_held_heartbeat_hears_of_a_cancel_at_once(
    hand: Hand, api: Api, store: Store
) -> None:
    project = await api.a_project()
    job_id = await create_job(api, project)
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    beat = asyncio.create_task(hand.beat(task, hold=True))
    await until_held(hand.client, 1)
    began = time.monotonic()

    await api.post(f"{project}/jobs/{job_id}/cancel/", {"remarks": "wrong branch"})
    answer = await beat

    assert time.monotonic() - began < 1.0
    (order,) = answer.body["cancel"]
    assert (order["attempt_id"], order["reason"]) == (task["attempt_id"], "cancelled")
    assert answer.body["known"] == []


async def test_orders_are_in_the_answer(hand: Hand, api: Api) -> None:
    path = f"/api/v1/workers/{hand.worker_id}"
    heard = []
    for verb in ("drain", "pause", "resume"):
        await api.post(f"{path}/{verb}/")
        heard.append((await hand.beat()).body["directives"])

    assert heard == [["drain"], ["pause"], []]


async def test_what_a_worker_forgot_is_requeued(hand: Hand, api: Api, store: Store) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()
    await store.db.execute("UPDATE task_leases SET started_at = started_at - interval '1 hour'")

    await hand.beat()

    (again,) = await hand.claim()
    assert again["task_id"] == task["task_id"]
    assert again["attempt"] == 2


async def test_a_heartbeat_that_was_held_up_on_its_way_disowns_nothing_that_began_meanwhile(
    hand: Hand, api: Api, store: Store
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()
    await store.db.execute("UPDATE task_leases SET started_at = started_at - interval '1 hour'")
    late = {"hold": False, "begun_to": task["attempt_id"] - 1}

    assert (await hand.call("heartbeat", late)).status == 200

    assert await hand.finish(task, outcome="failed", reason="scm_auth") == "accepted"


# --- results --------------------------------------------------------------------------------------


async def test_a_result_counts_once_and_the_same_again_gets_the_same_answer(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    assert (await hand.upload(task, REPORT)).status == 204
    body = result(task, artifacts=[artifact(REPORT)], findings={"error": 2})

    first, again = await hand.results(body), await hand.results(body)
    changed = await hand.results(body | {"findings": {"error": 3}})

    accepted = [{"attempt_id": task["attempt_id"], "verdict": "accepted", "log_bytes": None}]
    assert first.body["results"] == again.body["results"] == accepted
    assert changed.body["results"][0]["verdict"] == "lease_lost"
    stored = await store.db.fetchval(
        "SELECT result FROM task_outcomes WHERE task_id = $1", task["task_id"]
    )
    assert stored["findings"] == {"error": 2}
    assert "lease_token" not in stored


async def test_each_result_of_a_batch_has_its_own_verdict(
    hand: Hand, api: Api, store: Store
) -> None:
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id, engines=("todo", "todo"))
    good, bad = await hand.claim(slots=2)
    assert [await hand.start(task) for task in (good, bad)] == ["running"] * 2
    await hand.upload(good, REPORT)

    answer = await hand.results(
        result(good, artifacts=[artifact(REPORT)]),
        result(bad, artifacts=[artifact(REPORT)]),
        result(bad | {"lease_token": "y" * 43}, artifacts=[artifact(REPORT)]),
    )

    verdicts = [one["verdict"] for one in answer.body["results"]]
    assert verdicts == ["accepted", "artifact_missing", "lease_lost"]


async def test_a_result_waits_for_the_rest_of_its_log(hand: Hand, api: Api, store: Store) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()
    await hand.log(task, 0, b"half")
    body = result(task, outcome="failed", reason="scm_auth", log_bytes=8)

    early = await hand.results(body)
    await hand.log(task, 4, b"half")
    late = await hand.results(body)

    missing = {"attempt_id": task["attempt_id"], "verdict": "log_incomplete", "log_bytes": 4}
    assert early.body["results"] == [missing]
    assert late.body["results"][0]["verdict"] == "accepted"


async def test_the_result_of_a_cancelled_job_is_refused(hand: Hand, api: Api, store: Store) -> None:
    job_id = await create_job(api, await api.a_project())
    await hand.prepare(store, job_id)
    task = await hand.claim_and_start()
    await hand.upload(task, REPORT)
    await jobs.cancel(store, job_id, remarks="x", by="ann")  # type: ignore[arg-type]

    assert await hand.finish(task, artifacts=[artifact(REPORT)]) == "lease_lost"
    outcome = "SELECT outcome FROM task_outcomes WHERE task_id = $1"
    assert await store.db.fetchval(outcome, task["task_id"]) == "cancelled"


async def test_a_result_sent_by_another_worker_changes_nothing(
    hand: Hand, api: Api, store: Store, client: TestClient
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()
    thief = await Hand.register(client, store)

    assert await thief.finish(task, outcome="failed", reason="scm_auth") == "lease_lost"
    assert await store.db.fetchval("SELECT count(*) FROM task_outcomes") == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"outcome": "lost", "reason": "worker_lost"}, "outcome"),
        ({"outcome": "failed"}, "reason"),
        ({"outcome": "succeeded", "reason": "engine_failed"}, "reason"),
        ({"outcome": "failed", "reason": "superseded"}, "reason"),
        ({"outcome": "failed", "reason": "cancelled"}, "reason"),
        ({"outcome": "failed", "reason": "because"}, "reason"),
        ({"outcome": "succeeded"}, "artifacts"),
        ({"outcome": "succeeded", "coverage": {"planned": -1}}, "coverage.planned"),
        ({"outcome": "succeeded", "message": "a\x00b"}, "message"),
    ],
)
async def test_a_result_that_contradicts_itself_is_refused_by_its_field(
    hand: Hand, api: Api, store: Store, fields: dict[str, Any], field: str
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()

    answer = await hand.results(proof(task) | fields)

    assert (answer.status, answer.fields) == (400, [f"results.0.{field}"])
    assert await store.db.fetchval("SELECT count(*) FROM task_outcomes") == 0


async def test_a_failure_that_is_the_workers_is_tried_again(
    hand: Hand, api: Api, store: Store
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    task = await hand.claim_and_start()

    assert await hand.finish(task, outcome="failed", reason="checkout_failed") == "accepted"

    assert await store.db.fetchval("SELECT task_id FROM task_pending") == task["task_id"]


async def test_goodbye_gives_back_what_was_only_offered(
    hand: Hand, api: Api, store: Store, client: TestClient
) -> None:
    await queue_preparation(store, await create_job(api, await api.a_project()))
    (task,) = await hand.claim()

    answer = await hand.call("goodbye", {"reason": "tired"})

    assert answer.body == {"released": 1}
    assert await hand.start(task) == "lease_lost"
    assert len(await (await Hand.register(client, store)).claim()) == 1


@pytest.mark.parametrize("call", ["claim", "start", "results", "heartbeat"])
@pytest.mark.parametrize("body", [b"[]", b"{", b'"x"', b"\xff", b"[" * 10_000, b'{"attempts": 1}'])
async def test_a_body_that_is_none_is_refused(hand: Hand, call: str, body: bytes) -> None:
    answer = await hand.request(
        "POST", f"/worker/v1/{call}", data=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status == 400
