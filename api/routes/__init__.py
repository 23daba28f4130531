"""The routes: one file a resource, all of them listed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.routes import (
    docs,
    engines,
    health,
    jobs,
    orgs,
    projects,
    repos,
    scans,
    schemes,
    tasks,
    teams,
    tokens,
    why,
    worker_protocol,
    worker_results,
    worker_uploads,
    workers,
)

if TYPE_CHECKING:
    from api.operations import Operation

#: In the order the OpenAPI document shows them.
RESOURCES = (
    orgs,
    teams,
    repos,
    schemes,
    projects,
    tokens,
    scans,
    jobs,
    why,
    tasks,
    workers,
    engines,
    worker_protocol,
    worker_uploads,
    worker_results,
    health,
    docs,
)


def all_operations() -> list[Operation]:
    """Return every operation of the api; each resource declares its own in `operations`."""
    return [operation for resource in RESOURCES for operation in resource.operations.all]
