"""Teams of an organisation."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from aiohttp import web

from api.envelope import enveloped, wire_time
from api.keys import STORE, ZONE
from api.operations import ORGS, TEAM, Operations, in_envelope, in_page
from api.pagination import PageQuery, page
from api.principals import Access
from api.schemas.registry import TeamAnswer, TeamCreate
from api.scope import scoped_org, scoped_team
from core.store import teams
from core.store.teams import Team

operations = Operations("teams")


@operations.post(
    f"{ORGS}/{{org_sid}}/teams/",
    summary="Create a team",
    access=Access.ADMIN,
    body=TeamCreate,
    answers={201: in_envelope(TeamAnswer)},
)
async def create_team(request: web.Request, body: TeamCreate) -> web.Response:
    team = await teams.create(
        request.app[STORE],
        await scoped_org(request),
        name=body.name,
        display_name=body.display_name or body.name,
    )
    return enveloped(_answer(team, request.app[ZONE]), status=201)


@operations.get(
    f"{ORGS}/{{org_sid}}/teams/",
    summary="List the teams of an organisation",
    access=Access.VIEWER,
    query=PageQuery,
    answers={200: in_page(TeamAnswer)},
)
async def list_teams(request: web.Request, query: PageQuery) -> web.Response:
    org = await scoped_org(request)
    found = await teams.list_teams(request.app[STORE], org, limit=query.limit, offset=query.offset)
    results = [_answer(team, request.app[ZONE]) for team in found.items]
    return page(request, query, count=found.count, results=results)


@operations.get(
    f"{TEAM}/",
    summary="Show a team",
    access=Access.VIEWER,
    answers={200: in_envelope(TeamAnswer)},
)
async def show_team(request: web.Request) -> web.Response:
    return enveloped(_answer(await scoped_team(request), request.app[ZONE]))


def _answer(team: Team, zone: ZoneInfo) -> TeamAnswer:
    return {
        "name": team.name,
        "display_name": team.display_name,
        "org_sid": team.org_sid,
        "created_time": wire_time(team.created_at, zone),
    }
