"""The engines Kennel ships: their names, modules and languages, as data.

The server checks schemes against this table without importing an engine; the worker's engines
take their facts from it. An engine of somebody else's worker is known once it was offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Module = Literal["codelint", "codemetric"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is known of an engine before any worker offers it."""

    name: str
    #: Linters are `codelint`; line counts, complexity and duplication are `codemetric`.
    module: Module
    #: Languages it analyses; empty: any.
    languages: tuple[str, ...] = ()
    #: Analyses the files it is given as one program: a finding in one file may depend on others.
    is_project_mode: bool = False


LINES = EngineInfo("lines", "codemetric")
PYLINT = EngineInfo("pylint", "codelint", ("python",), is_project_mode=True)
RUFF = EngineInfo("ruff", "codelint", ("python",))

BUILT_IN: Mapping[str, EngineInfo] = MappingProxyType(
    {info.name: info for info in (LINES, PYLINT, RUFF)}
)
