"""User and enrolment tokens: an admin makes, lists and revokes those of what it governs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast
from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.errors import Forbidden
from api.keys import PRINCIPAL, STORE, ZONE
from api.operations import Operations, in_envelope, in_page
from api.pagination import page
from api.principals import Access, Principal
from api.schemas.tokens import NewTokenAnswer, TokenAnswer, TokenCreate, TokenQuery
from api.scope import org_scope, path_id
from core.domain.errors import InvalidField, NotFound
from core.domain.ids import OrgId, TokenId
from core.domain.states import Role
from core.domain.tokens import TokenKind, hash_token, make_token
from core.runtime.logs import get_logger
from core.store import orgs, tokens
from core.store.store import Store
from core.store.tokens import ListedToken, NewToken

log = get_logger(__name__)

operations = Operations("tokens")

_TOKENS = "/api/v1/tokens/"


@operations.post(
    _TOKENS,
    summary="Make a token",
    description="Its text is answered this once. An admin of one organisation makes user tokens "
    "of that organisation.",
    access=Access.ADMIN,
    body=TokenCreate,
    answers={201: in_envelope(NewTokenAnswer)},
)
async def create_token(request: web.Request, body: TokenCreate) -> web.Response:
    store, principal = request.app[STORE], request[PRINCIPAL]
    new = await _checked(store, principal, body)
    token = make_token(TokenKind.USER if body.kind == "user" else TokenKind.ENROLMENT)
    token_id = await tokens.create(store, new, hash_token(token))
    log.info("token.created", token_id=token_id, kind=new.kind, owner=new.name, by=principal.name)
    made = await tokens.get(store, token_id, org_id=None)
    answer: NewTokenAnswer = {**_answer(made, request.app[ZONE]), "token": token}
    return enveloped(answer, status=201)


@operations.get(
    _TOKENS,
    summary="List tokens",
    access=Access.ADMIN,
    query=TokenQuery,
    answers={200: in_page(TokenAnswer)},
)
async def list_tokens(request: web.Request, query: TokenQuery) -> web.Response:
    found = await tokens.list_tokens(
        request.app[STORE],
        org_id=org_scope(request),
        kind=query.kind,
        limit=query.limit,
        offset=query.offset,
    )
    results = [_answer(token, request.app[ZONE]) for token in found.items]
    return page(request, query, count=found.count, results=results)


@operations.delete(
    f"{_TOKENS}{{token_id}}/",
    summary="Revoke a token",
    description="It works no more from the next request on.",
    access=Access.ADMIN,
    answers={200: in_envelope(TokenAnswer)},
)
async def revoke_token(request: web.Request) -> web.Response:
    store, scope = request.app[STORE], org_scope(request)
    token_id = TokenId(path_id(request, "token_id"))
    await tokens.revoke(store, token_id, org_id=scope)
    log.info("token.revoked", token_id=token_id, by=request[PRINCIPAL].name)
    revoked = await tokens.get(store, token_id, org_id=scope)
    return enveloped(_answer(revoked, request.app[ZONE]))


async def _checked(store: Store, principal: Principal, body: TokenCreate) -> NewToken:
    if body.kind == "enrolment":
        return _checked_enrolment(principal, body)
    if body.role is None:
        raise InvalidField("role", "is needed for a user token: viewer, member or admin")
    if body.single_use:
        raise InvalidField("single_use", "is for enrolment tokens only")
    return NewToken(
        kind="user",
        name=body.name,
        role=Role(body.role),
        org_id=await _org_of(store, principal, body.org_sid),
        is_single_use=False,
        lifetime_s=body.expires_in_s,
    )


def _checked_enrolment(principal: Principal, body: TokenCreate) -> NewToken:
    if principal.org_id is not None:
        # A worker serves every organisation.
        raise Forbidden("enrolment tokens are made by an admin of all organisations")
    for field in ("role", "org_sid"):
        if getattr(body, field) is not None:
            raise InvalidField(field, "is for user tokens only")
    is_single_use = body.single_use if body.single_use is not None else body.expires_in_s is None
    if not is_single_use and body.expires_in_s is None:
        raise InvalidField("expires_in_s", "is needed for an enrolment token of several uses")
    return NewToken(
        kind="enrolment",
        name=body.name,
        role=None,
        org_id=None,
        is_single_use=is_single_use,
        lifetime_s=body.expires_in_s,
    )


async def _org_of(store: Store, principal: Principal, org_sid: str | None) -> OrgId | None:
    """Return the organisation a new token is for: never more than its maker governs."""
    if org_sid is None:
        return principal.org_id
    try:
        return (await orgs.get(store, org_sid, scope=principal.org_id)).id
    except NotFound:
        raise InvalidField("org_sid", f"{org_sid!r} is no organisation") from None


def _answer(token: ListedToken, zone: ZoneInfo) -> TokenAnswer:
    def shown(moment: datetime | None) -> str | None:
        return wire_time(moment, zone) if moment is not None else None

    return {
        "id": token.id,
        "kind": cast("Literal['user', 'enrolment']", token.kind),
        "name": token.name,
        "role": token.role,
        "org_sid": token.org_sid,
        "single_use": token.is_single_use,
        "created_time": wire_time(token.created_at, zone),
        "expire_time": shown(token.expires_at),
        "used_time": shown(token.used_at),
        "revoked_time": shown(token.revoked_at),
    }
