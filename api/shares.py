"""From a change of an organisation or project to that of its share of the queue."""

from __future__ import annotations

from api.schemas.registry import OrgChange, ProjectChange
from core.store.shares import ShareChange


def share_change(body: OrgChange | ProjectChange) -> ShareChange | None:
    """Return what *body* changes of the share; None: nothing."""
    given = body.model_fields_set
    if not given & {"weight", "max_running"}:
        return None
    return ShareChange(
        weight=body.weight if "weight" in given else None,
        sets_limit="max_running" in given,
        max_running=body.max_running,
    )
