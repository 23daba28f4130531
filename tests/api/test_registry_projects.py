"""Projects over HTTP: branches, sub-folders, schemes, uniqueness."""

from __future__ import annotations

import asyncio
import json

import pytest
from yarl import URL

from tests.api.caller import Api


@pytest.fixture
async def repo(api: Api) -> str:
    return await api.repo(await api.team(await api.org()))


async def test_a_project_is_registered_with_the_default_scheme_made_on_first_use(
    api: Api, repo: str
) -> None:
    created = await api.post(f"{repo}/projects/", {"branch": "main"})

    assert created.status == 201, created.text
    assert created.data["branch"] == "main"
    assert (created.data["status"], created.data["scan_path"]) == (1, "")
    assert created.data["scan_scheme"]["default_flag"] is True
    assert created.data["repo"]["scm_url"] == "https://git.example.org/acme/web.git"
    assert created.data["creator"] == "root"
    second = await api.post(f"{repo}/projects/", {"branch": "next"})
    assert second.data["scan_scheme"] == created.data["scan_scheme"]
    assert (await api.get(f"{repo}/projects/{created.data['id']}/")).data == created.data


async def test_projects_made_at_the_same_moment_share_one_default_scheme(
    api: Api, repo: str
) -> None:
    answers = await asyncio.gather(
        *(api.post(f"{repo}/projects/", {"branch": f"branch-{number}"}) for number in range(10))
    )

    assert {answer.status for answer in answers} == {201}
    assert len({answer.data["scan_scheme"]["id"] for answer in answers}) == 1
    assert (await api.get(f"{repo}/schemes/")).data["count"] == 1


async def test_the_default_scheme_finds_a_name_where_its_own_is_taken(api: Api, repo: str) -> None:
    taken = await api.scheme(repo, "default")

    created = await api.post(f"{repo}/projects/", {"branch": "main"})

    assert created.data["scan_scheme"]["id"] != taken
    assert created.data["scan_scheme"]["name"] == "default-2"


async def test_the_same_branch_scheme_and_path_twice_is_refused_with_the_existing_id(
    api: Api, repo: str
) -> None:
    first = await api.made(f"{repo}/projects/", {"branch": "main", "scan_path": "src"})

    again = await api.post(f"{repo}/projects/", {"branch": "main", "scan_path": "/src/"})
    elsewhere = await api.post(f"{repo}/projects/", {"branch": "main", "scan_path": "lib"})

    assert (again.status, again.fields, again.body["existing_id"]) == (400, ["branch"], first["id"])
    assert elsewhere.status == 201


async def test_a_scheme_of_another_repository_or_a_disused_one_is_refused(
    api: Api, repo: str
) -> None:
    other = await api.repo(repo.rpartition("/repos/")[0], "https://git.example.org/other.git")
    foreign, disused = await api.scheme(other), await api.scheme(repo, "old", status=2)

    for scheme in (foreign, disused, 10**18):
        refused = await api.post(f"{repo}/projects/", {"branch": "main", "scan_scheme_id": scheme})
        assert (refused.status, refused.fields) == (400, ["scan_scheme_id"])
    assert (await api.get(f"{repo}/projects/")).data["count"] == 0


@pytest.mark.parametrize(
    "branch",
    ["", "-x", "a..b", "a b", "x.lock", "HEAD", "a\u0000", "a~1", "x" * 300, None, 7, ["main"]],
)
async def test_a_branch_git_would_not_take_is_refused(api: Api, repo: str, branch: object) -> None:
    refused = await api.post(f"{repo}/projects/", {"branch": branch})

    assert (refused.status, refused.fields[0].split(".")[0]) == (400, "branch")


@pytest.mark.parametrize(
    "scan_path", ["../x", "a/../../b", ".git", "a//b", "a\\b", "a\nb", "\u0000", "x" * 1025, 3]
)
async def test_a_path_that_leads_out_of_the_repository_is_refused(
    api: Api, repo: str, scan_path: object
) -> None:
    refused = await api.post(f"{repo}/projects/", {"branch": "main", "scan_path": scan_path})

    assert (refused.status, refused.fields) == (400, ["scan_path"])


@pytest.mark.parametrize("scheme_id", [0, -1, 2**63, 10**30, "1", True, 1.5, {}])
async def test_a_scheme_id_that_is_none_is_refused(api: Api, repo: str, scheme_id: object) -> None:

    body = json.dumps({"branch": "main", "scan_scheme_id": scheme_id})

    refused = await api.post(
        f"{repo}/projects/", data=body, headers={"Content-Type": "application/json"}
    )

    assert (refused.status, refused.fields) == (400, ["scan_scheme_id"])


async def test_a_project_is_closed_and_opened_by_its_status(api: Api, repo: str) -> None:
    project = await api.project(repo)

    assert (await api.put(f"{project}/", {"status": 3})).data["status"] == 3
    assert (await api.put(f"{project}/", {})).data["status"] == 3
    assert (await api.put(f"{project}/", {"status": 1})).data["status"] == 1
    assert (await api.put(f"{project}/", {"status": 4})).fields == ["status"]


async def test_projects_are_filtered_by_branch_scheme_and_status(api: Api, repo: str) -> None:
    scheme = await api.scheme(repo)
    await api.project(repo, "main")
    await api.project(repo, "main", scan_scheme_id=scheme)
    closed = await api.project(repo, "old")
    await api.put(f"{closed}/", {"status": 3})

    async def count(query: str) -> int:
        return int((await api.get(f"{repo}/projects/?{query}")).data["count"])

    assert await count("branch=main") == 2
    assert await count(f"branch=main&scan_scheme={scheme}") == 1
    assert await count("status=3") == 1
    assert await count("branch=mai") == 0
    assert await count("") == 3


async def test_a_project_is_not_found_under_parents_that_are_not_its_own(
    api: Api, repo: str
) -> None:
    project = await api.project(repo)
    project_id = project.rpartition("/")[2]
    team = repo.rpartition("/repos/")[0]
    other = await api.repo(team, "https://git.example.org/other.git")

    assert (await api.get(f"{other}/projects/{project_id}/")).status == 404
    assert (await api.get(project.replace("/core/", "/nobody/") + "/")).status == 404
    assert (await api.get(project.replace("/acme/", "/nobody/") + "/")).status == 404


@pytest.mark.parametrize(
    "junk", ["0", "-1", "abc", "1.0", "9223372036854775808", "9" * 400, "%00", "٣", "1%20", "%ff"]
)
async def test_an_id_that_cannot_be_one_is_not_found(api: Api, repo: str, junk: str) -> None:
    for path in (f"{repo}/projects/{junk}/", f"{repo.rpartition('/')[0]}/{junk}/"):
        assert (await api.get(str(URL(path, encoded=True)))).status == 404
