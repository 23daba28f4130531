"""Pages: their size, their neighbours, and addresses that lead there, also from behind a proxy."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.operations import ORGS
from core.runtime.settings import Settings
from tests.api.caller import Api


async def some_teams(api: Api, count: int) -> str:
    org = await api.org()
    await api.store.db.execute(
        "INSERT INTO teams (org_id, name, display_name)"
        " SELECT o.id, 't' || n, 't' FROM organizations o, generate_series(1, $1::int) n",
        count,
    )
    return org


def relative(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


async def test_following_next_visits_everything_once_newest_first(api: Api) -> None:
    org = await some_teams(api, 25)
    names: list[str] = []
    address: str | None = f"{org}/teams/"

    while address is not None:
        page = (await api.get(address)).data
        assert page["count"] == 25
        names += [team["name"] for team in page["results"]]
        address = relative(page["next"]) if page["next"] else None

    assert names == [f"t{number}" for number in range(25, 0, -1)]


async def test_previous_leads_back_and_filters_are_kept(api: Api) -> None:
    org = await some_teams(api, 5)

    page = (await api.get(f"{org}/teams/?limit=2&offset=3&unknown=a%20b")).data
    back = (await api.get(relative(page["previous"]))).data

    assert page["next"] is None
    assert "unknown=a" in page["previous"]
    assert [team["name"] for team in back["results"]] == ["t4", "t3"]


async def test_a_page_past_the_end_is_empty_and_knows_the_count(api: Api) -> None:
    org = await some_teams(api, 3)

    page = (await api.get(f"{org}/teams/?offset=1000000")).data

    assert (page["count"], page["results"], page["next"]) == (3, [], None)


async def test_at_most_a_thousand_a_page(api: Api) -> None:
    org = await some_teams(api, 1005)

    page = (await api.get(f"{org}/teams/?limit=1000")).data

    assert len(page["results"]) == 1000
    assert page["next"] is not None


FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "kennel.example.org",
    "X-Forwarded-Prefix": "/tools/kennel",
}


async def test_addresses_are_absolute_and_believe_no_header_unasked(api: Api) -> None:
    org = await some_teams(api, 3)

    page = (await api.get(f"{org}/teams/?limit=1", headers=FORWARDED)).data

    assert page["next"] == f"http://127.0.0.1:{api.client.port}{org}/teams/?limit=1&offset=1"


class TestBehindAProxy:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings.model_validate({"data_dir": tmp_path, "api": {"trust_forwarded": True}})

    async def test_addresses_are_those_of_the_proxy(self, api: Api) -> None:
        org = await some_teams(api, 3)

        page = (await api.get(f"{org}/teams/?limit=1", headers=FORWARDED)).data

        assert (
            page["next"] == f"https://kennel.example.org/tools/kennel{org}/teams/?limit=1&offset=1"
        )

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("X-Forwarded-Proto", "javascript"),
            ("X-Forwarded-Host", "evil.example.org/path?x="),
            ("X-Forwarded-Host", "a b"),
            ("X-Forwarded-Prefix", "//evil.example.org"),
            ("X-Forwarded-Prefix", "no-slash"),
        ],
    )
    async def test_a_forwarded_value_that_makes_no_sense_is_left_out(
        self, api: Api, header: str, value: str
    ) -> None:
        org = await some_teams(api, 3)

        address = (await api.get(f"{org}/teams/?limit=1", headers={header: value})).data["next"]

        assert urlsplit(address).path == f"{org}/teams/"
        assert urlsplit(address).scheme == "http"
        assert "evil" not in address


async def test_pages_answer_under_the_second_prefix_with_its_own_addresses(api: Api) -> None:
    await some_teams(api, 3)
    path = f"{ORGS.replace('/api/', '/api/v3/')}/acme/teams"

    page = (await api.get(f"{path}?limit=1")).data

    assert urlsplit(page["next"]).path == path
