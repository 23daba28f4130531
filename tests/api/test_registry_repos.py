"""Repositories over HTTP: addresses, credentials, counts, filters."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from api.keys import SEALER
from core.runtime.settings import Settings
from tests.api.caller import Api

URL = "https://git.example.org/acme/web.git"


@pytest.fixture
async def team(api: Api) -> str:
    return await api.team(await api.org())


async def test_a_repository_is_registered_shown_listed_and_renamed(api: Api, team: str) -> None:
    created = await api.post(f"{team}/repos/", {"scm_url": URL, "scm_type": "git"})

    assert created.status == 201
    assert created.data == {
        **created.data,
        "name": "web",
        "scm_url": URL,
        "scm_type": "git",
        "branch_count": 0,
        "scheme_count": 0,
        "job_count": 0,
        "recent_active": None,
        "created_from": "api",
        "creator": "root",
    }
    repo = f"{team}/repos/{created.data['id']}"
    assert (await api.get(f"{repo}/")).data == created.data
    assert (await api.get(f"{team}/repos/")).data["results"] == [created.data]
    renamed = await api.put(f"{repo}/", {"name": "Web shop"})
    assert renamed.data == {**created.data, "name": "Web shop"}


async def test_a_repository_counts_its_branches_and_schemes(api: Api, team: str) -> None:
    repo = await api.repo(team)
    lint = await api.scheme(repo, "lint")
    await api.project(repo, "main")
    await api.project(repo, "main", scan_scheme_id=lint)
    await api.project(repo, "next")

    shown = (await api.get(f"{repo}/")).data

    # the default scheme was made by the first project that named none
    assert (shown["branch_count"], shown["scheme_count"]) == (2, 2)


async def test_the_same_address_twice_in_a_team_is_refused_with_the_existing_id(
    api: Api, team: str
) -> None:
    first = await api.made(f"{team}/repos/", {"scm_url": URL, "scm_type": "git"})

    again = await api.post(f"{team}/repos/", {"scm_url": URL, "scm_type": "git"})

    assert (again.status, again.fields, again.body["existing_id"]) == (
        400,
        ["scm_url"],
        first["id"],
    )
    assert str(first["id"]) in again.body["msg"]


@pytest.mark.parametrize(
    "scm_url",
    [
        "git@github.com:acme/web.git",
        "ssh://git@git.example.org:2222/acme/web.git",
        "http://git.example.org/acme/web",
    ],
)
async def test_other_transports_are_taken(api: Api, team: str, scm_url: str) -> None:
    assert (await api.post(f"{team}/repos/", {"scm_url": scm_url, "scm_type": "git"})).status == 201


@pytest.mark.parametrize(
    "scm_url",
    [
        "ext::sh -c 'touch /tmp/x'",
        "--upload-pack=touch /tmp/x",
        "https://user:secret@git.example.org/acme/web.git",
        "https://git.example.org/acme/web.git\n--x",
        "file:///srv/repo",
        "/srv/repo",
        "svn://example.org/x",
        "",
        "a\u0000b",
        "x" * 1_000_000,
    ],
)
async def test_a_hostile_or_local_address_is_refused_with_the_field(
    api: Api, team: str, scm_url: str
) -> None:
    refused = await api.post(f"{team}/repos/", {"scm_url": scm_url, "scm_type": "git"})

    assert (refused.status, refused.fields) == (400, ["scm_url"])
    assert "secret" not in refused.text
    assert (await api.get(f"{team}/repos/")).data["count"] == 0


async def test_svn_is_refused_and_the_message_says_what_is_served(api: Api, team: str) -> None:
    refused = await api.post(f"{team}/repos/", {"scm_url": URL, "scm_type": "svn"})

    assert (refused.status, refused.fields) == (400, ["scm_type"])
    assert "git" in refused.body["msg"]


async def test_credentials_are_sealed_and_never_answered(api: Api, team: str) -> None:
    auth = {"scm_username": "robot", "scm_password": "hunter2-hunter2"}
    repo = await api.repo(team, scm_auth=auth)

    answers = [await api.get(f"{repo}/"), await api.get(f"{team}/repos/")]
    sealed = await api.store.db.fetchval("SELECT scm_auth FROM repos")

    assert not any("hunter2" in answer.text or "robot" in answer.text for answer in answers)
    assert b"hunter2" not in sealed
    app = api.client.server.app  # type: ignore[attr-defined]  # ours is a TestServer
    assert orjson.loads(app[SEALER].unseal(sealed)) == {
        "username": "robot",
        "password": "hunter2-hunter2",
        "private_key": None,
    }


async def test_credentials_are_replaced_kept_and_taken_away(api: Api, team: str) -> None:
    repo = await api.repo(team, scm_auth={"scm_password": "first-password"})
    stored = "SELECT scm_auth FROM repos"
    first = await api.store.db.fetchval(stored)

    await api.put(f"{repo}/", {"name": "renamed"})
    kept = await api.store.db.fetchval(stored)
    await api.put(f"{repo}/", {"scm_auth": {"scm_password": "second-password"}})
    second = await api.store.db.fetchval(stored)
    await api.put(f"{repo}/", {"scm_auth": None})
    taken = await api.store.db.fetchval(stored)

    assert kept == first
    assert second not in (None, first)
    assert taken is None


async def test_credentials_never_follow_to_another_address(api: Api, team: str) -> None:
    repo = await api.repo(team, scm_auth={"scm_password": "first-password"})
    elsewhere = "https://evil.example.org/web.git"

    refused = await api.put(f"{repo}/", {"scm_url": elsewhere})
    taken = await api.put(f"{repo}/", {"scm_url": elsewhere, "scm_auth": None})

    assert (refused.status, refused.fields) == (400, ["scm_auth"])
    assert (taken.status, taken.data["scm_url"]) == (200, elsewhere)


async def test_a_change_to_an_address_the_team_has_is_refused(api: Api, team: str) -> None:
    await api.repo(team, URL)
    other = await api.repo(team, "https://git.example.org/acme/other.git")

    refused = await api.put(f"{other}/", {"scm_url": URL})

    assert (refused.status, refused.fields) == (400, ["scm_url"])
    assert isinstance(refused.body["existing_id"], int)


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"scm_username": "robot"},
        {"private_key": "no key"},
        {"scm_password": "a\nb"},
        "text",
        7,
        [],
    ],
)
async def test_credentials_that_open_nothing_are_refused(api: Api, team: str, auth: object) -> None:
    refused = await api.post(
        f"{team}/repos/", {"scm_url": URL, "scm_type": "git", "scm_auth": auth}
    )

    assert refused.status == 400
    assert refused.fields[0].startswith("scm_auth")


async def test_repositories_are_found_by_address_and_by_part_of_the_name(
    api: Api, team: str
) -> None:
    await api.repo(team, "https://git.example.org/acme/web.git")
    await api.repo(team, "https://git.example.org/acme/50%_off.git", name="Sale")

    async def names(query: str) -> list[str]:
        return sorted(
            repo["name"] for repo in (await api.get(f"{team}/repos/?{query}")).data["results"]
        )

    assert await names("scm_url=https://git.example.org/acme/web.git") == ["web"]
    assert await names("scm_url=https://git.example.org") == []
    assert await names("scm_url_or_name=ACME") == ["Sale", "web"]
    assert await names("scm_url_or_name=sal") == ["Sale"]
    assert await names("scm_url_or_name=%25_") == ["Sale"]
    assert await names("scm_url_or_name=") == ["Sale", "web"]


class TestWhereLocalRepositoriesAreAllowed:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data_dir=tmp_path / "data", allow_local_repos=True)

    async def test_a_path_and_a_file_url_are_taken(self, api: Api, team: str) -> None:
        for scm_url in ("/srv/repo", "file:///srv/other"):
            taken = await api.post(f"{team}/repos/", {"scm_url": scm_url, "scm_type": "git"})
            assert taken.status == 201, taken.text
