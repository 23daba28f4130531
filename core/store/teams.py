"""Teams of an organisation: created, found, listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.domain.errors import AlreadyExists, NotFound
from core.domain.ids import OrgId, TeamId
from core.store.orgs import Org
from core.store.pages import Page, page_of
from core.store.queries import query
from core.store.store import Store

_CREATE = query("teams/create")
_GET = query("teams/get")
_LIST = query("teams/list")


@dataclass(frozen=True, slots=True)
class Team:
    """A team: what repositories belong to."""

    id: TeamId
    org_id: OrgId
    org_sid: str
    name: str
    display_name: str
    created_at: datetime


async def create(store: Store, org: Org, *, name: str, display_name: str) -> Team:
    """Add a team.

    Raises:
        AlreadyExists: its name is taken in the organisation.
    """
    if await store.db.fetchval(_CREATE, org.id, name, display_name) is None:
        existing = await get(store, org.org_sid, name, scope=None)
        raise AlreadyExists("name", f"{name} exists already, as team {existing.id}", existing.id)
    return await get(store, org.org_sid, name, scope=None)


async def get(store: Store, org_sid: str, name: str, *, scope: OrgId | None) -> Team:
    """Return a team.

    Raises:
        NotFound: it does not exist for the caller.
    """
    row = await store.db.fetchrow(_GET, org_sid, name, scope)
    if row is None:
        raise NotFound(f"team {name!r}")
    return _team(row)


async def list_teams(store: Store, org: Org, *, limit: int, offset: int) -> Page[Team]:
    """Return one page of an organisation's teams, newest first."""
    return page_of(await store.db.fetch(_LIST, org.id, limit, offset), _team)


def _team(row: Any) -> Team:
    return Team(
        row["id"],
        row["org_id"],
        row["org_sid"],
        row["name"],
        row["display_name"],
        row["created_at"],
    )
