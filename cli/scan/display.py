"""Show a job while it runs: bars that move on a terminal, a line on each change elsewhere.

Writes to standard error: standard output belongs to the summary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from cli.output import note
from cli.scan.following import CLOSED, RUNNING, STATE_WORDS, WAITING
from cli.text import number, plural, printable, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: A plain line is printed when progress crosses a multiple of this, percent.
_STEP = 25
_LONGEST_NAME = 32


class Display(Protocol):
    """Where the details of a job go while it runs."""

    def show(self, detail: dict[str, Any]) -> None:
        """Show how the job stands."""
        ...


@contextmanager
def open_display(*, is_quiet: bool = False) -> Iterator[Display]:
    """Lend the display that suits standard error."""
    if is_quiet:
        yield _Nothing()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        # No markup in a name that came over the wire.
        bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            console=Console(file=sys.stderr),
            transient=False,
        )
        with bars:
            yield _Bars(bars)
    else:
        yield _Lines()


def task_words(task: dict[str, Any]) -> str:
    """Return how a task stands: its state, its files, its ending."""
    words = [STATE_WORDS.get(task["state"], "?")]
    coverage = task.get("coverage")
    if coverage:
        words = [files_words(coverage)]
    if task["state"] == CLOSED and task["result_code"]:
        words.append(f"{task['result_code']}: {printable(task['result_msg'], longest=80)}")
    return ", ".join(words)


def files_words(coverage: dict[str, int]) -> str:
    """Return what of its files a task analysed."""
    words = plural(coverage["analysed"], "file")
    if coverage.get("skipped"):
        words += f" ({number(coverage['skipped'])} skipped)"
    if coverage.get("failed"):
        words += f", {number(coverage['failed'])} could not be analysed"
    return words


class _Nothing:
    def show(self, detail: dict[str, Any]) -> None:
        """Show nothing."""


class _Lines:
    """One line a change."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said: dict[int, str] = {}

    def show(self, detail: dict[str, Any]) -> None:
        self._say(0, f"job {detail['id']}", STATE_WORDS.get(detail["state"], "?"))
        for task in detail["tasks"]:
            words = task_words(task)
            done = task["progress_rate"] // _STEP * _STEP
            if task["state"] == RUNNING and done:
                words = f"{words}, {done} %"
            self._say(task["id"], printable(task["task_name"], longest=_LONGEST_NAME), words)

    def _say(self, key: int, name: str, words: str) -> None:
        if self._said.get(key) != words:
            self._said[key] = words
            note(f"{span(time.monotonic() - self._started):>9}  {name}: {words}")


class _Bars:
    """A bar a task, one for the job above them."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._ids: dict[int, TaskID] = {}

    def show(self, detail: dict[str, Any]) -> None:
        tasks = detail["tasks"]
        whole = sum(task["progress_rate"] for task in tasks) / max(len(tasks), 1)
        is_closed = detail["state"] == CLOSED
        words = STATE_WORDS.get(detail["state"], "?")
        self._update(0, f"job {detail['id']}", 100 if is_closed else whole, words, True)
        for task in tasks:
            name = printable(task["task_name"], longest=_LONGEST_NAME)
            has_begun = task["state"] != WAITING
            self._update(
                task["id"], f"  {name}", task["progress_rate"], task_words(task), has_begun
            )

    def _update(self, key: int, name: str, done: float, words: str, has_begun: bool) -> None:
        if key not in self._ids:
            self._ids[key] = self._bars.add_task(name, total=100, start=False, words=words)
        bar = self._ids[key]
        if has_begun and self._bars.tasks[self._bars.task_ids.index(bar)].start_time is None:
            self._bars.start_task(bar)
        self._bars.update(bar, completed=done, words=words)
