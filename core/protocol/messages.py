"""The wire between worker and api, version 1: every body as a model that validates it.

The same models make the OpenAPI document. Durations are seconds and end in `_s`, sizes are
bytes and end in `_bytes`; there is no absolute time on the wire, so clocks need not agree.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from core.domain.outcomes import Outcome, Reason
from core.domain.states import Isolation, TaskKind

PROTOCOL_VERSION = 1

#: Header that carries an attempt's lease token where the body is bytes.
LEASE_HEADER = "Kennel-Lease"


def _integral(value: object) -> object:
    """Accept 45.0, which JSON does not tell from 45, where an integer is wanted."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must not contain NUL or lone surrogates")
    return value


Text = Annotated[str, BeforeValidator(lambda v: _no_nul(v) if isinstance(v, str) else v)]
Count = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_integral)]
Id = Annotated[int, Field(ge=1, le=2**63 - 1), BeforeValidator(_integral)]
Label = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/@-]*$")
]
Secret = Annotated[str, StringConstraints(min_length=8, max_length=200, pattern=r"^[!-~]+$")]
ArtifactName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Message(BaseModel):
    """A body of the protocol. Unknown keys are ignored, so that newer peers may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EngineOffer(Message):
    """An engine a worker can run."""

    name: Label
    version: Annotated[Text, Field(min_length=1, max_length=64)]
    module: Literal["codelint", "codemetric"] = "codelint"
    #: Languages it analyses; empty: any file.
    languages: list[Label] = Field(default_factory=list, max_length=200)


class Intervals(Message):
    """Every interval a worker keeps; the server sets them all and may change them at each beat."""

    #: How long a claim may be held, seconds.
    claim_s: float
    #: How long a heartbeat is held when there is no order; the next is sent at once.
    heartbeat_s: float
    #: Lease of an attempt after a beat.
    lease_s: float
    #: A worker kills its own attempts this long after its last confirmed beat was sent.
    fence_s: float
    #: An offered attempt returns to the queue when not started within this time.
    start_s: float
    #: How often logs are sent while an engine runs.
    log_s: float


class Limits(Message):
    """What the server accepts of one attempt, bytes."""

    log_bytes: int
    artifact_bytes: int
    artifacts: int


class ProtocolRange(Message):
    """The protocol versions a worker speaks."""

    min: int = PROTOCOL_VERSION
    max: int = PROTOCOL_VERSION


class RegisterRequest(Message):
    """`POST /worker/v1/register`, authorised by an enrolment token."""

    name: Label
    #: Random, kept on the worker's disk: who registers again with it gets its old identity back.
    instance_key: Secret
    #: New for each registration, the same in its repetitions: the network's, or after no answer.
    registration_id: Secret | None = None
    tags: list[Label] = Field(default_factory=list, max_length=50)
    engines: list[EngineOffer] = Field(max_length=200)
    slots: Annotated[int, Field(ge=1, le=1024), BeforeValidator(_integral)]
    isolation: Isolation = Isolation.GROUP
    protocol: ProtocolRange = ProtocolRange()
    version: Annotated[Text, Field(max_length=64)] = ""


class RegisterResponse(Message):
    """The worker's identity and the server's rules."""

    worker_id: int
    token: str
    token_expires_in_s: float
    protocol: int
    intervals: Intervals
    limits: Limits


class TokenResponse(Message):
    """`POST /worker/v1/token`: a new worker token; the old one stays valid 60 s."""

    token: str
    token_expires_in_s: float


class ClaimRequest(Message):
    """`POST /worker/v1/claim`. The same `claim_id` again gets the same answer."""

    claim_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{32,36}$")]
    slots: Annotated[int, Field(ge=1, le=1024), BeforeValidator(_integral)]


class ScmAuth(Message):
    """Credentials for a fetch; never in argv, in a log or in an engine's reach."""

    username: str | None = None
    password: str | None = None
    private_key: str | None = None


