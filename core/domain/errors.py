"""The errors of Kennel: one root, each named for its situation, facts as attributes."""

from __future__ import annotations


class KennelError(Exception):
    """Root of all errors Kennel raises on purpose."""


class SettingError(KennelError):
    """A setting cannot be used; the message names it and says what is accepted."""


class SchemaMismatch(KennelError):
    """The database's schema is not one this code knows; the message says what to run."""


class NotFound(KennelError):
    """Something named by the caller does not exist, or is not the caller's to see."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} does not exist")
        self.what = what


class InvalidField(KennelError):
    """A field of a request cannot be accepted.

    Attributes: `field` (its name on the wire), `message` (one sentence for the caller).
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


class AlreadyExists(InvalidField):
    """The same thing was created before; `existing_id` is its id."""

    def __init__(self, field: str, message: str, existing_id: int | str) -> None:
        super().__init__(field, message)
        self.existing_id = existing_id


class ActiveJobExists(KennelError):
    """A create was refused by the policy `reject`: jobs of the project are open."""

    def __init__(self, project_id: int, branch: str, scan_ids: list[int]) -> None:
        numbers = ", ".join(map(str, scan_ids))
        super().__init__(f"当前项目分支[{project_id}]{branch}还有未完成任务，编号为: [{numbers}]")
        self.scan_ids = scan_ids


class LeaseLost(KennelError):
    """An attempt is superseded, cancelled, lost or closed: nothing about it is accepted."""

    def __init__(self, attempt_id: int) -> None:
        super().__init__(f"attempt {attempt_id} holds no lease")
        self.attempt_id = attempt_id


class ScmError(KennelError):
    """The repository cannot be used.

    Attributes: `reason` (see `core.domain.outcomes.Reason`), `message` (what to do about it,
    without credentials), `is_transient` (worth another try).
    """

    def __init__(self, reason: str, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.is_transient = is_transient
