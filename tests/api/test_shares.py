"""Weights and limits over HTTP."""

from __future__ import annotations

import pytest

from api.operations import ORGS
from tests.api.caller import Api, a_token


async def test_an_organisation_has_a_weight_and_a_limit(api: Api) -> None:
    made = await api.post(f"{ORGS}/", {"org_sid": "acme", "weight": 3, "max_running": 40})
    plain = await api.post(f"{ORGS}/", {"org_sid": "other"})

    assert (made.data["weight"], made.data["max_running"]) == (3, 40)
    assert (plain.data["weight"], plain.data["max_running"]) == (1, None)
    renamed = await api.put(f"{ORGS}/acme/", {"name": "Acme"})
    assert renamed.data == {**made.data, "name": "Acme"}
    free = await api.put(f"{ORGS}/acme/", {"max_running": None, "weight": 5})
    assert (free.data["weight"], free.data["max_running"]) == (5, None)
    assert (await api.get(f"{ORGS}/acme/")).data == free.data


async def test_a_project_has_a_weight_and_a_limit(api: Api) -> None:
    project = await api.a_project()

    changed = await api.put(f"{project}/", {"weight": 2, "max_running": 0})

    assert (changed.data["weight"], changed.data["max_running"]) == (2, 0)
    closed = await api.put(f"{project}/", {"status": 3})
    assert closed.data == {**changed.data, "status": 3}
    freed = await api.put(f"{project}/", {"max_running": None})
    assert freed.data == {**closed.data, "max_running": None}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": 101}, "weight"),
        ({"weight": None}, "weight"),
        ({"weight": "heavy"}, "weight"),
        ({"max_running": -1}, "max_running"),
        ({"max_running": 1.5}, "max_running"),
        ({"max_running": 10**9}, "max_running"),
    ],
)
async def test_what_is_no_weight_or_limit_is_refused_and_changes_nothing(
    api: Api, change: dict[str, object], field: str
) -> None:
    project = await api.a_project()
    before = (await api.get(f"{project}/")).data

    for path in (f"{project}/", f"{ORGS}/acme/"):
        refused = await api.put(path, change)
        assert (refused.status, refused.fields) == (400, [field])

    assert (await api.get(f"{project}/")).data == before


async def test_an_admin_of_one_organisation_sets_shares_inside_it_only(api: Api) -> None:
    project = await api.a_project("acme")
    own_admin = api.with_token(await a_token(api.store, "admin", org_sid="acme"))

    assert (await own_admin.put(f"{project}/", {"weight": 9})).status == 200
    assert (await own_admin.put(f"{ORGS}/acme/", {"weight": 9})).status == 403
    assert (await own_admin.put(f"{ORGS}/acme/", {"max_running": None})).status == 403
    assert (await own_admin.put(f"{ORGS}/acme/", {"name": "Ours"})).status == 200
    assert (await own_admin.put("/api/v1/engines/ruff/limit/", {"max_running": 1})).status == 403


async def test_an_engine_is_limited_listed_and_freed(api: Api) -> None:
    limited = await api.put("/api/v1/engines/pylint/limit/", {"max_running": 8})

    assert limited.data == {"engine": "pylint", "max_running": 8}
    await api.put("/api/v1/engines/pylint/limit/", {"max_running": 4})
    listed = (await api.get("/api/v1/engines/limits/")).data
    assert (listed["count"], listed["results"]) == (1, [{"engine": "pylint", "max_running": 4}])
    await api.put("/api/v1/engines/pylint/limit/", {"max_running": None})
    assert (await api.get("/api/v1/engines/limits/")).data["count"] == 0


async def test_an_engine_limit_needs_a_number_and_a_name(api: Api) -> None:
    assert (await api.put("/api/v1/engines/pylint/limit/", {})).fields == ["max_running"]
    assert (await api.put("/api/v1/engines/..%20x/limit/", {"max_running": 1})).status == 404
