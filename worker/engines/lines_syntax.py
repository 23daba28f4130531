"""How languages write comments, as data for the line counter.

Only what can change the class of a line is here: strings matter where they may hold a comment
marker or run over several lines. Standard library only: this runs inside the sandbox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

#: A single-line string with backslash escapes; left open, it ends with the line.
DOUBLE = rb'"[^"\\]*(?:\\.[^"\\]*)*"?'
SINGLE = rb"'[^'\\]*(?:\\.[^'\\]*)*'?"
#: A character literal where a lone quote means something else (lifetimes, type variables).
CHAR = rb"'(?:\\[^']+|[^'\\])'"


@dataclass(frozen=True, slots=True)
class Text:
    """A string that may run over several lines."""

    opener: bytes
    closer: bytes
    has_escapes: bool = True
    #: Opened as the first thing on its line it is a docstring: comment.
    is_docstring: bool = False


@dataclass(frozen=True, slots=True)
class Syntax:
    """Comments and strings of one language."""

    #: What begins a comment that ends with the line.
    line: tuple[bytes, ...] = ()
    #: What begins and what ends a block comment.
    blocks: tuple[tuple[bytes, bytes], ...] = ()
    is_nested: bool = False
    texts: tuple[Text, ...] = ()
    #: Patterns of what is code and may hold a marker: strings within one line.
    atoms: tuple[bytes, ...] = ()
    #: Pattern, at the head of a line without its indentation, of a comment line.
    head: bytes | None = None
    #: Patterns, at the true start of a line, that begin and end a block of whole lines.
    sections: tuple[tuple[bytes, bytes], ...] = ()
    #: Pattern of a line after which everything is comment.
    end: bytes | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A syntax in the form the counter runs."""

    is_nested: bool
    token: re.Pattern[bytes] | None
    closers: dict[bytes, bytes]
    texts: dict[bytes, Text]
    #: By opener: finds the next opener or closer of a nested block.
    nesting: dict[bytes, re.Pattern[bytes]]
    #: By opener of a text: skips to its end, escapes counted.
    text_ends: dict[bytes, re.Pattern[bytes]]
    head: re.Pattern[bytes] | None
    sections: list[tuple[re.Pattern[bytes], re.Pattern[bytes]]] = field(default_factory=list)
    end: re.Pattern[bytes] | None = None


_C_BLOCK = ((b"/*", b"*/"),)
_C = Syntax((b"//",), _C_BLOCK, atoms=(DOUBLE, SINGLE))
_TRIPLE = Text(b'"""', b'"""')
_RAW_TRIPLE = Text(b'"""', b'"""', has_escapes=False)
_BACKTICK = Text(b"`", b"`")
_JAVA = Syntax((b"//",), _C_BLOCK, texts=(_TRIPLE,), atoms=(DOUBLE, SINGLE))
_JAVASCRIPT = Syntax((b"//",), _C_BLOCK, texts=(_BACKTICK,), atoms=(DOUBLE, SINGLE))
_PYTHON = Syntax(
    (b"#",),
    texts=(
        Text(b'"""', b'"""', is_docstring=True),
        Text(b"'''", b"'''", is_docstring=True),
    ),
    atoms=(DOUBLE, SINGLE),
)
_HASH = Syntax(head=rb"#")
_SEMICOLON = Syntax(head=rb";")
_DASHES = Syntax(head=rb"--")
_PERCENT = Syntax(head=rb"%")
_MARKUP = Syntax(blocks=((b"<!--", b"-->"),))
_LISP = Syntax((b";",), ((b"#|", b"|#"),), is_nested=True, atoms=(DOUBLE,))
_VERILOG = Syntax((b"//",), _C_BLOCK, atoms=(DOUBLE,))

