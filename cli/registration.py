"""Make what a scan needs in the registry and is not there yet: organisation to project.

Every step looks first and creates second; where somebody else was faster, theirs is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cli.client import CallRefused, Client, Query, path

ORGS = ("server", "main", "api", "orgs")
ORGS_V3 = ("server", "main", "api", "v3", "orgs")
#: Where scans of the command line are registered unless it says otherwise.
ORG, TEAM = "local", "default"
CREATED_FROM = "cli"


@dataclass(frozen=True, slots=True)
class ProjectRef:
    """A project's place in the registry."""

    org: str
    team: str
    repo_id: int
    project_id: int

    def __str__(self) -> str:
        return f"{self.org}/{self.team}/{self.repo_id}/{self.project_id}"

    def path(self, *parts: str | int, is_v3: bool = False) -> str:
        """Return the path of something below the project."""
        return path(
            *(ORGS_V3 if is_v3 else ORGS),
            *(self.org, "teams", self.team, "repos", self.repo_id, "projects", self.project_id),
            *parts,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be scanned, and how."""

    org: str
    team: str
    scm_url: str
    branch: str
    scan_path: str = ""
    #: Empty: every engine that fits.
    engines: Sequence[str] = ()


async def ensure_project(client: Client, wanted: Wanted) -> ProjectRef:
    """Return the project of *wanted*; what is missing of it is made."""
    await ensure_org(client, wanted.org)
    await ensure_team(client, wanted.org, wanted.team)
    team = path(*ORGS, wanted.org, "teams", wanted.team)
    repo_id = await _ensure_repo(client, f"{team}repos/", wanted.scm_url)
    repo = f"{team}repos/{repo_id}/"
    scheme_id = await _ensure_scheme(client, f"{repo}schemes/", sorted(set(wanted.engines)))
    project_id = await _ensure_project(client, f"{repo}projects/", wanted, scheme_id)
    return ProjectRef(wanted.org, wanted.team, repo_id, project_id)


async def ensure_org(client: Client, org: str, *, name: str | None = None) -> None:
    """Make an organisation unless it is there."""
    body = {"org_sid": org} | ({} if name is None else {"name": name})
    await _ensure_named(client, path(*ORGS, org), path(*ORGS), body)


async def ensure_team(client: Client, org: str, team: str) -> None:
    """Make a team unless it is there."""
    shelf = path(*ORGS, org, "teams")
    await _ensure_named(client, path(*ORGS, org, "teams", team), shelf, {"name": team})


async def _ensure_named(client: Client, thing: str, shelf: str, body: dict[str, Any]) -> None:
    try:
        await client.get(thing)
    except CallRefused as refused:
        if refused.status != 404:
            raise
        await _create(client, shelf, body)


async def _ensure_repo(client: Client, shelf: str, scm_url: str) -> int:
    found = await _first(client, shelf, {"scm_url": scm_url}, lambda one: one["scm_url"] == scm_url)
    body = {"scm_url": scm_url, "scm_type": "git", "created_from": CREATED_FROM}
    return found if found is not None else int(await _create(client, shelf, body))


async def _ensure_scheme(client: Client, shelf: str, engines: Sequence[str]) -> int | None:
    """Return the scheme that runs exactly *engines*; None: the repository's default."""
    if not engines:
        return None
    name = f"engines: {', '.join(engines)}"
    found = await _first(
        client,
        shelf,
        {"name": name, "status": 1},
        lambda one: (
            one["name"] == name
            and sorted(engine["name"] for engine in one["engines"] or ()) == list(engines)
        ),
    )
    if found is not None:
        return found
    return int(await _create(client, shelf, {"name": name, "engines": list(engines)}))


async def _ensure_project(client: Client, shelf: str, wanted: Wanted, scheme_id: int | None) -> int:
    def suits(one: Any) -> bool:
        is_same: bool = (one["branch"], one["scan_path"]) == (wanted.branch, wanted.scan_path)
        scheme = one["scan_scheme"]
        return is_same and (
            scheme["default_flag"] if scheme_id is None else scheme["id"] == scheme_id
        )

    query: Query = {"branch": wanted.branch, "scan_scheme": scheme_id, "status": 1}
    found = await _first(client, shelf, query, suits)
    if found is not None:
        return found
    body: dict[str, Any] = {
        "branch": wanted.branch,
        "scan_path": wanted.scan_path,
        "created_from": CREATED_FROM,
    }
    if scheme_id is not None:
        body["scan_scheme_id"] = scheme_id
    return int(await _create(client, shelf, body))


async def _first(client: Client, shelf: str, query: Query, suits: Any) -> int | None:
    """Return the id of the oldest entry of a list that *suits*."""
    ids = [int(one["id"]) for one in await client.listed(shelf, query) if suits(one)]
    return min(ids, default=None)


async def _create(client: Client, shelf: str, body: dict[str, Any]) -> int | str:
    """Create; return the id of the new one, or of the one that is there already."""
    try:
        made = await client.post(shelf, body)
    except CallRefused as refused:
        if refused.existing_id is None:
            raise
        return refused.existing_id
    identity: int | str = made.get("id", made.get("org_sid", made.get("name")))
    return identity
