"""Organisations: created, found, listed, changed. *scope* is the only one the caller sees."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.domain.errors import AlreadyExists, NotFound
from core.domain.ids import OrgId
from core.store.pages import Page, page_of
from core.store.queries import query
from core.store.shares import ShareChange, limits_changed
from core.store.store import Store

_CREATE = query("orgs/create")
_GET = query("orgs/get")
_LIST = query("orgs/list")
_CHANGE = query("orgs/change")


@dataclass(frozen=True, slots=True)
class Org:
    """An organisation: what teams and tokens belong to."""

    id: OrgId
    org_sid: str
    name: str
    created_at: datetime
    #: Of its share of the queue, beside other organisations.
    weight: int
    #: Tasks in the queue and on workers at the same time; None: not limited.
    max_running: int | None


async def create(
    store: Store, *, org_sid: str, name: str, weight: int = 1, max_running: int | None = None
) -> Org:
    """Add an organisation.

    Raises:
        AlreadyExists: its `org_sid` is taken.
    """
    row = await store.db.fetchrow(_CREATE, org_sid, name, weight, max_running)
    if row is None:
        raise AlreadyExists("org_sid", f"{org_sid} exists already", org_sid)
    return _org(row)


async def get(store: Store, org_sid: str, *, scope: OrgId | None) -> Org:
    """Return an organisation.

    Raises:
        NotFound: it does not exist for the caller.
    """
    row = await store.db.fetchrow(_GET, org_sid, scope)
    if row is None:
        raise NotFound(f"organisation {org_sid!r}")
    return _org(row)


async def list_orgs(store: Store, *, scope: OrgId | None, limit: int, offset: int) -> Page[Org]:
    """Return one page of the organisations the caller sees, newest first."""
    return page_of(await store.db.fetch(_LIST, scope, limit, offset), _org)


async def change(
    store: Store, org_id: OrgId, *, name: str | None = None, share: ShareChange | None = None
) -> Org:
    """Change what is given."""
    share = share or ShareChange()
    row = await store.db.fetchrow(
        _CHANGE, org_id, name, share.weight, share.sets_limit, share.max_running
    )
    if row is None:
        raise NotFound(f"organisation {org_id}")
    limits_changed(store)
    return _org(row)


def _org(row: Any) -> Org:
    return Org(
        row["id"],
        row["org_sid"],
        row["name"],
        row["created_at"],
        row["weight"],
        row["max_running"],
    )