SYNTAXES: dict[str, Syntax] = {
    "ada": _DASHES,
    "assembly": Syntax((b"//", b";", b"#"), _C_BLOCK, atoms=(DOUBLE,)),
    "awk": _HASH,
    "batch": Syntax(head=rb"(?i:@?rem\b|::)"),
    "c": _C,
    "clojure": _SEMICOLON,
    "cmake": Syntax((b"#",), ((b"#[[", b"]]"),), atoms=(DOUBLE,)),
    "cobol": Syntax(head=rb"(?:\*>|.{6}[*/])"),
    "coffeescript": Syntax((b"#",), ((b"###", b"###"),), atoms=(DOUBLE, SINGLE)),
    "commonlisp": _LISP,
    "cpp": _C,
    "crystal": _HASH,
    "csharp": Syntax(
        (b"//",),
        _C_BLOCK,
        texts=(_RAW_TRIPLE, Text(b'@"', b'"', has_escapes=False)),
        atoms=(DOUBLE, CHAR),
    ),
    "css": Syntax(blocks=_C_BLOCK, atoms=(DOUBLE, SINGLE)),
    "cuda": _C,
    "cython": _PYTHON,
    "d": Syntax((b"//",), (*_C_BLOCK, (b"/+", b"+/")), texts=(_BACKTICK,), atoms=(DOUBLE, CHAR)),
    "dart": Syntax(
        (b"//",),
        _C_BLOCK,
        is_nested=True,
        texts=(_TRIPLE, Text(b"'''", b"'''")),
        atoms=(DOUBLE, SINGLE),
    ),
    "dockerfile": _HASH,
    "elisp": _SEMICOLON,
    "elixir": Syntax((b"#",), texts=(_TRIPLE,), atoms=(DOUBLE, SINGLE)),
    "elm": Syntax((b"--",), ((b"{-", b"-}"),), is_nested=True, texts=(_TRIPLE,), atoms=(DOUBLE,)),
    "erlang": _PERCENT,
    "fish": _HASH,
    "fortran": Syntax(head=rb"!"),
    "fsharp": Syntax((b"//",), ((b"(*", b"*)"),), texts=(_RAW_TRIPLE,), atoms=(DOUBLE, CHAR)),
    "go": Syntax(
        (b"//",), _C_BLOCK, texts=(Text(b"`", b"`", has_escapes=False),), atoms=(DOUBLE, SINGLE)
    ),
    "graphql": _HASH,
    "groovy": Syntax(
        (b"//",), _C_BLOCK, texts=(_TRIPLE, Text(b"'''", b"'''")), atoms=(DOUBLE, SINGLE)
    ),
    "haskell": Syntax((b"--",), ((b"{-", b"-}"),), is_nested=True, atoms=(DOUBLE, CHAR)),
    "html": _MARKUP,
    "ini": Syntax(head=rb"[#;]"),
    "java": _JAVA,
    "javascript": _JAVASCRIPT,
    "json": Syntax(),
    "julia": Syntax(
        (b"#",), ((b"#=", b"=#"),), is_nested=True, texts=(_TRIPLE,), atoms=(DOUBLE, CHAR)
    ),
    "kotlin": Syntax(
        (b"//",), _C_BLOCK, is_nested=True, texts=(_RAW_TRIPLE,), atoms=(DOUBLE, CHAR)
    ),
    "latex": _PERCENT,
    "less": _C,
    "lua": Syntax(
        (b"--",),
        ((b"--[[", b"]]"), (b"--[=[", b"]=]"), (b"--[==[", b"]==]")),
        texts=(Text(b"[[", b"]]", has_escapes=False), Text(b"[=[", b"]=]", has_escapes=False)),
        atoms=(DOUBLE, SINGLE),
    ),
    "makefile": _HASH,
    "markdown": _MARKUP,
    "meson": _HASH,
    "nim": Syntax(
        (b"#",), ((b"#[", b"]#"),), is_nested=True, texts=(_RAW_TRIPLE,), atoms=(DOUBLE, CHAR)
    ),
    "nix": Syntax(
        (b"#",), _C_BLOCK, texts=(Text(b"''", b"''", has_escapes=False),), atoms=(DOUBLE,)
    ),
    "objectivec": _C,
    "ocaml": Syntax(blocks=((b"(*", b"*)"),), is_nested=True, atoms=(DOUBLE, CHAR)),
    "pascal": Syntax((b"//",), ((b"{", b"}"), (b"(*", b"*)")), atoms=(rb"'[^']*'?",)),
    "perl": Syntax(
        head=rb"#", sections=((rb"=[a-zA-Z]", rb"=cut\b"),), end=rb"__(?:END|DATA)__\s*$"
    ),
    "php": Syntax((b"//", b"#"), _C_BLOCK, atoms=(DOUBLE, SINGLE)),
    "powershell": Syntax((b"#",), ((b"<#", b"#>"),), atoms=(rb'"(?:[^"`]|`.)*"?', rb"'[^']*'?")),
    "protobuf": _C,
    "python": _PYTHON,
    "r": _HASH,
    "restructuredtext": Syntax(),
    "ruby": Syntax(head=rb"#", sections=((rb"=begin\b", rb"=end\b"),), end=rb"__END__\s*$"),
    "rust": Syntax(
        (b"//",),
        _C_BLOCK,
        is_nested=True,
        texts=(Text(b'r#"', b'"#', has_escapes=False), Text(b'"', b'"')),
        atoms=(CHAR,),
    ),
    "sass": _C,
    "scala": Syntax((b"//",), _C_BLOCK, is_nested=True, texts=(_RAW_TRIPLE,), atoms=(DOUBLE, CHAR)),
    "scheme": _LISP,
    "scss": _C,
    "shell": _HASH,
    "solidity": _C,
    "sql": Syntax(
        (b"--",), _C_BLOCK, texts=(Text(b"'", b"'", has_escapes=False),), atoms=(DOUBLE,)
    ),
    "starlark": _PYTHON,
    "svelte": Syntax((b"//",), (*_C_BLOCK, (b"<!--", b"-->")), texts=(_BACKTICK,), atoms=(DOUBLE,)),
    "swift": Syntax((b"//",), _C_BLOCK, is_nested=True, texts=(_TRIPLE,), atoms=(DOUBLE,)),
    "systemverilog": _VERILOG,
    "tcl": _HASH,
    "terraform": Syntax((b"#", b"//"), _C_BLOCK, atoms=(DOUBLE,)),
    "thrift": Syntax((b"//", b"#"), _C_BLOCK, atoms=(DOUBLE, SINGLE)),
    "toml": Syntax((b"#",), texts=(_TRIPLE, Text(b"'''", b"'''")), atoms=(DOUBLE, SINGLE)),
    "typescript": _JAVASCRIPT,
    "vb": Syntax(head=rb"(?i:'|rem\b)"),
    "verilog": _VERILOG,
    "vhdl": _DASHES,
    "vim": Syntax(head=rb'"'),
    "vue": Syntax((b"//",), (*_C_BLOCK, (b"<!--", b"-->")), texts=(_BACKTICK,), atoms=(DOUBLE,)),
    "xml": _MARKUP,
    "yaml": _HASH,
    "zig": Syntax((b"//",), atoms=(DOUBLE, CHAR)),
}