class Source(Message):
    """What is scanned."""

    scm_url: str
    branch: str
    revision: str
    #: Revision the change is computed from; None: the whole tree.
    base_revision: str | None = None
    #: Sub-folder, "" for the whole repository.
    scan_path: str = ""
    auth: ScmAuth | None = None
    #: Local paths and `file://` are allowed (one machine, `kennel up`).
    is_local: bool = False
    #: Same for all tasks of one repository, so that a mirror is shared and never crosses owners.
    cache_key: str


class TaskLimits(Message):
    """What one attempt may use."""

    wall_s: float
    #: Killed when it printed nothing and made no progress for this long.
    idle_s: float
    output_bytes: int
    file_bytes: int
    memory_bytes: int


class TaskSpec(Message):
    """One task, offered to a worker."""

    task_id: int
    attempt_id: int
    #: Number of this attempt, from 1.
    attempt: int
    job_id: int
    lease_token: str
    kind: TaskKind
    #: Name of the engine; `prepare` for the preparation.
    engine: str
    source: Source
    languages: list[str] = Field(default_factory=list)
    inclusion: list[str] = Field(default_factory=list)
    exclusion: list[str] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    rules_include: list[str] = Field(default_factory=list)
    rules_exclude: list[str] = Field(default_factory=list)
    #: The repository's own configuration may be used, though it may run code.
    allow_repo_config: bool = False
    limits: TaskLimits


class ClaimResponse(Message):
    """The tasks offered; an empty answer is 204."""

    tasks: list[TaskSpec]


class AttemptRef(Message):
    """An attempt and the proof of its lease."""

    attempt_id: Id
    lease_token: Secret


class StartRequest(Message):
    """`POST /worker/v1/start`: these attempts begin now."""

    attempts: list[AttemptRef] = Field(min_length=1, max_length=1024)


class StartVerdict(Message):
    """Whether one attempt may run."""

    attempt_id: int
    verdict: Literal["running", "lease_lost"]


class StartResponse(Message):
    attempts: list[StartVerdict]


class Beat(Message):
    """What one attempt is doing."""

    attempt_id: Id
    phase: Literal["checkout", "running", "reporting", "spooled"] = "running"
    files_done: Count = 0
    files_planned: Count = 0


class HeartbeatRequest(Message):
    """`POST /worker/v1/heartbeat`: all attempts the worker holds, spooled results included.

    Recorded on arrival, then held until there is an order or `heartbeat_s` are over.
    """

    attempts: list[Beat] = Field(default_factory=list, max_length=1024)
    #: Attempts up to this id have begun here or never will: those not listed are over. Tells a
    #: heartbeat that is late from one that has forgotten an attempt. None: any.
    begun_to: int | None = None
    is_draining: bool = False
    #: False: answer at once.
    hold: bool = True
    #: Longest hold the worker takes, seconds, instead of `heartbeat_s`; heeded, up to two thirds of
    #: the lease, while it lists no attempt. It must then send another one before it begins any.
    hold_s: Annotated[float, Field(gt=0)] | None = None


class Cancel(Message):
    """An order to stop an attempt."""

    attempt_id: int
    mode: Literal["graceful", "abort"]
    reason: Reason


class Quarantine(Message):
    """The worker's attempts died of its own fault, one after another: it is offered nothing."""

    #: What the last one died of.
    reason: str
    #: Seconds until it is offered one task, to try it.
    left_s: float


class HeartbeatResponse(Message):
    """`known` keep their lease; `cancel` and `unknown` are killed, their results dropped."""

    known: list[int]
    cancel: list[Cancel] = Field(default_factory=list)
    unknown: list[int] = Field(default_factory=list)
    directives: list[Literal["drain", "pause"]] = Field(default_factory=list)
    quarantine: Quarantine | None = None
    intervals: Intervals


class Coverage(Message):
    """How much of what was to be analysed was: an honest green needs `failed` = 0."""

    planned: Count = 0
    analysed: Count = 0
    skipped: Count = 0
    failed: Count = 0


