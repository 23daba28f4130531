"""What the application and a request carry, by typed key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from zoneinfo import ZoneInfo

from aiohttp import web

from api.principals import EnrolmentPrincipal, Principal, WorkerPrincipal
from core.runtime.sealing import Sealer
from core.runtime.settings import Settings
from core.store.projects import EnteredProject
from core.store.store import Store

#: Returns what keeps the whole installation from working, beyond this process: `kennel up` asks
#: whether its worker is there.
ReadinessCheck = Callable[[], Awaitable[str | None]]

SETTINGS = web.AppKey("settings", Settings)
STORE = web.AppKey("store", Store)
SEALER = web.AppKey("sealer", Sealer)
#: Time zone of the times in answers.
ZONE = web.AppKey("zone", ZoneInfo)
#: Set when the process is asked to stop: whoever holds a request answers it now.
STOPPING = web.AppKey("stopping", asyncio.Event)
READINESS_CHECKS = web.AppKey("readiness_checks", list[ReadinessCheck])
#: The OpenAPI document as it is served.
OPENAPI = web.AppKey("openapi", bytes)

REQUEST_ID = web.RequestKey("request_id", str)
PRINCIPAL = web.RequestKey("principal", Principal)
#: The project of the path, for an operation in a project; not there: the caller sees none.
PROJECT = web.RequestKey("project", EnteredProject)
WORKER = web.RequestKey("worker", WorkerPrincipal)
ENROLMENT = web.RequestKey("enrolment", EnrolmentPrincipal)
