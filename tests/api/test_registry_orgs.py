"""Organisations and teams over HTTP."""

from __future__ import annotations

from api.operations import ORGS
from tests.api.caller import Api, a_token


async def test_an_organisation_is_created_shown_listed_and_renamed(api: Api) -> None:
    created = await api.post(f"{ORGS}/", {"org_sid": "acme", "name": "Acme"})

    assert created.status == 201
    assert created.body["code"] == 0
    assert created.body["status_code"] == 201
    assert created.data["name"] == "Acme"
    assert created.data["created_time"].endswith("+08:00")
    assert (await api.get(f"{ORGS}/acme/")).data == created.data
    renamed = await api.put(f"{ORGS}/acme/", {"name": "Acme Corp"})
    assert renamed.data == {**created.data, "name": "Acme Corp"}
    listed = (await api.get(f"{ORGS}/")).data
    assert (listed["count"], listed["results"]) == (1, [renamed.data])


async def test_the_name_of_an_organisation_defaults_to_its_sid(api: Api) -> None:
    assert (await api.post(f"{ORGS}/", {"org_sid": "acme"})).data["name"] == "acme"


async def test_the_same_organisation_twice_is_refused_with_the_existing_one(api: Api) -> None:
    await api.org("acme")

    again = await api.post(f"{ORGS}/", {"org_sid": "acme"})

    assert again.status == 400
    assert again.body["existing_id"] == "acme"
    assert again.fields == ["org_sid"]


async def test_only_an_admin_of_all_organisations_creates_one(api: Api) -> None:
    await api.org("acme")
    own_admin = api.with_token(await a_token(api.store, "admin", org_sid="acme"))

    refused = await own_admin.post(f"{ORGS}/", {"org_sid": "other"})

    assert refused.status == 403
    assert (await api.get(f"{ORGS}/")).data["count"] == 1


async def test_a_token_of_one_organisation_lists_that_one_only(api: Api) -> None:
    await api.org("acme")
    await api.org("other")
    viewer = api.with_token(await a_token(api.store, "viewer", org_sid="other"))

    listed = (await viewer.get(f"{ORGS}/")).data

    assert [org["org_sid"] for org in listed["results"]] == ["other"]


async def test_a_team_is_created_shown_and_listed(api: Api) -> None:
    org = await api.org("acme")

    created = await api.post(f"{org}/teams/", {"name": "core", "display_name": "核心"})

    assert created.status == 201
    assert created.data["display_name"] == "核心"
    assert created.data["org_sid"] == "acme"
    assert (await api.get(f"{org}/teams/core/")).data == created.data
    assert (await api.get(f"{org}/teams/")).data["results"] == [created.data]


async def test_the_same_team_twice_is_refused_in_one_organisation_but_not_in_two(api: Api) -> None:
    acme, other = await api.org("acme"), await api.org("other")
    await api.team(acme, "core")

    again = await api.post(f"{acme}/teams/", {"name": "core"})
    elsewhere = await api.post(f"{other}/teams/", {"name": "core"})

    assert (again.status, again.fields) == (400, ["name"])
    assert isinstance(again.body["existing_id"], int)
    assert elsewhere.status == 201


async def test_a_team_of_a_missing_organisation_is_not_found(api: Api) -> None:
    assert (await api.post(f"{ORGS}/nowhere/teams/", {"name": "core"})).status == 404
    assert (await api.get(f"{ORGS}/nowhere/teams/")).status == 404