class LineCount(Message):
    """Lines of one language. `total` = code + comment + blank."""

    language: Label
    files: Count = 0
    code: Count
    comment: Count
    blank: Count


class PrepareReport(Message):
    """What the preparation found."""

    #: Files in the scan's scope.
    files: Count
    #: Files in scope by language.
    languages: dict[Label, Count] = Field(max_length=1000)
    #: What the base is to the head; `none` where no base was given.
    base: Literal["none", "ancestor", "history_rewritten", "base_unreachable"] = "none"
    #: Files in scope that differ from the base.
    changed: Count = 0
    #: Languages of the changed files.
    changed_languages: dict[Label, Count] = Field(default_factory=dict, max_length=1000)
    #: Configuration of an engine changed in the repository (and the scheme lets it count).
    config_changed: bool = False


class ArtifactRef(Message):
    """An artifact uploaded before the result."""

    name: ArtifactName
    size_bytes: Count
    sha256: Sha256


class AttemptResult(Message):
    """How one attempt ended."""

    attempt_id: Id
    lease_token: Secret
    outcome: Outcome
    #: Why it did not succeed; None with `succeeded`.
    reason: Reason | None = None
    message: Annotated[Text, Field(max_length=4000)] = ""
    exit_code: int | None = Field(default=None, ge=-255, le=2**31 - 1)
    signal: int | None = Field(default=None, ge=1, le=128)
    engine_version: Annotated[Text, Field(max_length=64)] = ""
    coverage: Coverage = Coverage()
    #: Findings by severity (`error`, `warning`, `info`).
    findings: dict[Label, Count] = Field(default_factory=dict, max_length=16)
    lines: list[LineCount] | None = Field(default=None, max_length=500)
    prepare: PrepareReport | None = None
    #: Bytes of log sent; the server answers `log_incomplete` when it has fewer.
    log_bytes: Count = 0
    artifacts: list[ArtifactRef] = Field(default_factory=list, max_length=32)
    #: Seconds by step (`checkout`, `run`, `collect`).
    timings_s: dict[Label, float] = Field(default_factory=dict, max_length=16)


class ResultsRequest(Message):
    """`POST /worker/v1/results`. The same body again gets the same answer."""

    results: list[AttemptResult] = Field(min_length=1, max_length=256)


class ResultVerdict(Message):
    """What became of one result. `lease_lost`: drop it; the rest of the negatives: mend, resend."""

    attempt_id: int
    verdict: Literal["accepted", "lease_lost", "log_incomplete", "artifact_missing"]
    #: With `log_incomplete`: bytes the server has.
    log_bytes: int | None = None


class ResultsResponse(Message):
    results: list[ResultVerdict]


class GoodbyeRequest(Message):
    """`POST /worker/v1/goodbye`: what was only offered returns to the queue at once."""

    reason: Annotated[Text, Field(max_length=500)] = ""


class GoodbyeResponse(Message):
    released: int


class ErrorResponse(Message):
    """Any refused call."""

    status_code: int
    code: int | str
    msg: str


# The document `result.json`, uploaded as an artifact of that name by every engine attempt and
# served at a task's `result_path`.
RESULT_ARTIFACT = "result.json"


class Finding(Message):
    """One thing an engine reports. Paths are relative to the repository's root."""

    path: Annotated[Text, Field(max_length=4096)]
    line: Count = 0
    column: Count = 0
    rule: Annotated[Text, Field(max_length=200)]
    severity: Literal["error", "warning", "info"]
    message: Annotated[Text, Field(max_length=4000)]


class FileFailure(Message):
    """A file an engine could not analyse."""

    path: Annotated[Text, Field(max_length=4096)]
    message: Annotated[Text, Field(max_length=1000)]


class EngineReport(Message):
    """What an engine found, in Kennel's own form: the content of `result.json`."""

    engine: Label
    engine_version: str
    revision: str
    base_revision: str | None = None
    coverage: Coverage
    failures: list[FileFailure] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    lines: list[LineCount] | None = None
    #: Name and version of the line counter, beside the numbers it made.
    counter: str | None = None
