"""Every setting of Kennel: parsed once from the environment, frozen, then passed by hand.

The only module that reads the environment. `Settings` and its groups are plain models without
it, so that a test builds them from values; `load_settings` reads `KENNEL_…` variables, secret
files and credentials, and turns whatever is wrong into one `SettingError`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from core.domain.errors import SettingError
from core.domain.states import ActiveJobPolicy
from core.runtime.environment import Variable, describe, read_environment, variables_of
from core.runtime.settingtypes import (
    DAY_S,
    GIB,
    MIB,
    AbsolutePath,
    DatabaseUrl,
    HttpUrl,
    KeyMaterial,
    Label,
    Labels,
    LongSecret,
    Size,
    Span,
    Timezone,
    Token,
    absolute,
    is_loopback,
)


def _host_name() -> str:
    host = socket.gethostname()
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in host)
    return name.lstrip("._-")[:64] or "worker"


def _default_data_dir() -> Path:
    state_home = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules: a relative path there is invalid and is ignored.
    base = Path(state_home) if state_home.startswith("/") else Path("~/.local/state")
    try:
        return absolute(base / "kennel")
    except ValueError:
        raise SettingError("KENNEL_DATA_DIR must be set: this user has no home folder") from None


class Group(BaseModel):
    """Settings that belong together; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LogSettings(Group):
    """How a process logs."""

    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto`: readable on a terminal, JSON lines otherwise."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is written."
    )


class ApiSettings(Group):
    """The HTTP edge."""

    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1", description="Address to listen on; `0.0.0.0` or `::` for all."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0: a free one.")
    sync_wait_s: Span = Field(
        default=600.0, description="Longest a synchronous create is held, then it answers 202."
    )
    active_job_policy: ActiveJobPolicy = Field(
        default=ActiveJobPolicy.QUEUE,
        description="What an unforced create does while an earlier job of the project is open, "
        "where neither scheme nor request says: `queue`, `reject` or `join`.",
    )
    max_body_bytes: Size = Field(
        default=ByteSize(MIB), description="Largest JSON body accepted; larger ones get 413."
    )
    pool_size: int = Field(
        default=10, ge=1, le=1000, description="Database connections of one api process."
    )
    statement_timeout_s: Span = Field(
        default=15.0, description="Longest one SQL statement of the api may take."
    )
    trust_forwarded: bool = Field(
        default=False,
        description="Believe `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Forwarded-Prefix` in "
        "the addresses of pages. Only behind a proxy that sets them.",
    )


class SchedulerSettings(Group):
    """The decisions."""

    tick_s: Span = Field(
        default=5.0, description="How often each loop looks although no notification came."
    )
    queue_limit_s: Span = Field(
        default=DAY_S, description="Longest a job waits for its start; then it closes with 297."
    )
    saving_limit_s: Span = Field(
        default=3600.0, description="Longest a job is saved; then it closes with 199."
    )
    scm_timeout_s: Span = Field(
        default=20.0, description="Longest one question to a repository may take."
    )
    scm_total_s: Span = Field(
        default=60.0, description="Longest all tries to resolve one revision may take together."
    )
    resolvers: int = Field(
        default=8, ge=1, le=256, description="Revisions one scheduler resolves at the same time."
    )
    pool_size: int = Field(
        default=6, ge=2, le=1000, description="Database connections of one scheduler process."
    )
    statement_timeout_s: Span = Field(
        default=30.0, description="Longest one SQL statement of the scheduler may take."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="Attempts of a task that count, before it fails."
    )
    max_resets: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Workers a task may take down, before it closes with 200.",
    )
    retry_base_s: Span = Field(
        default=2.0, description="Back-off before the second attempt; doubles, with full jitter."
    )
    retry_cap_s: Span = Field(default=300.0, description="Longest back-off between attempts.")
    quarantine_faults: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Attempts in a row that die of a worker's own fault, before the worker is "
        "quarantined; `0`: never.",
    )
    quarantine_window_s: Span = Field(
        default=600.0, description="Time within which they have to happen."
    )
    quarantine_s: Span = Field(
        default=60.0,
        description="Length of a first quarantine; doubles each time the worker fails again.",
    )
    quarantine_cap_s: Span = Field(default=3600.0, description="Longest quarantine.")
    history_days: int = Field(
        default=90,
        ge=1,
        le=36_500,
        description="How long tasks, attempts, results, logs and events are kept, days.",
    )
    jobs_days: int = Field(
        default=730,
        ge=1,
        le=36_500,
        description="How long closed jobs, their scans and findings are kept, days; no less than "
        "the history of their tasks.",
    )

    @model_validator(mode="after")
    def _hold_together(self) -> SchedulerSettings:
        _ordered("scheduler", self, "scm_timeout_s", "scm_total_s", strictly=False)
        _ordered("scheduler", self, "retry_base_s", "retry_cap_s", strictly=False)
        _ordered("scheduler", self, "quarantine_s", "quarantine_cap_s", strictly=False)
        _ordered("scheduler", self, "history_days", "jobs_days", strictly=False)
        return self


class LeaseSettings(Group):
    """The intervals of the worker protocol; set by the server, kept by the workers."""

    lease_s: Span = Field(default=30.0, description="Lease of an attempt after a heartbeat.")
    heartbeat_s: Span = Field(
        default=5.0, description="Longest a heartbeat is held when there is no order."
    )
    fence_s: Span = Field(
        default=22.0,
        description="A worker kills its attempts this long after its last confirmed heartbeat "
        "was sent. Less than the lease, more than two heartbeats.",
    )
    start_s: Span = Field(
        default=30.0, description="An offered attempt not started by then returns to the queue."
    )
    claim_s: Span = Field(default=25.0, description="Longest a claim is held.")
    log_s: Span = Field(default=1.0, description="How often logs are sent while an engine runs.")
    worker_token_s: Span = Field(
        default=3600.0, description="Life of a worker token; rotated at three quarters of it."
    )

    @model_validator(mode="after")
    def _hold_together(self) -> LeaseSettings:
        _ordered("lease", self, "fence_s", "lease_s")
        if 2 * self.heartbeat_s >= self.fence_s:
            raise ValueError(
                f"KENNEL_LEASE__HEARTBEAT_S ({self.heartbeat_s:g}) must be less than half of "
                f"KENNEL_LEASE__FENCE_S ({self.fence_s:g}), so that one lost beat kills nothing"
            )
        return self


class LimitSettings(Group):
    """What the server accepts of one attempt."""

    log_bytes: Size = Field(default=ByteSize(8 * MIB), description="Log kept of one attempt.")
    artifact_bytes: Size = Field(default=ByteSize(64 * MIB), description="Size of one artifact.")
    artifacts: int = Field(default=8, ge=1, le=32, description="Artifacts of one attempt.")


class WorkerSettings(Group):
    """The hands."""

    server_url: HttpUrl = Field(
        default="http://127.0.0.1:8000", description="Where the api listens."
    )
    name: Label = Field(
        default_factory=_host_name, description="Name shown to people. Default: the host's name."
    )
    slots: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        le=1024,
        description="Attempts run at the same time. Default: the processors it may use.",
    )
    tags: Labels = Field(
        default=(), description="Tags a scheme can ask for, with commas between them."
    )
    enrolment_token: Token | None = Field(
        default=None, description="Buys the worker its identity at the first registration."
    )
    state_dir: AbsolutePath = Field(
        default_factory=lambda: _default_data_dir() / "worker",
        description="Identity, spool, mirrors and work trees. Default: `worker` in the data "
        "directory.",
    )
    cache_bytes: Size = Field(
        default=ByteSize(20 * GIB), description="Mirrors kept; the least used go first."
    )
    isolation: Literal["auto", "group", "bwrap"] = Field(
        default="auto",
        description="How engines are contained. `auto`: bubblewrap where it works, else a process "
        "group with limits; `bwrap` refuses to start without bubblewrap.",
    )
    shutdown_s: Span = Field(
        default=10.0,
        description="After a second stop signal: until engines that were asked to end are killed.",
    )
    memory_bytes: Size = Field(
        default=ByteSize(4 * GIB), description="Memory of one engine where its scheme says none."
    )


class ClientSettings(Group):
    """The command line as a client of a server."""

    server: HttpUrl | None = Field(
        default=None, description="Server the command line talks to. Default: the local one."
    )
    token: Token | None = Field(default=None, description="User token it shows there.")


class Settings(Group):
    """All settings of one process."""

    database_url: DatabaseUrl | None = Field(
        default=None,
        description="PostgreSQL, 15 or newer: `postgresql://user:password@host/name`; of several "
        "hosts with commas between them the one that takes writes is used. Default: "
        "`kennel up` and `kennel scan` start their own; the daemons need it.",
    )
    database_pooled: bool = Field(
        default=False,
        description="The database URL leads to a pooler in transaction mode, such as PgBouncer.",
    )
    listen_database_url: DatabaseUrl | None = Field(
        default=None,
        description="The same database past a pooler, for `LISTEN` and `kennel db`. Default: the "
        "database URL.",
    )
    data_dir: AbsolutePath = Field(
        default_factory=_default_data_dir,
        description="What Kennel keeps on disk. Default: `$XDG_STATE_HOME/kennel`, else "
        "`~/.local/state/kennel`.",
    )
    allow_local_repos: bool = Field(
        default=False,
        description="Accept paths and `file://` URLs of this machine as repositories. Refused "
        "when the api listens beyond loopback.",
    )
    secret_key: KeyMaterial | None = Field(
        default=None,
        description="Key repository credentials are sealed with, at least 32 characters; several "
        "with commas between them: the first seals, all unseal. Default: `secret.key` in the data "
        "directory, made at first use.",
    )
    bootstrap_token: LongSecret | None = Field(
        default=None,
        description="First admin token, at least 32 characters. Default: the first start makes "
        "one.",
    )
    timezone: Timezone = Field(
        default="Asia/Shanghai", description="Time zone of the times in the job API's answers."
    )
    log: LogSettings = Field(default_factory=LogSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    lease: LeaseSettings = Field(default_factory=LeaseSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    client: ClientSettings = Field(default_factory=ClientSettings)

    @model_validator(mode="after")
    def _hold_together(self) -> Settings:
        if self.allow_local_repos and not is_loopback(self.api.host):
            raise ValueError(
                "KENNEL_ALLOW_LOCAL_REPOS can be on only while KENNEL_API__HOST is a loopback "
                f"address; it is {self.api.host!r}"
            )
        if self.is_pooled and self.listen_database_url is None:
            raise ValueError(
                "KENNEL_DATABASE_POOLED needs KENNEL_LISTEN_DATABASE_URL, the same database past "
                "the pooler: notifications and `kennel db` do not go through it"
            )
        return self

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler stands before the database that is named."""
        return self.database_pooled and self.database_url is not None

    @property
    def direct_database_url(self) -> str | None:
        """The address of the database past any pooler; None: none is named."""
        url = self.database_url and (self.listen_database_url or self.database_url)
        return url.get_secret_value() if url else None

    def secrets(self) -> Iterator[str]:
        """Yield every secret, the passwords inside URLs too, so that logs can blank them."""
        for variable in VARIABLES:
            value: Any = self
            for name in variable.path:
                value = getattr(value, name)
            if isinstance(value, SecretStr):
                yield value.get_secret_value()
        for url in (self.database_url, self.listen_database_url):
            password = urlsplit(url.get_secret_value()).password if url else None
            if password:
                yield from (password, unquote(password))


def _ordered(group: str, values: BaseModel, less: str, more: str, *, strictly: bool = True) -> None:
    low, high = getattr(values, less), getattr(values, more)
    if low < high or (low == high and not strictly):
        return
    prefix = f"KENNEL_{group.upper()}__"
    raise ValueError(
        f"{prefix}{less.upper()} ({low:g}) must be {'less' if strictly else 'no more'} than "
        f"{prefix}{more.upper()} ({high:g})"
    )


#: Every setting, in the order of the models.
VARIABLES: tuple[Variable, ...] = tuple(variables_of(Settings))


def load_settings(**overrides: Any) -> Settings:
    """Read the environment once; *overrides* (groups as mappings, None: not given) win.

    Raises:
        SettingError: one message that names every variable that cannot be used.
    """
    values, problems = read_environment(VARIABLES, os.environ)
    values = _merge(values, overrides)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += describe(VARIABLES, error)
    if problems:
        raise SettingError("; ".join(problems))
    if "state_dir" not in settings.worker.model_fields_set:
        worker = settings.worker.model_copy(update={"state_dir": settings.data_dir / "worker"})
        settings = settings.model_copy(update={"worker": worker})
    return settings


def _merge(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            merged[name] = _merge(merged.get(name, {}), value)
        elif value is not None:
            merged[name] = value
    return merged


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with *changes*, for a child of ours: without secrets.

    Nor does it hold what the service manager says to this process alone.
    """
    own = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"}
    for variable in VARIABLES:
        if variable.is_secret:
            own |= {variable.env, variable.file_env}
    return {name: value for name, value in os.environ.items() if name not in own} | dict(changes)


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """What the service manager told this process at its start."""

    #: Socket that takes notifications; a leading "@" means an abstract one.
    notify_socket: str | None
    #: Longest time between two signs of life, seconds; None: no watchdog.
    watchdog_s: float | None
    #: Device and inode of the stream the journal reads, `dev:inode`.
    journal_stream: str | None


def read_service_manager() -> ServiceManager:
    """Read what systemd passes by the environment; nothing of it is a setting of ours."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watches = is_ours and usec.isascii() and usec.isdigit() and int(usec) > 0
    return ServiceManager(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(usec) / 1_000_000 if watches else None,
        journal_stream=os.environ.get("JOURNAL_STREAM") or None,
    )
