"""Scan schemes over HTTP: every field, the default one, engines that exist."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.caller import Api

EVERYTHING = {
    "name": "strict",
    "description": "Everything\non.",
    "languages": ["python", "c++"],
    "tag": "linux/amd64",
    "default_flag": True,
    "job_runtime_limit": 30,
    "status": 1,
    "engines": [
        {
            "name": "pylint",
            "version": ">=4,<5",
            "config": {"max-line-length": 100},
            "rules": {"include": ["C0114"], "exclude": []},
            "time_limit": 600,
        }
    ],
    "path_filters": {"inclusion": ["src/**"], "exclusion": ["**/tests/*"]},
    "active_job_policy": "join",
    "fail_on": "all_tasks",
    "partial_fails": True,
    "cancel_siblings": True,
    "allow_repo_config": True,
    "priority": -5,
}
BARE: dict[str, Any] = {
    "version": "",
    "config": {},
    "rules": {"include": [], "exclude": []},
    "time_limit": None,
}


@pytest.fixture
async def repo(api: Api) -> str:
    return await api.repo(await api.team(await api.org()))


async def test_a_scheme_answers_every_field_it_was_given(api: Api, repo: str) -> None:
    created = await api.post(f"{repo}/schemes/", EVERYTHING)

    assert created.status == 201, created.text
    given = {name: created.data[name] for name in EVERYTHING}
    assert {**given, "engines": None} == {**EVERYTHING, "engines": None}
    assert given["engines"][0]["config"] == {"max-line-length": 100}
    # a range of versions is a set: it has no order
    assert set(given["engines"][0]["version"].split(",")) == {">=4", "<5"}
    conf = f"{repo}/schemes/{created.data['id']}/basicconf/"
    assert (await api.get(conf)).data == created.data
    assert (await api.get(f"{repo}/schemes/")).data["results"] == [created.data]


async def test_a_scheme_has_the_documented_defaults(api: Api, repo: str) -> None:
    scheme = await api.made(f"{repo}/schemes/", {"name": "plain"})

    assert scheme == {
        **scheme,
        "description": "",
        "languages": [],
        "tag": None,
        "default_flag": False,
        "job_runtime_limit": 600,
        "status": 1,
        "engines": None,
        "path_filters": {"inclusion": [], "exclusion": []},
        "active_job_policy": None,
        "fail_on": "any_task",
        "partial_fails": False,
        "cancel_siblings": False,
        "allow_repo_config": False,
        "priority": 0,
    }


async def test_engines_may_be_plain_names(api: Api, repo: str) -> None:
    scheme = await api.made(f"{repo}/schemes/", {"name": "plain", "engines": ["pylint", "lines"]})

    assert scheme["engines"] == [{"name": "pylint", **BARE}, {"name": "lines", **BARE}]


async def test_a_put_changes_what_it_names_and_nothing_else(api: Api, repo: str) -> None:
    scheme = await api.made(f"{repo}/schemes/", EVERYTHING)
    conf = f"{repo}/schemes/{scheme['id']}/basicconf/"

    changed = await api.put(conf, {"status": 2, "tag": None})

    assert changed.status == 200
    assert {**changed.data, "modified_time": ""} == {
        **scheme,
        "status": 2,
        "tag": None,
        "modified_time": "",
    }
    assert changed.data["modified_time"] > scheme["modified_time"]
    renamed = await api.put(conf, {"name": "renamed", "engines": None, "path_filters": {}})
    assert renamed.data["engines"] is None
    assert renamed.data["path_filters"] == {"inclusion": [], "exclusion": []}


async def test_an_empty_put_changes_nothing(api: Api, repo: str) -> None:
    scheme = await api.made(f"{repo}/schemes/", EVERYTHING)

    same = await api.put(f"{repo}/schemes/{scheme['id']}/basicconf/", {})

    assert {**same.data, "modified_time": ""} == {**scheme, "modified_time": ""}


async def test_the_same_name_twice_is_refused_with_the_existing_id(api: Api, repo: str) -> None:
    first = await api.scheme(repo, "lint", default_flag=True)
    other = await api.scheme(repo, "other")

    again = await api.post(f"{repo}/schemes/", {"name": "lint", "default_flag": True})
    renamed = await api.put(f"{repo}/schemes/{other}/basicconf/", {"name": "lint"})

    for refused in (again, renamed):
        assert (refused.status, refused.fields, refused.body["existing_id"]) == (
            400,
            ["name"],
            first,
        )


async def test_a_new_default_takes_the_place_of_the_former(api: Api, repo: str) -> None:
    first = await api.scheme(repo, "first", default_flag=True)
    second = await api.scheme(repo, "second", default_flag=True)

    async def default() -> list[int]:
        listed = (await api.get(f"{repo}/schemes/")).data["results"]
        return [scheme["id"] for scheme in listed if scheme["default_flag"]]

    assert await default() == [second]
    await api.put(f"{repo}/schemes/{first}/basicconf/", {"default_flag": True})
    assert await default() == [first]


async def test_an_engine_nobody_knows_is_refused_until_a_worker_has_offered_it(
    api: Api, repo: str
) -> None:
    body = {"name": "rust", "engines": ["clippy"]}
    refused = await api.post(f"{repo}/schemes/", body)
    assert (refused.status, refused.fields) == (400, ["engines"])
    assert "clippy" in refused.body["msg"]

    await api.store.db.execute(
        "INSERT INTO workers (name, instance_hash, engines, slots, isolation) VALUES ('w', '\\x00', $1, 1, 'group')",
        [{"name": "clippy", "version": "1.0", "module": "codelint", "languages": ["rust"]}],
    )

    assert (await api.post(f"{repo}/schemes/", body)).status == 201


def deep(levels: int) -> Any:
    return {"x": deep(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", None),
        ("name", "two\nlines"),
        ("name", "x" * 129),
        ("languages", "python"),
        ("languages", [1]),
        ("languages", ["\u0000"]),
        ("tag", "with space"),
        ("job_runtime_limit", 0),
        ("job_runtime_limit", 10**30),
        ("job_runtime_limit", True),
        ("job_runtime_limit", "600"),
        ("job_runtime_limit", 1.5),
        ("status", 3),
        ("status", False),
        ("default_flag", "maybe"),
        ("default_flag", 2),
        ("engines", []),
        ("engines", ["pylint", "pylint"]),
        ("engines", [{"name": "pylint", "version": "four"}]),
        ("engines", [{"name": "pylint", "time_limit": -1}]),
        ("engines", [{"name": "pylint", "config": {"x": "y" * 70_000}}]),
        ("engines", [{"name": "pylint", "config": {"x": "\u0000"}}]),
        ("engines", [{"name": "pylint", "config": []}]),
        ("engines", [{"name": "pylint", "rules": {"include": [{}]}}]),
        ("engines", [{"name": "pylint"}] * 101),
        ("engines", [7]),
        ("path_filters", {"inclusion": ["../x"]}),
        ("path_filters", {"exclusion": ["/etc/*"]}),
        ("path_filters", ["src"]),
        ("active_job_policy", "wait"),
        ("fail_on", "sometimes"),
        ("priority", 101),
        ("priority", 10**18),
        ("description", "x" * 4001),
    ],
)
async def test_a_field_that_makes_no_sense_is_refused_by_its_name(
    api: Api, repo: str, field: str, value: object
) -> None:
    body = json.dumps({"name": "s", field: value})

    refused = await api.post(
        f"{repo}/schemes/", data=body, headers={"Content-Type": "application/json"}
    )

    assert (refused.status, refused.fields[0].split(".")[0]) == (400, field), refused.text
    assert (await api.get(f"{repo}/schemes/")).data["count"] == 0


async def test_a_configuration_deeper_than_the_limit_is_refused(api: Api, repo: str) -> None:
    engines = [{"name": "pylint", "config": deep(40)}]

    assert (await api.post(f"{repo}/schemes/", {"name": "s", "engines": engines})).status == 400


async def test_whole_floats_are_integers(api: Api, repo: str) -> None:
    answer = await api.post(
        f"{repo}/schemes/",
        data=b'{"name": "s", "priority": 45.0}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.data["priority"] == 45


async def test_a_form_makes_the_same_scheme_as_json(api: Api, repo: str) -> None:
    form = [
        ("name", "form"),
        ("languages", "python"),
        ("languages", "rust"),
        ("engines", "pylint"),
        ("default_flag", "yes"),
        ("job_runtime_limit", "45"),
        ("path_filters", '{"inclusion": ["src/**"]}'),
    ]
    by_form = await api.post(f"{repo}/schemes/", data=form)
    by_json = await api.made(
        f"{repo}/schemes/",
        {
            "name": "json",
            "languages": ["python", "rust"],
            "engines": ["pylint"],
            "default_flag": True,
            "job_runtime_limit": 45,
            "path_filters": {"inclusion": ["src/**"]},
        },
    )

    ours = (
        "languages",
        "engines",
        "job_runtime_limit",
        "path_filters",
        "partial_fails",
        "default_flag",
    )
    assert by_form.status == 201, by_form.text
    assert {name: by_form.data[name] for name in ours} == {name: by_json[name] for name in ours}


async def test_schemes_are_filtered_by_name_and_status(api: Api, repo: str) -> None:
    await api.scheme(repo, "Lint")
    await api.scheme(repo, "metrics", status=2)

    async def names(query: str) -> list[str]:
        return [
            scheme["name"] for scheme in (await api.get(f"{repo}/schemes/?{query}")).data["results"]
        ]

    assert await names("name=lin") == ["Lint"]
    assert await names("status=2") == ["metrics"]
    assert await names("name=%25") == []
    assert await names("status=") == ["metrics", "Lint"]


async def test_a_scheme_of_another_repository_is_not_found(api: Api, repo: str) -> None:
    scheme = await api.scheme(repo)
    other = await api.repo(repo.rpartition("/repos/")[0], "https://git.example.org/other.git")

    assert (await api.get(f"{other}/schemes/{scheme}/basicconf/")).status == 404
    assert (await api.put(f"{other}/schemes/{scheme}/basicconf/", {"status": 2})).status == 404
