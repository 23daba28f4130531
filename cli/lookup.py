"""Find projects and jobs by what a person types, in a registry that is a tree.

Without a project a job is looked for in every project the token sees; beyond `MOST_PROJECTS` the
person is asked to name one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cli.client import CallRefused, Client, path
from cli.exits import CommandError, Exit
from cli.registration import ORGS, ProjectRef
from cli.scan.following import JobRef
from cli.text import printable

MOST_PROJECTS = 500
_AT_ONCE = 8

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FoundProject:
    """A project and what the registry says of it."""

    ref: ProjectRef
    entry: dict[str, Any]


async def all_projects(
    client: Client, *, org: str | None = None, team: str | None = None
) -> list[FoundProject]:
    """Return every project the token sees, by organisation, team, repository and id."""
    found: list[FoundProject] = []
    for org_sid, team_name in await _teams(client, org):
        if team in (None, team_name):
            found += await _projects_of_team(client, org_sid, team_name)
        if len(found) > MOST_PROJECTS:
            raise CommandError(
                f"there are more than {MOST_PROJECTS} projects: name one with --project"
            )
    return found


async def all_repos(client: Client, *, org: str | None = None) -> list[dict[str, Any]]:
    """Return every repository the token sees, with its organisation and team."""
    return [
        {"org_sid": org_sid, "team_name": team, **repo}
        for org_sid, team in await _teams(client, org)
        for repo in reversed(await client.listed(path(*ORGS, org_sid, "teams", team, "repos")))
    ]


async def _teams(client: Client, org: str | None) -> list[tuple[str, str]]:
    orgs = [org] if org else [one["org_sid"] for one in await client.listed(path(*ORGS))]
    return [
        (org_sid, team["name"])
        for org_sid in sorted(orgs)
        for team in reversed(await client.listed(path(*ORGS, org_sid, "teams")))
    ]


async def _projects_of_team(client: Client, org: str, team: str) -> list[FoundProject]:
    repos = await client.listed(path(*ORGS, org, "teams", team, "repos"))

    async def of_repo(repo: Any) -> list[FoundProject]:
        shelf = path(*ORGS, org, "teams", team, "repos", repo["id"], "projects")
        return [
            FoundProject(ProjectRef(org, team, repo["id"], one["id"]), one)
            for one in reversed(await client.listed(shelf))
        ]

    # Lists are newest first; people read oldest first.
    found = await each(list(reversed(repos)), of_repo)
    return [project for projects in found for project in projects]


async def wanted_projects(client: Client, text: str | None) -> list[ProjectRef]:
    """Return the project *text* names, or all.

    Raises:
        CommandError: there is no such project.
    """
    if text is not None and (ref := _parsed(text)) is not None:
        return [ref]
    found = [one.ref for one in await all_projects(client)]
    if text is None:
        return found
    named = [ref for ref in found if str(ref.project_id) == text]
    if not named:
        raise CommandError(f"there is no project {printable(text)}", Exit.REFUSED)
    return named


async def find_job(
    client: Client, job_id: int, project: str | None
) -> tuple[JobRef, dict[str, Any]]:
    """Return where a job is, and its detail.

    Raises:
        CommandError: there is no such job.
    """

    async def ask(ref: ProjectRef) -> tuple[JobRef, dict[str, Any]] | None:
        job = JobRef(ref, job_id, 0)
        try:
            detail = await client.get(job.path("detail"))
        except CallRefused as refused:
            if refused.status == 404:
                return None
            raise
        return JobRef(ref, job_id, detail["scan_id"]), detail

    for found in await each(await wanted_projects(client, project), ask):
        if found is not None:
            return found
    raise CommandError(f"there is no job {job_id}", Exit.REFUSED)


async def each(things: list[Any], ask: Callable[[Any], Awaitable[Result]]) -> list[Result]:
    """Return what *ask* answers for each of *things*, a few at the same time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(thing: Any) -> Result:
        async with room:
            return await ask(thing)

    return list(await asyncio.gather(*map(one, things)))


def _parsed(text: str) -> ProjectRef | None:
    parts = text.strip("/").split("/")
    if len(parts) == 4 and parts[2].isdigit() and parts[3].isdigit():
        return ProjectRef(parts[0], parts[1], int(parts[2]), int(parts[3]))
    if not text.isdigit():
        raise CommandError(
            f"--project must be a project's id or ORG/TEAM/REPO/PROJECT, got {printable(text)}"
        )
    return None
