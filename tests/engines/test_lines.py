from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.domain.errors import InvalidField
from core.domain.languages import NAMES, language_of
from core.domain.outcomes import Reason
from core.protocol.messages import LineCount
from tests.engines.conftest import MakeTask, Tree
from tests.engines.engine_run import run
from worker.engines.base import Ended, EngineTask
from worker.engines.lines import LinesEngine
from worker.engines.lines_counter import COUNTER, MAX_FILE_BYTES, count_lines
from worker.engines.lines_syntax import SYNTAXES

#: What the counter makes of small samples: language, text, (code, comment, blank).
SAMPLES: list[tuple[str, str, tuple[int, int, int]]] = [
    ("python", '"""Doc.\n\nmore\n"""\nx = 1  # why\n\n# note\n', (1, 4, 2)),
    ("python", 'def f():\n    r"""Doc."""\n    return "#"\n', (2, 1, 0)),
    ("python", 'SQL = """\n-- no comment\n\n# nor this\n"""\n', (4, 0, 1)),
    ("python", 'x = \'"""\'\n# comment\ny = 1\n', (2, 1, 0)),
    ("python", '"""\nnever closed\n', (0, 2, 0)),
    ("python", "#!/usr/bin/env python\n# note\nx = 1\n", (2, 1, 0)),
    ("python", "x = '\\'#'\n'''doc \\''' more\nend'''\n", (1, 2, 0)),
    ("c", 'char *s = "/* no */"; /* yes\n\nstill */ int x;\n// end\n', (2, 1, 1)),
    ("c", "/* a */ /* b */\nint x; // c\n/* d */ int y;\nchar c = '\"'; /*\n*/\n", (3, 2, 0)),
    ("cpp", 'auto s = "\\"// no";\n//\n', (1, 1, 0)),
    ("java", 'String s = """\n  // text\n  """;\n/** doc */\n', (3, 1, 0)),
    ("javascript", "const a = `\n// text\n`;\n/* c */\n", (3, 1, 0)),
    ("typescript", "let a: string = '//';\n// c\n", (1, 1, 0)),
    ("go", "var s = `\n/* raw\n`\n/* block\n*/\n", (3, 2, 0)),
    ("rust", "fn f<'a>(x: &'a str) {}\n/* a /* b */\nc */\nlet q = '\"';\n// d\n", (2, 3, 0)),
    ("rust", 'let s = r#"\n// "raw"\n"#;\n', (3, 0, 0)),
    ("haskell", "{- a {- b -}\nc -}\nx = 1 -- d\n-- e\n", (1, 3, 0)),
    ("ocaml", "(* a (* b *) \n c *)\nlet x = '\"'\n", (1, 2, 0)),
    ("lua", "--[[ a\nb ]]\nlocal s = [[\n-- text\n]]\n-- c\n", (3, 3, 0)),
    ("shell", "#!/bin/sh\n# c\necho '#' # d\n\n", (2, 1, 1)),
    ("ruby", "# a\n=begin\ntext\n\n=end\nputs 1\n__END__\ndata\n", (1, 6, 1)),
    ("perl", "my $x; # a\n=pod\n\ntext\n=cut\n# b\nprint;\n", (2, 4, 1)),
    ("sql", "-- a\nSELECT '--'; /* b\nc */\n", (1, 2, 0)),
    ("html", "<p>\n<!-- a\n\nb -->\n</p><!-- c -->\n", (2, 2, 1)),
    ("css", "/* a */\na { }\n", (1, 1, 0)),
    ("yaml", "# a\nb: '#'\n", (1, 1, 0)),
    ("toml", 'a = """\n# text\n"""\n# b\n', (3, 1, 0)),
    ("json", '{"a": "// b"}\n', (1, 0, 0)),
    ("makefile", "# a\nall:\n\techo # b\n", (2, 1, 0)),
    ("dockerfile", "# a\nFROM x\n", (1, 1, 0)),
    ("batch", "REM a\n:: b\n@rem c\necho rem\n", (1, 3, 0)),
    ("powershell", "<# a\nb #>\nWrite-Host '<#'\n# c\n", (1, 3, 0)),
    ("pascal", "{ a\n}\nx := '{';\n", (1, 2, 0)),
    ("scheme", "#| a #| b |#\nc |#\n(x) ; d\n", (1, 2, 0)),
    ("vhdl", "-- a\nx <= y; -- b\n", (1, 1, 0)),
    ("php", "<?php\n# a\n// b\n/* c */\necho '#';\n", (2, 3, 0)),
    ("markdown", "# Title\n\n<!-- a -->\n", (1, 1, 1)),
    ("c", "\ufeff// bom\n", (0, 1, 0)),
    ("c", "int x;\r\n\r\n// a\r\n", (1, 1, 1)),
    ("c", "", (0, 0, 0)),
    ("c", "int x;", (1, 0, 0)),
]


