"""Count code, comment and blank lines of files by language; a process of its own, in the sandbox.

Runs as `python -I -S lines_counter.py FILES RESULT PROGRESS` in the source: FILES is a JSON list
of relative paths, RESULT gets the counts as JSON, PROGRESS one line a file. It reads files as
bytes and imports nothing of the source. The definitions are in `docs/lines.md`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: our own packages lie two folders above
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from core.domain.languages import HEAD_BYTES, language_of, needs_head
from worker.engines.lines_syntax import Compiled, compiled

#: Name and version of the definitions: it changes whenever a number may.
COUNTER = "kennel-lines/1"

MAX_FILE_BYTES = 16 * 1024 * 1024
#: A NUL in this much of a file's head makes it binary.
BINARY_PROBE_BYTES = 8 * 1024

SKIPPED_UNKNOWN = "no known language"
SKIPPED_BINARY = "binary"
SKIPPED_LARGE = "larger than 16 MiB"
SKIPPED_SPECIAL = "not a regular file"

_BOM = b"\xef\xbb\xbf"
#: Letters that may stand before the quotes of a docstring.
_STRING_PREFIX = b"rRbBuUfF"


@dataclass(slots=True)
class Counts:
    """Lines of one language."""

    files: int = 0
    code: int = 0
    comment: int = 0
    blank: int = 0


@dataclass(slots=True)
class Tally:
    """What a run has counted so far."""

    languages: dict[str, Counts] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    counted: int = 0

    def add(self, path: str) -> None:
        """Count one file, or note why not."""
        try:
            found = _read(path)
        except OSError as error:
            self.failed.append((path, error.strerror or str(error)))
            return
        if isinstance(found, str):
            self.skipped[found] = self.skipped.get(found, 0) + 1
            return
        language, content = found
        counts = self.languages.setdefault(language, Counts())
        code, comment, blank = count_lines(content, language)
        counts.files += 1
        counts.code += code
        counts.comment += comment
        counts.blank += blank
        self.counted += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "counter": COUNTER,
            "languages": {
                name: {
                    "files": counts.files,
                    "code": counts.code,
                    "comment": counts.comment,
                    "blank": counts.blank,
                }
                for name, counts in sorted(self.languages.items())
            },
            "counted": self.counted,
            "skipped": self.skipped,
            "failed": self.failed,
        }


def count_lines(content: bytes, language: str) -> tuple[int, int, int]:
    """Return code, comment and blank lines of *content*."""
    lines = content.removeprefix(_BOM).split(b"\n")
    if not lines[-1]:
        lines.pop()
    # A shebang line does something: code, though `#` begins a comment in most such languages.
    shebang = int(content.startswith(b"#!"))
    code, comment, blank = _Scan(compiled(language)).count(lines[shebang:])
    return code + shebang, comment, blank


class _Scan:
    """One file's way through the state machine: between comments, in a block, in a text."""

    __slots__ = ("closer", "depth", "is_comment", "opener", "syntax")

    def __init__(self, syntax: Compiled) -> None:
        self.syntax = syntax
        #: What opened the block or text we are in; b"" between them.
        self.opener = b""
        self.closer = b""
        self.depth = 0
        #: What we are in is a comment (a block, a docstring), not a string.
        self.is_comment = False

    def count(self, lines: list[bytes]) -> tuple[int, int, int]:
        code = comment = blank = 0
        syntax = self.syntax
        token, head = syntax.token, syntax.head
        if syntax.sections:
            lines, comment, blank = self._without_sections(lines)
        for line in lines:
            if not line or line.isspace():
                blank += 1
            elif head is not None and head.match(line):
                comment += 1
            elif (  # the cheap test first: most lines hold no marker at all
                not self.opener and (token is None or token.search(line) is None)
            ) or self._holds_code(line):
                code += 1
            else:
                comment += 1
        return code, comment, blank

    def _without_sections(self, lines: list[bytes]) -> tuple[list[bytes], int, int]:
        """Take out blocks of whole comment lines (`=begin`, POD) and what follows the end."""
        rest: list[bytes] = []
        comment = blank = 0
        stop = None
        is_over = False
        for line in lines:
            is_inside = is_over or stop is not None
            if stop is not None and stop.match(line):
                stop = None
            elif not is_inside:
                is_over = self.syntax.end is not None and bool(self.syntax.end.match(line))
                stop = next((b for a, b in self.syntax.sections if a.match(line)), None)
                is_inside = is_over or stop is not None
            if not is_inside:
                rest.append(line)
            elif not line or line.isspace():
                blank += 1
            else:
                comment += 1
        return rest, comment, blank

    def _holds_code(self, line: bytes) -> bool:
        """Walk through one line that is not blank and tell whether any of it is code."""
        at = 0
        has_code = False
        while at < len(line):
            if self.opener:
                has_code = has_code or not self.is_comment
                at = self._leave(line, at)
                continue
            found = self.syntax.token.search(line, at) if self.syntax.token else None
            if found is None:
                return has_code or bool(line[at:].strip())
            before = line[at : found.start()].strip()
            marker = found.group()
            at = found.end()
            text = self.syntax.texts.get(marker)
            if found.lastgroup == "atom":
                has_code = True
            elif text is not None:
                is_first = not has_code and not before.lstrip(_STRING_PREFIX)
                is_docstring = text.is_docstring and is_first
                self._enter(marker, text.closer, is_comment=is_docstring)
                has_code = not is_docstring
            else:
                has_code = has_code or bool(before)
                if marker not in self.syntax.closers:  # the rest of the line is comment
                    return has_code
                self._enter(marker, self.syntax.closers[marker], is_comment=True)
        return has_code

    def _enter(self, opener: bytes, closer: bytes, *, is_comment: bool) -> None:
        self.opener, self.closer, self.depth, self.is_comment = opener, closer, 1, is_comment

    def _leave(self, line: bytes, at: int) -> int:
        """Return where the block or text ends in *line*: its length when it goes on."""
        text_end = self.syntax.text_ends.get(self.opener)
        if text_end is not None:
            return self._leave_text(line, at, text_end)
        if self.syntax.is_nested:
            return self._leave_nested(line, at)
        end = line.find(self.closer, at)
        if end < 0:
            return len(line)
        self.opener = b""
        return end + len(self.closer)

    def _leave_text(self, line: bytes, at: int, text_end: re.Pattern[bytes]) -> int:
        for found in text_end.finditer(line, at):
            if found.group() == self.closer:
                self.opener = b""
                return found.end()
        return len(line)

    def _leave_nested(self, line: bytes, at: int) -> int:
        for found in self.syntax.nesting[self.opener].finditer(line, at):
            self.depth += -1 if found.group() == self.closer else 1
            if self.depth == 0:
                self.opener = b""
                return found.end()
        return len(line)


def _read(path: str) -> tuple[str, bytes] | str:
    """Return the language and content of a file, or why it is not counted."""
    if not needs_head(path) and language_of(path) is None:
        return SKIPPED_UNKNOWN
    # NONBLOCK and NOFOLLOW: the tree was written by others; a pipe in it must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return SKIPPED_SPECIAL
        if status.st_size > MAX_FILE_BYTES:
            return SKIPPED_LARGE
        head = stream.read(BINARY_PROBE_BYTES)
        if b"\0" in head:
            return SKIPPED_BINARY
        language = language_of(path, head[:HEAD_BYTES])
        if language is None:
            return SKIPPED_UNKNOWN
        return language, head + stream.read(MAX_FILE_BYTES)


def main(arguments: list[str]) -> int:
    """Count the files listed in the first argument; results and progress go to the others."""
    if arguments == ["--version"]:
        sys.stdout.write(COUNTER + "\n")
        return 0
    files, result, progress = map(Path, arguments)
    tally = Tally()
    with progress.open("ab", buffering=0) as finished:
        for path in json.loads(files.read_bytes()):
            tally.add(path)
            finished.write(json.dumps(path).encode() + b"\n")
    result.write_text(json.dumps(tally.as_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
