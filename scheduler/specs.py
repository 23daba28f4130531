"""From a job and its scheme to what a worker is told, and the hash that tells two schemes apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.domain.errors import ScmError
from core.domain.scm import parse_scm_url
from core.domain.states import Isolation
from core.protocol.messages import Source, TaskLimits
from core.store.admissions import JobPlan
from core.store.classes import PREPARE, Requirement

MIB = 2**20
#: Wall time of an engine whose scheme names none, seconds.
ENGINE_WALL_S = 3600.0
#: A preparation is one fetch and one comparison, seconds.
PREPARE_WALL_S = 1800.0
#: Killed when it printed nothing and finished no file for this long, seconds.
IDLE_S = 900.0
OUTPUT_BYTES = 64 * MIB
FILE_BYTES = 256 * MIB
MEMORY_BYTES = 4096 * MIB


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine of a scheme, as it will run."""

    name: str
    version_range: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    rules_include: tuple[str, ...] = ()
    rules_exclude: tuple[str, ...] = ()
    #: Seconds; None: the default.
    time_limit_s: float | None = None

    @classmethod
    def from_scheme(cls, entry: Mapping[str, Any]) -> EngineChoice:
        """Read an entry of a scheme's `engines`."""
        rules = entry.get("rules") or {}
        return cls(
            name=entry["name"],
            version_range=entry.get("version") or "",
            config=entry.get("config") or {},
            rules_include=tuple(rules.get("include") or ()),
            rules_exclude=tuple(rules.get("exclude") or ()),
            time_limit_s=entry.get("time_limit"),
        )


def config_hash(job: JobPlan) -> str:
    """Return the hash of all a scheme says about results: another hash asks for a full scan."""
    facts = {
        "engines": job.engines,
        "languages": sorted(job.languages),
        "inclusion": sorted(job.inclusion),
        "exclusion": sorted(job.exclusion),
        "scan_path": job.scan_path,
        "allow_repo_config": job.allow_repo_config,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def requirement(job: JobPlan, choice: EngineChoice) -> Requirement:
    """Return what an engine's task requires of a worker."""
    return Requirement(
        engine=choice.name,
        version_range=choice.version_range,
        tag=job.tag or "",
        # A repository whose configuration counts may run code: never beside the worker itself.
        isolation=Isolation.BWRAP if job.allow_repo_config else Isolation.GROUP,
    )


def prepare_requirement(job: JobPlan) -> Requirement:
    """Return what the preparation of a job requires of a worker."""
    return Requirement(engine=PREPARE, tag=job.tag or "")


def prepare_spec(job: JobPlan, *, revision: str, base_revision: str | None) -> dict[str, Any]:
    """Return the spec of a job's preparation."""
    return _spec(job, revision, base_revision) | {"limits": _limits(PREPARE_WALL_S)}


def engine_spec(
    job: JobPlan, choice: EngineChoice, *, revision: str, base_revision: str | None
) -> dict[str, Any]:
    """Return the spec of one engine's task."""
    return _spec(job, revision, base_revision) | {
        "config": dict(choice.config),
        "rules_include": list(choice.rules_include),
        "rules_exclude": list(choice.rules_exclude),
        "limits": _limits(choice.time_limit_s or ENGINE_WALL_S),
    }


def _spec(job: JobPlan, revision: str, base_revision: str | None) -> dict[str, Any]:
    source = Source(
        scm_url=job.scm_url,
        branch=job.branch,
        revision=revision,
        base_revision=base_revision,
        scan_path=job.scan_path,
        is_local=_is_local(job.scm_url),
        # A mirror belongs to one registered repository, so that no owner sees another's objects.
        cache_key=f"repo-{job.repo_id}",
    )
    return {
        "source": source.model_dump(mode="json", exclude={"auth"}),
        "languages": list(job.languages),
        "inclusion": list(job.inclusion),
        "exclusion": list(job.exclusion),
        "allow_repo_config": job.allow_repo_config,
    }


def _is_local(url: str) -> bool:
    try:
        return parse_scm_url(url, allow_local=True).is_local
    except ScmError:
        # Refused when it is resolved, with the reason.
        return False


def _limits(wall_s: float) -> dict[str, Any]:
    limits = TaskLimits(
        wall_s=wall_s,
        idle_s=min(IDLE_S, wall_s),
        output_bytes=OUTPUT_BYTES,
        file_bytes=FILE_BYTES,
        memory_bytes=MEMORY_BYTES,
    )
    return limits.model_dump(mode="json")