@pytest.mark.parametrize(("language", "text", "expected"), SAMPLES)
def test_lines_are_classed_as_documented(
    language: str, text: str, expected: tuple[int, int, int]
) -> None:
    assert count_lines(text.encode(), language) == expected


@pytest.mark.parametrize("language", sorted(NAMES))
def test_every_language_can_be_counted_and_no_line_is_lost(language: str) -> None:
    text = Path(__file__).read_bytes()

    assert sum(count_lines(text, language)) == text.count(b"\n")


def test_the_counter_knows_no_language_that_is_not_a_language() -> None:
    assert set(SYNTAXES) == set(NAMES)


@pytest.mark.parametrize("language", sorted(NAMES))
@pytest.mark.timeout(20)
def test_a_line_made_to_be_slow_is_not(language: str) -> None:
    for piece in (b'"', b"'", b"\\", b"/*", b'"""', b"(*", b"`", b"{-", b"<!--", b"/**/", b"''"):
        assert sum(count_lines(piece * 100_000, language)) == 1


def counts(lines: Sequence[LineCount] | None) -> dict[str, tuple[int, int, int, int]]:
    assert lines is not None
    return {one.language: (one.files, one.code, one.comment, one.blank) for one in lines}


def test_the_whole_tree_is_counted_by_language_also_in_an_incremental_scan(
    tree: Tree, make_task: MakeTask
) -> None:
    source = tree(
        {
            "a.py": "x = 1\n",
            "sub/b.py": "# c\n\n",
            "tool": "#!/bin/sh\nls\n",
            "Makefile": "all:\n",
            "notes": "text\n",
        }
    )

    ran = run(LinesEngine(), make_task(source, ["a.py"], all_files=sorted(_names(source))))

    assert ran.verdict.reason is None, ran.log
    assert counts(ran.verdict.lines) == {
        "python": (2, 1, 1, 1),
        "shell": (1, 2, 0, 0),
        "makefile": (1, 1, 0, 0),
    }
    assert ran.verdict.counter == COUNTER == "kennel-lines/1"
    coverage = ran.verdict.coverage
    assert (coverage.planned, coverage.analysed, coverage.skipped) == (5, 4, 1)
    assert len(ran.progress()) == 5


def test_binary_and_huge_files_are_skipped_and_said_so(tree: Tree, make_task: MakeTask) -> None:
    source = tree({"a.py": b"x\0", "b.c": b"", "c.py": b"x = '\xff'\n"})
    with (source / "b.c").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)

    ran = run(LinesEngine(), make_task(source))

    assert counts(ran.verdict.lines) == {"python": (1, 1, 0, 0)}
    assert ran.verdict.message == "1 files skipped: binary; 1 files skipped: larger than 16 MiB"


def test_what_cannot_be_read_is_failed_not_zero(tree: Tree, make_task: MakeTask) -> None:
    source = tree({"a.py": "x = 1\n"})
    (source / "link.py").symlink_to("/etc/hostname")
    os.mkfifo(source / "pipe.py")

    ran = run(LinesEngine(), make_task(source, ["a.py", "gone.py", "link.py", "pipe.py"]))
    nothing = run(LinesEngine(), make_task(source, ["gone.py"]))

    assert {failure.path for failure in ran.verdict.failures} == {"gone.py", "link.py"}
    assert counts(ran.verdict.lines) == {"python": (1, 1, 0, 0)}
    assert nothing.verdict.reason is Reason.NO_COVERAGE
    assert nothing.verdict.lines is None


def test_names_of_any_bytes_are_counted(tree: Tree, make_task: MakeTask) -> None:
    names = ["-a.py", "n\nl\t.py", os.fsdecode(b"\xff.py")]

    ran = run(LinesEngine(), make_task(tree(dict.fromkeys(names, "x = 1\n"))))

    assert counts(ran.verdict.lines) == {"python": (3, 3, 0, 0)}
    assert len(ran.progress()) == 3


