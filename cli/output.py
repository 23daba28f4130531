"""Where a command's words go: answers to standard output, everything else to standard error.

Tables and colour only on a terminal; elsewhere a table is lines with tabs between the cells, so
that `cut` and `awk` work. Nothing here prints markup that came from outside.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from cli.text import printable
from core.domain.errors import KennelError


class ReaderGone(KennelError):
    """Whoever reads our output has what it wants: `kennel jobs list | head`."""


def say(text: str = "", *, to: IO[str] | None = None) -> None:
    """Print a line of Kennel's own; what it quotes has been made printable by the caller."""
    stream = to or sys.stdout
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """Print a line that is not the answer: to standard error."""
    say(text, to=sys.stderr)


def print_json(value: Any) -> None:
    """Print *value* as indented JSON; control characters are escaped by the format itself."""
    import json

    # ASCII only: safe for every terminal and every locale.
    say(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print *rows* below *columns*, as a table on a terminal; *empty* says that there are none."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in cells:
            say("\t".join(line))
        return
    if not cells:
        note(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in cells:
        # As Text: brackets in a name are no markup.
        table.add_row(*(Text(cell) for cell in line))
    Console(file=sys.stdout).print(table)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line, the values in one column."""
    pairs = [(name, printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"{name:<{width}}  {value}".rstrip())
