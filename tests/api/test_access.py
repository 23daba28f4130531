"""Who may what: every operation against every kind of caller, tokens that end, organisations apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from api.operations import ORGS, Operation
from api.principals import Access
from api.routes import all_operations
from core.domain.ids import ProjectId, RepoId
from core.domain.tokens import TokenKind, hash_token, is_well_formed, kind_of, make_token
from core.store.projects import Entry, enter_many
from tests.api.caller import Api, a_token

OPERATIONS = all_operations()
OPEN_PATHS = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/static/{name}"}
#: The least caller each access lets pass; all kinds above pass too.
_RANK = {Access.VIEWER: 0, Access.MEMBER: 1, Access.ADMIN: 2, Access.OPERATOR: 3}


def path_of(operation: Operation, project: str) -> str:
    """A path of the operation that leads to the things of *project*, which all have the id 1."""
    names = re.match(r".*/orgs/([^/]+)/teams/([^/]+)/repos/(\d+)/projects/(\d+)", project)
    assert names is not None
    org, team, repo, project_id = names.groups()
    known = {"org_sid": org, "team_name": team, "repo_id": repo, "project_id": project_id}
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "1"), operation.path)


def named(operations: Sequence[Operation]) -> list[Any]:
    return [pytest.param(one, id=f"{one.method} {one.path}") for one in operations]


GUARDED = [one for one in OPERATIONS if one.access is not Access.OPEN]
FOR_USERS = [one for one in OPERATIONS if one.access in _RANK]
IN_ORGS = [one for one in FOR_USERS if "{org_sid}" in one.path]


def test_only_health_and_documents_are_open() -> None:
    assert {one.path for one in OPERATIONS if one.access is Access.OPEN} == OPEN_PATHS


def test_reads_need_a_viewer_at_least_and_writes_a_member() -> None:
    for one in FOR_USERS:
        least = Access.VIEWER if one.method == "GET" else Access.MEMBER
        assert _RANK[one.access] >= _RANK[least], one.name


def test_every_operation_in_a_project_finds_it_together_with_the_caller() -> None:
    inside = {one.name for one in OPERATIONS if re.search(r"/projects/{project_id}/.", one.path)}

    assert {one.name for one in OPERATIONS if one.is_in_project} == inside


async def test_the_router_serves_nothing_that_is_not_declared(api: Api) -> None:
    declared = {path for one in OPERATIONS for path in one.paths()}
    app = api.client.server.app  # type: ignore[attr-defined]  # ours is a TestServer

    assert {route.resource.canonical for route in app.router.routes()} == declared


@pytest.fixture
async def project(api: Api) -> str:
    return await api.a_project()


@pytest.fixture
async def callers(api: Api, project: str) -> dict[str, str | None]:
    """Tokens by kind of caller."""
    await api.org("other")
    worker, enrolment = make_token(TokenKind.WORKER), make_token(TokenKind.ENROLMENT)
    await api.store.db.execute(
        "WITH w AS (INSERT INTO workers (name, instance_hash, engines, slots, isolation)"
        " VALUES ('w', '\\x01', '[]', 1, 'group') RETURNING id)"
        " INSERT INTO worker_tokens (token_hash, worker_id, expires_at)"
        " SELECT $1, id, now() + interval '1 hour' FROM w",
        hash_token(worker),
    )
    await api.store.db.execute(
        "INSERT INTO tokens (kind, name, token_hash) VALUES ('enrolment', 'rack', $1)",
        hash_token(enrolment),
    )
    return {
        "anonymous": None,
        "unknown": make_token(TokenKind.USER),
        "viewer": await a_token(api.store, "viewer", org_sid="acme"),
        "member": await a_token(api.store, "member", org_sid="acme"),
        "admin": await a_token(api.store, "admin", org_sid="acme"),
        "foreign admin": await a_token(api.store, "admin", org_sid="other"),
        "worker": worker,
        "enrolment": enrolment,
    }


def expected(operation: Operation, caller: str) -> set[int] | None:
    """What a caller must be answered; None: it passes, whatever the operation then says."""
    if operation.access is Access.OPEN:
        return None
    if caller in ("anonymous", "unknown"):
        # An unknown user token at a worker's door is of the wrong kind before it is unknown.
        return {401} if caller == "anonymous" or operation.access in _RANK else {401, 403}
    if operation.access is Access.WORKER:
        return None if caller == "worker" else {403}
    if operation.access is Access.ENROLMENT:
        return None if caller == "enrolment" else {403}
    rank = {"viewer": 0, "member": 1, "admin": 2, "foreign admin": 2}.get(caller, -1)
    if rank < _RANK[operation.access]:
        return {403}
    return {404, 400} if caller == "foreign admin" and "{org_sid}" in operation.path else None


@pytest.mark.parametrize("operation", named(OPERATIONS))
async def test_each_operation_lets_pass_whom_it_should_and_nobody_else(
    api: Api, project: str, callers: dict[str, str | None], operation: Operation
) -> None:
    path = path_of(operation, project)
    before = await counts(api)
    for caller, token in callers.items():
        wanted = expected(operation, caller)
        if wanted is None:
            continue
        answer = await api.with_token(token).request(operation.method, path)
        assert answer.status in wanted, f"{caller}: {answer.status} {answer.text}"
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"] == "Token"
    assert await counts(api) == before


@pytest.mark.parametrize("operation", named([one for one in IN_ORGS if one.method == "GET"]))
async def test_a_foreign_organisation_looks_like_a_missing_one(
    api: Api, project: str, callers: dict[str, str | None], operation: Operation
) -> None:
    path = path_of(operation, project)
    foreign = api.with_token(callers["foreign admin"])

    there = await foreign.get(path)
    missing = await foreign.get(path.replace("/acme", "/nowhere"))

    assert (there.status, missing.status) == (404, 404)
    assert there.body["msg"].replace("acme", "nowhere") == missing.body["msg"]


@pytest.mark.parametrize("wrong", ["projects/0", "projects/x", "projects/9" + "9" * 20, "repos/x"])
async def test_a_path_that_cannot_be_one_is_missing_for_callers_and_unauthorised_for_others(
    api: Api, project: str, wrong: str
) -> None:
    path = re.sub(rf"{wrong.split('/', maxsplit=1)[0]}/\d+", wrong, project)
    paths = (f"{path}/jobs/", f"{path}/jobs/1/detail/")

    for asked in paths:
        missing = await api.get(asked)
        unknown = await api.with_token(make_token(TokenKind.USER)).get(asked)
        assert (missing.status, unknown.status) == (404, 401)
        assert missing.body["msg"].startswith(wrong.split("s/", maxsplit=1)[0])


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
async def test_a_token_that_ended_is_refused_in_a_project_too(
    api: Api, project: str, change: str
) -> None:
    token = await a_token(api.store, "viewer", org_sid="acme")
    other = api.with_token(token)
    assert (await other.get(f"{project}/jobs/")).status == 200

    await api.store.db.execute(
        f"UPDATE tokens SET {change} WHERE token_hash = $1",
        hash_token(token),
    )

    assert (await other.get(f"{project}/jobs/")).status == 401


async def test_callers_that_enter_together_each_find_their_own(api: Api, project: str) -> None:
    hashes = {
        "all": hash_token(str(api.token)),
        "acme": hash_token(await a_token(api.store, "viewer", org_sid="acme")),
        "unknown": hash_token(make_token(TokenKind.USER)),
    }
    await api.org("other")
    hashes["other"] = hash_token(await a_token(api.store, "viewer", org_sid="other"))
    found = re.match(r".*/orgs/(\w+)/teams/(\w+)/repos/(\d+)/projects/(\d+)", project)
    assert found is not None
    org, team, repo, number = found[1], found[2], RepoId(int(found[3])), ProjectId(int(found[4]))

    entered = await enter_many(
        api.store,
        [
            Entry(hashes["acme"], org, team, repo, number),
            Entry(hashes["other"], org, team, repo, number),
            Entry(hashes["unknown"], org, team, repo, number),
            Entry(hashes["all"], org, "elsewhere", repo, number),
            Entry(hashes["all"], "other", team, repo, number),
            Entry(hashes["all"], org, team, RepoId(repo + 1), number),
            Entry(hashes["all"], org, team, repo, ProjectId(number + 1)),
            Entry(hashes["all"], org, team, repo, number),
        ],
    )

    assert [one and (one.token.name, one.project and one.project.id) for one in entered] == [
        ("somebody", number),
        ("somebody", None),
        None,
        ("root", None),
        ("root", None),
        ("root", None),
        ("root", None),
        ("root", number),
    ]


async def counts(api: Api) -> list[int]:
    tables = (
        "organizations",
        "teams",
        "repos",
        "schemes",
        "projects",
        "tokens",
        "jobs",
        "workers",
        "worker_tokens",
    )
    return [await api.store.db.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Token",
        "Token ",
        "Basic YTpi",
        "Token short",
        "Token " + "x" * 600,
        "Token knu_" + "A" * 48,
        "knu_x",
        "Token \xff" + "x" * 40,
        "Token a b",
    ],
)
async def test_a_header_that_holds_no_token_is_refused(api: Api, header: str) -> None:
    answer = await api.with_token(None).get(f"{ORGS}/", headers={"Authorization": header})

    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Token")


async def test_bearer_is_taken_as_token(api: Api) -> None:
    answer = await api.with_token(None).get(
        f"{ORGS}/", headers={"Authorization": f"Bearer {api.token}"}
    )

    assert answer.status == 200


async def test_two_authorisation_headers_are_refused(api: Api) -> None:
    headers = [("Authorization", f"Token {api.token}")] * 2
    response = await api.client.get(f"{ORGS}/", headers=headers)

    # aiohttp refuses the message, or we the request; neither reads one of the two
    assert response.status in (400, 401)


async def test_a_revoked_token_is_refused_from_the_next_request_on(api: Api) -> None:
    made = await api.made("/api/v1/tokens/", {"name": "ci", "role": "admin"})
    other = api.with_token(made["token"])
    assert (await other.get(f"{ORGS}/")).status == 200

    revoked = await api.request("DELETE", f"/api/v1/tokens/{made['id']}/")

    assert (revoked.status, revoked.data["revoked_time"] is not None) == (200, True)
    assert (await other.get(f"{ORGS}/")).status == 401
    again = await api.request("DELETE", f"/api/v1/tokens/{made['id']}")
    assert again.data == revoked.data


async def test_an_expired_token_is_refused(api: Api) -> None:
    made = await api.made("/api/v1/tokens/", {"name": "ci", "role": "viewer", "expires_in_s": 60})
    other = api.with_token(made["token"])
    assert (await other.get(f"{ORGS}/")).status == 200

    await api.store.db.execute("UPDATE tokens SET expires_at = now() WHERE id = $1", made["id"])

    assert (await other.get(f"{ORGS}/")).status == 401


async def test_the_text_of_a_token_is_answered_once_and_stored_nowhere(api: Api) -> None:
    made = await api.made("/api/v1/tokens/", {"name": "ci", "role": "member"})

    listed = await api.get("/api/v1/tokens/?limit=1000")
    rows = await api.store.db.fetch("SELECT t::text AS row FROM tokens t")

    assert is_well_formed(made["token"])
    assert made["token"] not in listed.text
    assert {**made, "token": None} in [{**one, "token": None} for one in listed.data["results"]]
    assert not any(made["token"] in row["row"] for row in rows)


async def test_a_token_of_one_organisation_governs_only_that_one(api: Api) -> None:
    await api.org("acme")
    await api.org("other")
    foreign = await api.made("/api/v1/tokens/", {"name": "x", "role": "viewer", "org_sid": "other"})
    own_admin = api.with_token(await a_token(api.store, "admin", org_sid="acme"))

    made = await own_admin.made("/api/v1/tokens/", {"name": "ci", "role": "admin"})
    elsewhere = await own_admin.post(
        "/api/v1/tokens/", {"name": "ci", "role": "viewer", "org_sid": "other"}
    )
    enrolment = await own_admin.post("/api/v1/tokens/", {"name": "rack", "kind": "enrolment"})
    listed = (await own_admin.get("/api/v1/tokens/")).data
    revoked = await own_admin.request("DELETE", f"/api/v1/tokens/{foreign['id']}/")

    assert made["org_sid"] == "acme"
    assert (elsewhere.status, elsewhere.fields) == (400, ["org_sid"])
    assert enrolment.status == 403
    assert {token["org_sid"] for token in listed["results"]} == {"acme"}
    assert revoked.status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "x"}, "role"),
        ({"name": "x", "role": "god"}, "role"),
        ({"name": "x", "role": "viewer", "single_use": True}, "single_use"),
        ({"name": "x", "role": "viewer", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "x", "role": "viewer", "expires_in_s": 10**12}, "expires_in_s"),
        ({"name": "x", "role": "viewer", "org_sid": "nowhere"}, "org_sid"),
        ({"name": "x\u0000", "role": "viewer"}, "name"),
        ({"name": "x", "kind": "worker"}, "kind"),
        ({"name": "x", "kind": "enrolment", "role": "admin"}, "role"),
        ({"name": "x", "kind": "enrolment", "org_sid": "acme"}, "org_sid"),
        ({"name": "x", "kind": "enrolment", "single_use": False}, "expires_in_s"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused_by_its_field(
    api: Api, body: Any, field: str
) -> None:
    refused = await api.post("/api/v1/tokens/", body)

    assert (refused.status, refused.fields) == (400, [field])
    assert (await api.get("/api/v1/tokens/")).data["count"] == 1


async def test_enrolment_tokens_are_single_use_unless_they_expire(api: Api) -> None:
    once = await api.made("/api/v1/tokens/", {"name": "rack", "kind": "enrolment"})
    often = await api.made(
        "/api/v1/tokens/", {"name": "rack", "kind": "enrolment", "expires_in_s": 60}
    )
    both = await api.made(
        "/api/v1/tokens/",
        {"name": "rack", "kind": "enrolment", "expires_in_s": 60, "single_use": True},
    )

    assert [token["single_use"] for token in (once, often, both)] == [True, False, True]
    assert {kind_of(token["token"]) for token in (once, often, both)} == {TokenKind.ENROLMENT}
    listed = (await api.get("/api/v1/tokens/?kind=enrolment")).data
    assert listed["count"] == 3