def test_nothing_of_the_tree_is_imported(tree: Tree, make_task: MakeTask, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = f"open({str(canary)!r}, 'w')\n"
    names = [
        "json.py",
        "dataclasses.py",
        "core/__init__.py",
        "worker/__init__.py",
        "sitecustomize.py",
    ]

    ran = run(LinesEngine(), make_task(tree(dict.fromkeys(names, evil))))

    assert counts(ran.verdict.lines) == {"python": (5, 5, 0, 0)}
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, Reason.REPORT_UNREADABLE),
        (b"", Reason.REPORT_UNREADABLE),
        (b'{"languages"', Reason.REPORT_UNREADABLE),
        (b"[]", Reason.REPORT_UNREADABLE),
        (
            json.dumps(
                {"counter": COUNTER, "languages": {}, "counted": 0, "skipped": {}, "failed": []}
            ).encode(),
            Reason.REPORT_UNREADABLE,
        ),
    ],
)
def test_a_result_that_is_missing_cut_off_or_incomplete_is_unreadable(
    tree: Tree, make_task: MakeTask, content: bytes | None, reason: Reason
) -> None:
    def spoil(task: EngineTask) -> None:
        (task.out / "lines.json").unlink()
        if content is not None:
            (task.out / "lines.json").write_bytes(content)

    ran = run(LinesEngine(), make_task(tree({"a.py": "x = 1\n"})), before_judge=spoil)

    assert ran.verdict.reason is reason
    assert ran.verdict.lines is None


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended(1, None), Reason.ENGINE_FAILED),
        (Ended(None, 9), Reason.ENGINE_FAILED),
        (Ended(None, 9, Reason.OUT_OF_MEMORY), Reason.OUT_OF_MEMORY),
    ],
)
def test_how_the_counter_ended_decides_first(
    tree: Tree, make_task: MakeTask, ended: Ended, reason: Reason
) -> None:
    task = make_task(tree({"a.py": "x = 1\n"}))

    assert LinesEngine().judge(task, [ended]).reason is reason


def test_an_empty_tree_has_no_lines_and_no_failure(tree: Tree, make_task: MakeTask) -> None:
    ran = run(LinesEngine(), make_task(tree({})))

    assert ran.commands == []
    assert ran.verdict.reason is None
    assert ran.verdict.lines == []


def test_lines_takes_no_configuration(tree: Tree, make_task: MakeTask) -> None:
    with pytest.raises(InvalidField):
        LinesEngine().plan(make_task(tree({"a.py": ""}), config={"depth": 1}))


