"""What the registry takes and answers: organisations, teams, repositories, schemes, projects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict

from api.pagination import PageQuery
from api.schemas.common import (
    CHANGE,
    Id,
    Line,
    RequestBody,
    Text,
    Word,
    integral,
    json_size,
)
from core.domain.states import ActiveJobPolicy, FailOn

Channel = Annotated[Line, Field(min_length=1, max_length=32)]
DisplayName = Annotated[Line, Field(min_length=1, max_length=128)]

# --- organisations and teams --------------------------------------------------------------------


Weight = Annotated[
    int,
    Field(ge=1, le=100, description="Share of the queue beside its equals: 2 gets twice of 1."),
    BeforeValidator(integral),
]
MaxRunning = Annotated[
    int,
    Field(
        ge=0,
        le=1_000_000,
        description="Tasks in the queue and on workers at the same time; null: not limited, "
        "0: none starts.",
    ),
    BeforeValidator(integral),
]


class OrgCreate(RequestBody):
    """`org_sid` is part of every path and never changes."""

    org_sid: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
    name: DisplayName | None = Field(default=None, description="Default: `org_sid`.")
    weight: Weight = 1
    max_running: MaxRunning | None = None


class OrgChange(RequestBody):
    """What is absent stays; `weight` and `max_running` only by an admin of all organisations."""

    model_config = CHANGE

    name: DisplayName = ""
    weight: Weight = 1
    max_running: MaxRunning | None = None


class OrgAnswer(TypedDict):
    """An organisation."""

    org_sid: str
    name: str
    weight: int
    max_running: int | None
    created_time: str


class TeamCreate(RequestBody):
    """`name` is part of paths."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
    display_name: DisplayName | None = Field(default=None, description="Default: `name`.")


class TeamAnswer(TypedDict):
    """A team."""

    name: str
    display_name: str
    org_sid: str
    created_time: str


# --- repositories -------------------------------------------------------------------------------

Secret = Annotated[Text, Field(min_length=1, max_length=16384)]


class ScmAuth(RequestBody):
    """Credentials of a repository; stored sealed, never answered."""

    scm_username: Annotated[Line, Field(max_length=256)] | None = None
    scm_password: Secret | None = Field(default=None, description="Password or access token.")
    private_key: Secret | None = Field(
        default=None, description="Deploy key in PEM or OpenSSH form, for ssh."
    )


ScmUrl = Annotated[Text, Field(min_length=1, max_length=2000)]
RepoName = Annotated[Line, Field(min_length=1, max_length=128)]


class RepoCreate(RequestBody):
    """A repository of a team; the same address once a team."""

    scm_url: ScmUrl
    scm_type: Annotated[Line, Field(max_length=16, description="`git`; nothing else is served.")]
    name: RepoName | None = Field(default=None, description="Default: last part of the URL.")
    scm_auth: ScmAuth | None = None
    created_from: Channel = "api"


class RepoChange(RequestBody):
    """What is absent stays; `scm_auth: null` takes the credentials away."""

    model_config = CHANGE

    scm_url: ScmUrl = ""
    name: RepoName = ""
    scm_auth: ScmAuth | None = None


class RepoQuery(PageQuery):
    """Which repositories."""

    scm_url: Text | None = None
    scm_url_or_name: Text | None = Field(
        default=None, description="Part of the address or of the name, in any case."
    )


class RepoAnswer(TypedDict):
    """A repository; never its credentials."""

    id: int
    name: str
    scm_url: str
    scm_type: str
    branch_count: int
    scheme_count: int
    job_count: int
    created_time: str
    #: Creation of the last job; null before the first.
    recent_active: str | None
    created_from: str
    creator: str


# --- schemes ------------------------------------------------------------------------------------


def _version_range(value: str) -> str:
    try:
        return str(SpecifierSet(value))
    except InvalidSpecifier:
        raise ValueError("must be a version range as in PEP 440, such as '>=4,<5'") from None


def _glob(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError("must be a pattern below the repository's root, without '..'")
    return value


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Globs = Annotated[
    list[Annotated[Line, Field(min_length=1, max_length=512), AfterValidator(_glob)]],
    Field(max_length=1000),
]
Rules = Annotated[
    list[Annotated[Line, Field(min_length=1, max_length=128)]], Field(max_length=5000)
]


class RuleChoice(RequestBody):
    """Rules by their name in the engine."""

    include: Rules = Field(default_factory=list)
    exclude: Rules = Field(default_factory=list)


class EngineChoice(RequestBody):
    """An engine a scheme runs."""

    name: Word
    version: Annotated[str, Field(max_length=128), AfterValidator(_version_range)] = Field(
        default="", description="PEP 440 range; empty: any."
    )
    config: Annotated[dict[str, Any], json_size(65536)] = Field(
        default_factory=dict, description="The engine's own configuration."
    )
    rules: RuleChoice = RuleChoice()
    time_limit: Annotated[int, Field(ge=1, le=604800), BeforeValidator(integral)] | None = Field(
        default=None, description="Seconds; null: the scheme's limit."
    )


Engines = Annotated[
    list[
        Annotated[EngineChoice, BeforeValidator(_named, json_schema_input_type=Word | EngineChoice)]
    ],
    Field(min_length=1, max_length=100),
]


class PathFilters(RequestBody):
    """Which files count; nothing in `inclusion` means all."""

    inclusion: Globs = Field(default_factory=list)
    exclusion: Globs = Field(default_factory=list)


SchemeName = Annotated[Line, Field(min_length=1, max_length=128)]
Description = Annotated[Text, Field(max_length=4000)]
Languages = Annotated[list[Word], Field(max_length=100)]
Minutes = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(integral)]
Priority = Annotated[int, Field(ge=-100, le=100), BeforeValidator(integral)]
SchemeStatus = Annotated[
    int, Field(ge=1, le=2, description="1 active, 2 disused."), BeforeValidator(integral)
]