@cache
def compiled(language: str) -> Compiled:
    """Return the syntax of *language*, ready to run; KeyError for one without an entry."""
    syntax = SYNTAXES[language]
    texts = {text.opener: text for text in syntax.texts}
    return Compiled(
        is_nested=syntax.is_nested,
        token=_token_pattern(syntax),
        closers=dict(syntax.blocks),
        texts=texts,
        nesting={
            opener: re.compile(b"%b|%b" % (re.escape(opener), re.escape(closer)))
            for opener, closer in syntax.blocks
        },
        text_ends={opener: _text_end(text) for opener, text in texts.items()},
        head=re.compile(rb"\s*(?:%b)" % syntax.head) if syntax.head else None,
        sections=[(re.compile(start), re.compile(stop)) for start, stop in syntax.sections],
        end=re.compile(syntax.end) if syntax.end else None,
    )


def _token_pattern(syntax: Syntax) -> re.Pattern[bytes] | None:
    """Match whatever may change the state; the longest marker first."""
    markers = [opener for opener, _ in syntax.blocks]
    markers += [text.opener for text in syntax.texts]
    markers += syntax.line
    if not markers:
        return None
    markers.sort(key=len, reverse=True)
    parts = [re.escape(marker) for marker in markers]
    if syntax.atoms:
        parts.append(b"(?P<atom>%b)" % b"|".join(syntax.atoms))
    return re.compile(b"|".join(parts), re.DOTALL)


def _text_end(text: Text) -> re.Pattern[bytes]:
    closer = re.escape(text.closer)
    return re.compile(rb"\\.|%b" % closer if text.has_escapes else closer, re.DOTALL)
