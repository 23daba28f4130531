"""Write the generated parts of the documents: what the code holds as data is not typed twice.

A generated part stands between `<!-- generated: NAME … -->` and `<!-- end -->`. With `--write` all
are renewed; without, the stale ones are named and the exit status is 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pydantic import ByteSize
from pydantic_core import PydanticUndefined

from api.operations import ORGS
from api.routes import all_operations
from cli.exits import MEANINGS
from cli.main import app
from core.domain.codes import TEXTS, ResultCode
from core.domain.outcomes import (
    CODE_OF_REASON,
    CONTESTED_FAULTS,
    REPORTABLE,
    RETRYABLE,
    WORKER_FAULTS,
    Reason,
)
from core.domain.states import (
    FIRST_PLACES,
    MOVES,
    STARTED_PHASES,
    STATE_OF_PHASE,
    STATE_OF_PLACE,
    TABLE_OF_PLACE,
    TRANSITIONS,
    JobPhase,
    TaskPlace,
)
from core.domain.waiting import MEANINGS as WAIT_MEANINGS
from core.runtime.environment import Variable
from core.runtime.settings import VARIABLES
from scripts.command_reference import reference

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(
    r"(?P<open><!-- generated: (?P<name>[\w-]+)[^\n]*-->\n).*?(?P<close><!-- end -->)", re.DOTALL
)


def job_phases() -> Iterator[str]:
    """Yield the diagram of a job's phases and the table of what they are on the wire."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"  [*] --> {JobPhase.WAITING}"
    for phase in JobPhase:
        for following in JobPhase:
            if following in TRANSITIONS[phase]:
                yield f"  {phase} --> {following}"
        if not TRANSITIONS[phase]:
            yield f"  {phase} --> [*]"
    yield "```"
    yield ""
    yield "| phase | `state` on the wire | holds the project |"
    yield "|---|---|---|"
    for phase in JobPhase:
        state = STATE_OF_PHASE[phase]
        holds = "yes" if phase in STARTED_PHASES else "no"
        yield f"| `{phase}` | {state:d} {state.name.lower()} | {holds} |"


def task_places() -> Iterator[str]:
    """Yield the diagram of where a task goes and the table of what its places are."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    for place in TaskPlace:
        if place in FIRST_PLACES:
            yield f"  [*] --> {place}"
    for place in TaskPlace:
        for following, name in MOVES[place].items():
            yield f"  {place} --> {following}: {name}"
        if not MOVES[place]:
            yield f"  {place} --> [*]"
    yield "```"
    yield ""
    yield "| place | table | `state` on the wire |"
    yield "|---|---|---|"
    for place in TaskPlace:
        state = STATE_OF_PLACE[place]
        yield f"| `{place}` | `{TABLE_OF_PLACE[place]}` | {state:d} {state.name.lower()} |"


def result_codes() -> Iterator[str]:
    """Yield the table of result codes with both texts."""
    used = {int(code) for code in ResultCode}
    yield "| code | used | text | in English |"
    yield "|---|---|---|---|"
    for code, (chinese, english) in sorted(TEXTS.items()):
        yield f"| {code} | {'●' if code in used else ''} | {chinese} | {english} |"


def reasons() -> Iterator[str]:
    """Yield the table of reasons: code, whose word it is, what comes of the task and the worker."""
    yield "| reason | result code | said by | tried again | counts against the worker |"
    yield "|---|---|---|---|---|"
    for reason in Reason:
        code = CODE_OF_REASON[reason]
        speaker = "worker" if reason in REPORTABLE else "server"
        again = "yes" if reason in RETRYABLE else "no"
        blame = "yes" if reason in WORKER_FAULTS else "no"
        if reason in CONTESTED_FAULTS:
            blame = "once another succeeds"
        yield f"| `{reason}` | {code:d} {TEXTS[code][1]} | {speaker} | {again} | {blame} |"


def wait_reasons() -> Iterator[str]:
    """Yield the table of why jobs and tasks are not closed yet."""
    yield "| reason | meaning |"
    yield "|---|---|"
    for reason, meaning in WAIT_MEANINGS.items():
        yield f"| `{reason}` | {meaning} |"


def secrets() -> Iterator[str]:
    """Yield the settings that are secrets, each with the name of its credential."""
    for variable in VARIABLES:
        if variable.is_secret:
            yield f"* `{variable.env}`: `{variable.credential}`"


def settings(group: str) -> Iterator[str]:
    """Yield the table of the settings of a group; "" for those of none."""
    yield "| setting | default | unit | meaning |"
    yield "|---|---|---|---|"
    for variable in VARIABLES:
        *groups, name = variable.path
        if "".join(groups) == group:
            unit = "seconds" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""
            cells = (f"`{variable.env}`", _default(variable), unit, variable.field.description)
            yield f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |")


def _default(variable: Variable) -> str:
    default = variable.field.default
    if default is PydanticUndefined:
        return "see there"
    if default is None:
        return "none"
    if default == ():
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, ByteSize):
        return f"`{default.human_readable().replace('.0', '')}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default!s}`"


GROUPS = sorted({variable.path[0] for variable in VARIABLES if len(variable.path) > 1})


def operations() -> Iterator[str]:
    """Yield the table of every operation and who may call it."""
    yield "| call | who may |"
    yield "|---|---|"
    for operation in all_operations():
        if operation.is_documented:
            # A line of the table is a line of text: paths are shortened as in the other documents.
            path = operation.path.replace(ORGS, "B").replace("{", "<").replace("}", ">")
            yield f"| `{operation.method} {path}` | {operation.access.value} |"


def commands() -> Iterator[str]:
    """Yield the reference of every command and option."""
    yield from reference(app, "kennel")


def exit_statuses() -> Iterator[str]:
    """Yield the table of exit statuses."""
    yield "| status | meaning |"
    yield "|---|---|"
    for code, meaning in MEANINGS.items():
        yield f"| {code.value} | {meaning} |"


GENERATORS: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "exit-statuses": exit_statuses,
    "job-phases": job_phases,
    "operations": operations,
    "reasons": reasons,
    "result-codes": result_codes,
    "secrets": secrets,
    "settings": partial(settings, ""),
    "wait-reasons": wait_reasons,
    "task-places": task_places,
    **{f"settings-{group}": partial(settings, group) for group in GROUPS},
}


def renewed(text: str) -> str:
    """Return *text* with every generated part as it should be."""

    def renew(match: re.Match[str]) -> str:
        lines = "\n".join(GENERATORS[match["name"]]())
        return f"{match['open']}\n{lines}\n\n{match['close']}"

    return BLOCK.sub(renew, text)


def stale_documents() -> dict[Path, str]:
    """Return the documents whose generated parts are out of date, with their right text."""
    documents = {path: path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {path: new for path, old in documents.items() if (new := renewed(old)) != old}


def main() -> int:
    """Write or check, as the command line says."""
    stale = stale_documents()
    for path, text in stale.items():
        if "--write" in sys.argv[1:]:
            path.write_text(text, "utf-8")
            print(f"written: docs/{path.relative_to(DOCS)}")
        else:
            print(f"stale: docs/{path.relative_to(DOCS)} (make docs renews it)")
    return 1 if stale and "--write" not in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
