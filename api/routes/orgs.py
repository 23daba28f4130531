"""Organisations: an admin of all makes them, everyone else sees their own."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.errors import Refused
from api.keys import PRINCIPAL, STORE, ZONE
from api.operations import ORGS, Operations, in_envelope, in_page
from api.pagination import PageQuery, page
from api.principals import Access
from api.schemas.registry import OrgAnswer, OrgChange, OrgCreate
from api.scope import org_scope, scoped_org
from api.shares import share_change
from core.store import orgs
from core.store.orgs import Org

operations = Operations("organisations")


@operations.post(
    f"{ORGS}/",
    summary="Create an organisation",
    access=Access.OPERATOR,
    body=OrgCreate,
    answers={201: in_envelope(OrgAnswer)},
)
async def create_org(request: web.Request, body: OrgCreate) -> web.Response:
    org = await orgs.create(
        request.app[STORE],
        org_sid=body.org_sid,
        name=body.name or body.org_sid,
        weight=body.weight,
        max_running=body.max_running,
    )
    return enveloped(_answer(org, request.app[ZONE]), status=201)


@operations.get(
    f"{ORGS}/",
    summary="List the organisations the token sees",
    access=Access.VIEWER,
    query=PageQuery,
    answers={200: in_page(OrgAnswer)},
)
async def list_orgs(request: web.Request, query: PageQuery) -> web.Response:
    found = await orgs.list_orgs(
        request.app[STORE], scope=org_scope(request), limit=query.limit, offset=query.offset
    )
    results = [_answer(org, request.app[ZONE]) for org in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    f"{ORGS}/{{org_sid}}/",
    summary="Show an organisation",
    access=Access.VIEWER,
    answers={200: in_envelope(OrgAnswer)},
)
async def show_org(request: web.Request) -> web.Response:
    return enveloped(_answer(await scoped_org(request), request.app[ZONE]))


@operations.put(
    f"{ORGS}/{{org_sid}}/",
    summary="Change an organisation's name, weight or limit",
    access=Access.ADMIN,
    body=OrgChange,
    answers={200: in_envelope(OrgAnswer)},
    description="Weight and limit divide what all organisations share: only an admin of all of "
    "them changes these.",
)
async def change_org(request: web.Request, body: OrgChange) -> web.Response:
    org = await scoped_org(request)
    share = share_change(body)
    if share is not None and not request[PRINCIPAL].may(Access.OPERATOR):
        raise Refused(403, "only an admin of all organisations changes weight and limit of one")
    changed = await orgs.change(request.app[STORE], org.id, name=body.name or None, share=share)
    return enveloped(_answer(changed, request.app[ZONE]))


def _answer(org: Org, zone: ZoneInfo) -> OrgAnswer:
    return {
        "org_sid": org.org_sid,
        "name": org.name,
        "weight": org.weight,
        "max_running": org.max_running,
        "created_time": wire_time(org.created_at, zone),
    }
