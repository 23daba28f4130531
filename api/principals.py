"""Who asks: the owner of a user token, a worker, or someone who may enrol one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from core.domain.ids import OrgId, TokenId, WorkerId
from core.domain.states import ROLE_RANK, Role


class Access(StrEnum):
    """What an operation asks of its caller."""

    #: Nothing: health, the OpenAPI document and its page.
    OPEN = "open"
    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    #: An admin of every organisation.
    OPERATOR = "operator"
    #: An enrolment token.
    ENROLMENT = "enrolment"
    #: A worker token.
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a user token."""

    token_id: TokenId
    #: `creator` and `remarked_by` on the wire.
    name: str
    role: Role
    #: The only organisation it sees; None: all.
    org_id: OrgId | None

    def may(self, access: Access) -> bool:
        """Tell whether the role reaches *access*."""
        if access is Access.OPERATOR:
            return self.role is Role.ADMIN and self.org_id is None
        if access in (Access.ENROLMENT, Access.WORKER):
            return False
        return access is Access.OPEN or ROLE_RANK[self.role] >= ROLE_RANK[Role(access.value)]


@dataclass(frozen=True, slots=True)
class WorkerPrincipal:
    """A worker; what it may touch is decided by this id and by lease tokens, nothing else."""

    worker_id: WorkerId
    name: str
    #: The text of its token: the key that lease tokens are derived with.
    token: str = field(repr=False)
    #: Quarantined or on probation: offered one task at a time.
    is_suspended: bool


@dataclass(frozen=True, slots=True)
class EnrolmentPrincipal:
    """Who may register a worker."""

    token_id: TokenId
    name: str
    #: A single-use token that was used: good only for what that use began.
    is_spent: bool
