"""Tokens in the database: found by their hash, made, listed, revoked. Never their text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.domain.errors import NotFound
from core.domain.ids import OrgId, TokenId
from core.domain.states import Role
from core.store.pages import Page, page_of
from core.store.pool import Queryable
from core.store.queries import query
from core.store.store import Store

_FIND_USER = query("tokens/find_user")
_FIND_ENROLMENT = query("tokens/find_enrolment")
_SPEND_ENROLMENT = query("tokens/spend_enrolment")
_CREATE = query("tokens/create")
_LIST = query("tokens/list")
_GET = query("tokens/get")
_REVOKE = query("tokens/revoke")
_PLACE_BOOTSTRAP = query("tokens/place_bootstrap")
_LOCK_BOOTSTRAP = query("tokens/lock_bootstrap")
_MAKE_FIRST = query("tokens/make_first")

ROLES = {role.value: role for role in Role}


@dataclass(frozen=True, slots=True)
class UserToken:
    """A good user token."""

    id: TokenId
    name: str
    role: Role
    org_id: OrgId | None


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A good enrolment token; a spent one is good only for what its use began."""

    id: TokenId
    name: str
    is_spent: bool


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be made."""

    kind: str
    name: str
    role: Role | None
    org_id: OrgId | None
    is_single_use: bool
    #: Seconds it lives; None: until revoked.
    lifetime_s: float | None


@dataclass(frozen=True, slots=True)
class ListedToken:
    """A token as people see it."""

    id: TokenId
    kind: str
    name: str
    role: str | None
    org_sid: str | None
    is_single_use: bool
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None


async def find_users(store: Store, token_hashes: Sequence[bytes]) -> list[UserToken | None]:
    """Return the user tokens with these hashes, in order; None: not good now."""
    found = {
        row["token_hash"]: UserToken(row["id"], row["name"], ROLES[row["role"]], row["org_id"])
        for row in await store.db.fetch(_FIND_USER, list(token_hashes))
    }
    return [found.get(token_hash) for token_hash in token_hashes]


async def find_enrolment(store: Store, token_hash: bytes) -> EnrolmentToken | None:
    """Return the enrolment token with this hash, if it is not expired or revoked."""
    row = await store.db.fetchrow(_FIND_ENROLMENT, token_hash)
    return EnrolmentToken(**row) if row is not None else None


async def spend_enrolment(connection: Queryable, token_id: TokenId) -> bool:
    """Use an enrolment token; False: it is not good any more, or its single use was made."""
    return await connection.fetchval(_SPEND_ENROLMENT, token_id) is not None


async def create(store: Store, new: NewToken, token_hash: bytes) -> TokenId:
    """Add a token."""
    token_id: TokenId = await store.db.fetchval(
        _CREATE,
        new.kind,
        new.name,
        new.role,
        new.org_id,
        token_hash,
        new.is_single_use,
        new.lifetime_s,
    )
    return token_id


async def list_tokens(
    store: Store, *, org_id: OrgId | None, kind: str | None, limit: int, offset: int
) -> Page[ListedToken]:
    """Return one page of the tokens of an organisation (None: of all), newest first."""
    rows = await store.db.fetch(_LIST, org_id, kind, limit, offset)
    return page_of(rows, _listed)


async def get(store: Store, token_id: TokenId, *, org_id: OrgId | None) -> ListedToken:
    """Return a token of an organisation (None: of any).

    Raises:
        NotFound: no such token there.
    """
    row = await store.db.fetchrow(_GET, token_id, org_id)
    if row is None:
        raise NotFound(f"token {token_id}")
    return _listed(row)


async def revoke(store: Store, token_id: TokenId, *, org_id: OrgId | None) -> None:
    """Revoke a token of an organisation (None: of any); the next request with it is refused.

    Raises:
        NotFound: no such token there.
    """
    if await store.db.fetchval(_REVOKE, token_id, org_id) is None:
        raise NotFound(f"token {token_id}")


async def place_bootstrap(store: Store, name: str, token_hash: bytes) -> bool:
    """Make the token set by hand an admin's; False: it was there."""
    return await store.db.fetchval(_PLACE_BOOTSTRAP, name, token_hash) is not None


async def make_first(store: Store, name: str, token_hash: bytes, keep: Callable[[], None]) -> bool:
    """Add an admin token where none is good; False: there is one.

    *keep* leaves the text where a person finds it, before anybody can see the row: when it
    fails, no token was made. Of processes that start at once, one makes it.
    """
    async with store.db.transaction() as connection:
        await connection.execute(_LOCK_BOOTSTRAP)
        if await connection.fetchval(_MAKE_FIRST, name, token_hash) is None:
            return False
        keep()
    return True


def _listed(row: Any) -> ListedToken:
    values = dict(row)
    values.pop("total", None)
    return ListedToken(**values)
