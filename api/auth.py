"""Who may: the token of a request, looked up by its hash, against what an operation asks.

A token is read on every request, so that revoking it works at once. Whether a thing belongs to
the caller's organisation is part of the statement that finds the thing (404, never 403).
"""

from __future__ import annotations

from aiohttp import web

from api.errors import Forbidden, Unauthorized
from api.gathering import GATHERING
from api.keys import ENROLMENT, PRINCIPAL, PROJECT, STORE, WORKER
from api.principals import Access, EnrolmentPrincipal, Principal, WorkerPrincipal
from api.scope import entry
from core.domain.states import Role
from core.domain.tokens import TokenKind, hash_token, is_well_formed, kind_of
from core.store import tokens
from core.store.tokens import UserToken

_SCHEMES = ("token", "bearer")
_LONGEST_HEADER = 1024


async def authorise(request: web.Request, access: Access, *, is_in_project: bool = False) -> None:
    """Let the caller of an operation pass, and note on the request who it is.

    *is_in_project*: the same look at the database finds the project of the path, and notes it.

    Raises:
        Unauthorized: no token, or none that is good.
        Forbidden: a good token that does not reach *access*.
    """
    if access is Access.OPEN:
        return
    token = _token(request)
    match access:
        case Access.WORKER:
            request[WORKER] = await _worker(request, token)
        case Access.ENROLMENT:
            request[ENROLMENT] = await _enrolment(request, token)
        case _:
            find = _entered if is_in_project else _principal
            principal = await find(request, token)
            if not principal.may(access):
                raise Forbidden(_too_low(principal, access))
            request[PRINCIPAL] = principal


def _token(request: web.Request) -> str:
    headers = request.headers.getall("Authorization", [])
    if len(headers) != 1:
        raise Unauthorized("send one header Authorization: Token <token>")
    scheme, _, token = headers[0][:_LONGEST_HEADER].partition(" ")
    token = token.strip()
    if scheme.lower() not in _SCHEMES or not token:
        raise Unauthorized("send the header Authorization: Token <token>")
    if not is_well_formed(token):
        raise Unauthorized("the token is mistyped or cut")
    return token


async def _principal(request: web.Request, token: str) -> Principal:
    _check_user(token)
    return _owner(await request.app[GATHERING].users(hash_token(token)))


async def _entered(request: web.Request, token: str) -> Principal:
    _check_user(token)
    found = await request.app[GATHERING].entries(entry(request, hash_token(token)))
    if found is None:
        return _owner(None)
    if found.project is not None:
        request[PROJECT] = found.project
    return _owner(found.token)


def _check_user(token: str) -> None:
    if kind_of(token) in (TokenKind.ENROLMENT, TokenKind.WORKER):
        raise Forbidden("a worker's token cannot be used here; use a user token")


def _owner(found: UserToken | None) -> Principal:
    if found is None:
        raise Unauthorized("the token is unknown, expired or revoked")
    return Principal(found.id, found.name, found.role, found.org_id)


async def _worker(request: web.Request, token: str) -> WorkerPrincipal:
    if kind_of(token) is not TokenKind.WORKER:
        raise Forbidden("only a worker's token can be used here")
    worker = await request.app[GATHERING].workers(hash_token(token))
    if worker is None:
        raise Unauthorized("the worker token is unknown or expired")
    return WorkerPrincipal(worker.worker_id, worker.name, token, worker.is_suspended)


async def _enrolment(request: web.Request, token: str) -> EnrolmentPrincipal:
    if kind_of(token) is not TokenKind.ENROLMENT:
        raise Forbidden("only an enrolment token can be used here")
    found = await tokens.find_enrolment(request.app[STORE], hash_token(token))
    if found is None:
        raise Unauthorized("the enrolment token is unknown, expired or revoked")
    return EnrolmentPrincipal(found.id, found.name, found.is_spent)


def _too_low(principal: Principal, access: Access) -> str:
    if access is Access.OPERATOR and principal.role is Role.ADMIN:
        return "needs an admin of all organisations"
    needed = Role.ADMIN if access is Access.OPERATOR else access
    return f"needs the role {needed.value}; the token's is {principal.role.value}"