# Functions: from Python 3.12 on an enumeration's own signature is no validator's.
def _policy(value: str) -> ActiveJobPolicy:
    return ActiveJobPolicy(value)


def _fail_rule(value: str) -> FailOn:
    return FailOn(value)


Policy = Annotated[Literal["queue", "reject", "join"], AfterValidator(_policy)]
FailRule = Annotated[Literal["any_task", "all_tasks"], AfterValidator(_fail_rule)]


class SchemeCreate(RequestBody):
    """Which engines with which rules, on which paths, within which limits."""

    name: SchemeName
    description: Description = ""
    languages: Languages = Field(default_factory=list)
    tag: Word | None = Field(default=None, description="Only workers with this tag.")
    default_flag: bool = False
    job_runtime_limit: Minutes = Field(default=600, description="Minutes.")
    status: SchemeStatus = 1
    engines: Engines | None = Field(
        default=None, description="Names or objects; null: `lines` and every engine that fits."
    )
    path_filters: PathFilters = PathFilters()
    active_job_policy: Policy | None = Field(default=None, description="null: the server's.")
    fail_on: FailRule = FailOn.ANY_TASK.value
    partial_fails: bool = False
    cancel_siblings: bool = False
    allow_repo_config: bool = False
    priority: Priority = 0


class SchemeChange(SchemeCreate):
    """What is absent stays."""

    model_config = CHANGE

    name: SchemeName = ""


class SchemeQuery(PageQuery):
    """Which schemes."""

    name: Text | None = Field(default=None, description="Part of the name, in any case.")
    status: Annotated[int, Field(ge=1, le=2)] | None = None


class RuleChoiceAnswer(TypedDict):
    """Rules by their name in the engine."""

    include: list[str]
    exclude: list[str]


class EngineChoiceAnswer(TypedDict):
    """An engine a scheme runs."""

    name: str
    version: str
    config: dict[str, Any]
    rules: RuleChoiceAnswer
    time_limit: int | None


class PathFiltersAnswer(TypedDict):
    """Which files count."""

    inclusion: list[str]
    exclusion: list[str]


class SchemeAnswer(TypedDict):
    """A scan scheme."""

    id: int
    #: Id of its repository.
    repo: int
    name: str
    description: str
    languages: list[str]
    tag: str | None
    default_flag: bool
    job_runtime_limit: int
    status: int
    engines: list[EngineChoiceAnswer] | None
    path_filters: PathFiltersAnswer
    active_job_policy: str | None
    fail_on: str
    partial_fails: bool
    cancel_siblings: bool
    allow_repo_config: bool
    priority: int
    created_time: str
    modified_time: str


# --- projects -----------------------------------------------------------------------------------

ProjectStatus = Annotated[
    int,
    Field(ge=1, le=3, description="1 active, 2 inactive, 3 closed."),
    BeforeValidator(integral),
]


class ProjectCreate(RequestBody):
    """A branch to be scanned; the same branch, scheme and sub-folder once a repository."""

    branch: Annotated[Text, Field(min_length=1, max_length=255)]
    scan_scheme_id: Id | None = Field(
        default=None, description="Default: the repository's default scheme, made on first use."
    )
    scan_path: Annotated[Text, Field(max_length=1024)] = Field(
        default="", description="Sub-folder; empty: the whole repository."
    )
    created_from: Channel = "api"


class ProjectChange(RequestBody):
    """What is absent stays."""

    model_config = CHANGE

    status: ProjectStatus = 1
    weight: Weight = 1
    max_running: MaxRunning | None = None


class ProjectQuery(PageQuery):
    """Which projects."""

    branch: Text | None = None
    scan_scheme: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    status: Annotated[int, Field(ge=1, le=3)] | None = None


class ProjectRepo(TypedDict):
    """The repository of a project."""

    id: int
    name: str
    scm_url: str
    scm_type: str


class ProjectScheme(TypedDict):
    """The scheme of a project."""

    id: int
    name: str
    languages: list[str]
    default_flag: bool
    status: int


class ProjectAnswer(TypedDict):
    """A project."""

    id: int
    branch: str
    status: int
    scan_path: str
    created_from: str
    repo: ProjectRepo
    scan_scheme: ProjectScheme
    weight: int
    max_running: int | None
    creator: str
    created_time: str