def _names(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


# --- against cloc -------------------------------------------------------------------------------

CLOC = shutil.which("cloc")
needs_cloc = pytest.mark.skipif(CLOC is None, reason="cloc is not installed (apt install cloc)")

#: cloc's name for ours, where it is not the same word.
_OURS = {
    "Bourne Shell": "shell",
    "Bourne Again Shell": "shell",
    "C++": "cpp",
    "C#": "csharp",
    "C/C++ Header": "c",
    "DOS Batch": "batch",
    "Objective-C": "objectivec",
    "OCaml": "ocaml",
    "XSLT": "xml",
    "XSD": "xml",
    "SVG": "xml",
    "make": "makefile",
}


def cloc(root: Path, files: list[str], tmp_path: Path) -> dict[str, tuple[int, int, int, int]]:
    listing = tmp_path / "cloc-files"
    listing.write_text("".join(f"{name}\n" for name in files))
    assert CLOC is not None
    ran = subprocess.run(
        [CLOC, "--json", "--quiet", "--skip-uniqueness", "--timeout=0", f"--list-file={listing}"],
        cwd=root,
        capture_output=True,
        timeout=110,
        check=True,
    )
    found: dict[str, tuple[int, int, int, int]] = {}
    for name, entry in json.loads(ran.stdout).items():
        if name in {"header", "SUM"}:
            continue
        ours = _OURS.get(name, name.lower())
        before = found.get(ours, (0, 0, 0, 0))
        now = (entry["nFiles"], entry["code"], entry["comment"], entry["blank"])
        found[ours] = (
            before[0] + now[0],
            before[1] + now[1],
            before[2] + now[2],
            before[3] + now[3],
        )
    return found


@needs_cloc
@pytest.mark.parametrize("package", ["sqlalchemy", "aiohttp", "_pytest", "hypothesis"])
def test_python_is_counted_as_cloc_does(package: str, tmp_path: Path, make_task: MakeTask) -> None:
    root = Path(sysconfig.get_path("purelib"), package)
    if not root.is_dir():
        root = Path(sysconfig.get_path("platlib"), package)
    # cloc leaves out empty files; we count them as files without lines.
    named = (name for name in _names(root) if name.endswith(".py"))
    files = sorted(name for name in named if (root / name).stat().st_size)
    assert len(files) > 30

    ours = counts(run(LinesEngine(), make_task(root, files)).verdict.lines)["python"]
    theirs = cloc(root, files, tmp_path)["python"]

    total = sum(theirs[1:])
    assert ours[0] == theirs[0]
    assert ours[3] == theirs[3]
    assert abs(ours[1] - theirs[1]) <= total // 100, (ours, theirs)
    assert abs(ours[2] - theirs[2]) <= total // 100, (ours, theirs)


#: Files both counters class alike, one a language: name → content.
AGREED: dict[str, str] = {
    "a.c": '/* a\n\nb */\nint main(void) { return 0; } // c\nchar *s = "/*";\n',
    "a.h": "#ifndef A\n// a\n#define A\n#endif\n",
    "a.cpp": "// a\nint x; /* b */\n\n",
    "a.java": "/** a\n * b\n */\nclass A { }\n",
    "a.js": "// a\nlet x = '//';\n/* b */\n",
    "a.ts": "// a\nlet x: number = 1;\n",
    "a.go": "package a\n\n// a\nfunc f() {}\n",
    "a.rs": "// a\nfn main() {}\n/* b */\n",
    "a.rb": "# a\nputs 1\n=begin\nb\n=end\n",
    "a.sh": "#!/bin/sh\n# a\necho b # c\n\n",
    "a.pl": "# a\nprint 1;\n",
    "a.php": "<?php\n// a\n# b\necho 1;\n",
    "a.sql": "-- a\nSELECT 1;\n/* b\n*/\n",
    "a.lua": "-- a\nprint(1)\n--[[ b\n]]\n",
    "a.hs": "-- a\nmain = print 1\n{- b\n-}\n",
    "a.scala": "// a\nobject A\n",
    "a.swift": "// a\nlet x = 1\n",
    "a.kt": "// a\nval x = 1\n",
    "a.dart": "// a\nvar x = 1;\n",
    "a.html": "<!-- a\n-->\n<p>b</p>\n",
    "a.css": "/* a */\na { }\n",
    "a.xml": "<!-- a -->\n<a/>\n",
    "a.yaml": "# a\nb: 1\n\n",
    "a.toml": "# a\nb = 1\n",
    "a.md": "# a\n\nb\n",
    "a.json": "{}\n",
    "a.erl": "% a\nb() -> 1.\n",
    "a.ex": "# a\nIO.puts 1\n",
    "Makefile": "# a\nall:\n",
    "Dockerfile": "# a\nFROM b\n",
}


@needs_cloc
def test_thirty_languages_are_counted_exactly_as_cloc_does(
    tree: Tree, make_task: MakeTask, tmp_path: Path
) -> None:
    source = tree(dict(AGREED))

    ours = counts(run(LinesEngine(), make_task(source)).verdict.lines)

    assert ours == cloc(source, sorted(AGREED), tmp_path)


# --- languages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "head", "language"),
    [
        ("a/b.PY", b"", "python"),
        ("a.d.ts", b"", "typescript"),
        ("bin/tool", b"#!/usr/bin/env -S python3.11 -u\n", "python"),
        ("bin/tool", b"#!/usr/bin/env -u X A=b bash\n", "shell"),
        ("bin/tool", b"#! /bin/bash -e\r\n", "shell"),
        ("bin/tool", b"#!/usr/bin/env\n", None),
        ("bin/tool", b"#!\n", None),
        ("bin/tool", b"\xff\xfe", None),
        ("x/Dockerfile.prod", b"", "dockerfile"),
        ("CMakeLists.txt", b"", "cmake"),
        (".bashrc", b"", "shell"),
        (".hidden", b"#!/bin/sh\n", "shell"),
        ("a.unknown", b"#!/bin/sh\n", None),
        ("py", b"", None),
        ("py.d/file", b"", None),
        ("", b"", None),
    ],
)
def test_a_language_is_known_by_name_or_first_line(
    path: str, head: bytes, language: str | None
) -> None:
    assert language_of(path, head) == language
