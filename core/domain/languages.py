"""Which language a file is written in, told from its name and, without one, from its first line.

Languages are lowercase labels (`python`, `cpp`, `csharp`). How a language writes comments is the
line counter's business; which engines read it is `core.domain.engines`'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Bytes of a file's head that `language_of` can use.
HEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class Language:
    """How files of one language are recognised."""

    name: str
    #: What follows the last dot, lowercase.
    extensions: tuple[str, ...] = ()
    #: Whole file names, lowercase.
    file_names: tuple[str, ...] = ()
    #: Interpreters in a shebang line, without version digits.
    interpreters: tuple[str, ...] = ()


LANGUAGES: tuple[Language, ...] = (
    Language("ada", ("ada", "adb", "ads")),
    Language("assembly", ("asm", "s")),
    Language("awk", ("awk", "gawk"), interpreters=("awk", "gawk", "mawk", "nawk")),
    Language("batch", ("bat", "cmd")),
    Language("c", ("c", "h")),
    Language("clojure", ("clj", "cljs", "cljc", "edn")),
    Language("cmake", ("cmake",), ("cmakelists.txt",)),
    Language("cobol", ("cob", "cbl", "cobol")),
    Language("coffeescript", ("coffee",), interpreters=("coffee",)),
    Language("commonlisp", ("lisp", "lsp", "cl")),
    Language("cpp", ("cc", "cpp", "cxx", "c++", "hh", "hpp", "hxx", "h++", "inl", "ipp", "tpp")),
    Language("crystal", ("cr",), interpreters=("crystal",)),
    Language("csharp", ("cs", "csx")),
    Language("css", ("css",)),
    Language("cuda", ("cu", "cuh")),
    Language("cython", ("pyx", "pxd", "pxi")),
    Language("d", ("d", "di")),
    Language("dart", ("dart",)),
    Language("dockerfile", ("dockerfile", "containerfile"), ("dockerfile", "containerfile")),
    Language("elisp", ("el",)),
    Language("elixir", ("ex", "exs"), interpreters=("elixir",)),
    Language("elm", ("elm",)),
    Language("erlang", ("erl", "hrl"), interpreters=("escript",)),
    Language("fish", ("fish",), interpreters=("fish",)),
    Language("fortran", ("f90", "f95", "f03", "f08")),
    Language("fsharp", ("fs", "fsi", "fsx")),
    Language("go", ("go",)),
    Language("graphql", ("graphql", "gql", "graphqls")),
    Language("groovy", ("groovy", "gradle", "gvy"), ("jenkinsfile",), ("groovy",)),
    Language("haskell", ("hs",), interpreters=("runhaskell", "runghc")),
    Language("html", ("html", "htm", "xhtml")),
    Language("ini", ("ini", "cfg", "conf", "editorconfig"), (".editorconfig",)),
    Language("java", ("java",)),
    Language("javascript", ("js", "cjs", "mjs", "jsx"), interpreters=("node", "nodejs")),
    Language("json", ("json",)),
    Language("julia", ("jl",), interpreters=("julia",)),
    Language("kotlin", ("kt", "kts")),
    Language("latex", ("tex", "sty", "cls", "ltx")),
    Language("less", ("less",)),
    Language("lua", ("lua",), interpreters=("lua", "luajit")),
    Language("makefile", ("mk", "mak"), ("makefile", "gnumakefile", "makefile.am"), ("make",)),
    Language("markdown", ("md", "markdown", "mdown")),
    Language("meson", (), ("meson.build", "meson_options.txt")),
    Language("nim", ("nim", "nims")),
    Language("nix", ("nix",)),
    Language("objectivec", ("m", "mm")),
    Language("ocaml", ("ml", "mli"), interpreters=("ocaml",)),
    Language("pascal", ("pas", "pp", "dpr", "lpr")),
    Language("perl", ("pl", "pm", "t"), interpreters=("perl",)),
    Language("php", ("php", "phtml", "php3", "php4", "php5"), interpreters=("php",)),
    Language("powershell", ("ps1", "psm1", "psd1"), interpreters=("pwsh", "powershell")),
    Language("protobuf", ("proto",)),
    Language("python", ("py", "pyi", "pyw"), ("sconstruct", "sconscript"), ("python", "pypy")),
    Language("r", ("r",), interpreters=("rscript",)),
    Language("restructuredtext", ("rst",)),
    Language("ruby", ("rb", "rake", "gemspec"), ("rakefile", "gemfile", "vagrantfile"), ("ruby",)),
    Language("rust", ("rs",)),
    Language("sass", ("sass",)),
    Language("scala", ("scala", "sc", "sbt"), interpreters=("scala",)),
    Language("scheme", ("scm", "ss", "rkt"), interpreters=("guile", "racket")),
    Language("scss", ("scss",)),
    Language(
        "shell",
        ("sh", "bash", "ksh", "zsh", "dash", "bats"),
        ("pkgbuild", ".bashrc", ".profile", ".bash_profile", ".zshrc"),
        ("sh", "bash", "dash", "ksh", "zsh", "ash", "bats"),
    ),
    Language("solidity", ("sol",)),
    Language("sql", ("sql",)),
    Language("starlark", ("bzl", "bazel"), ("build.bazel", "workspace", "workspace.bazel")),
    Language("svelte", ("svelte",)),
    Language("swift", ("swift",), interpreters=("swift",)),
    Language("systemverilog", ("sv", "svh")),
    Language("tcl", ("tcl", "tk"), interpreters=("tclsh", "wish")),
    Language("terraform", ("tf", "tfvars", "hcl")),
    Language("thrift", ("thrift",)),
    Language("toml", ("toml",), ("pipfile",)),
    Language("typescript", ("ts", "tsx", "mts", "cts"), interpreters=("deno", "ts-node", "tsx")),
    Language("vb", ("vb", "vbs", "bas")),
    Language("verilog", ("v", "vh")),
    Language("vhdl", ("vhd", "vhdl")),
    Language("vim", ("vim",), (".vimrc",)),
    Language("vue", ("vue",)),
    Language("xml", ("xml", "xsd", "xsl", "xslt", "svg", "wsdl", "xaml", "pom")),
    Language("yaml", ("yaml", "yml"), (".clang-format", ".clang-tidy")),
    Language("zig", ("zig",)),
)

NAMES: frozenset[str] = frozenset(language.name for language in LANGUAGES)

_BY_EXTENSION: Mapping[str, str] = MappingProxyType(
    {ext: language.name for language in LANGUAGES for ext in language.extensions}
)
_BY_FILE_NAME: Mapping[str, str] = MappingProxyType(
    {name: language.name for language in LANGUAGES for name in language.file_names}
)
_BY_INTERPRETER: Mapping[str, str] = MappingProxyType(
    {word: language.name for language in LANGUAGES for word in language.interpreters}
)

_VERSION = re.compile(r"[0-9.]+$")
_VALUED_ENV_OPTIONS = frozenset({"-u", "--unset", "-C", "--chdir"})


def language_of(path: str, head: bytes = b"") -> str | None:
    """Return the language of the file at *path*, None when it is not known.

    *head*, the first bytes of the file, is looked at only where the name says nothing: reading
    it is worth the caller's while when `needs_head(path)`.
    """
    name = path.rsplit("/", 1)[-1].lower()
    found = _BY_FILE_NAME.get(name)
    if found is not None:
        return found
    if name.startswith(("dockerfile.", "containerfile.")):
        return "dockerfile"
    if not needs_head(path):
        return _BY_EXTENSION.get(name.rpartition(".")[2])
    return _language_of_shebang(head)


def needs_head(path: str) -> bool:
    """Tell whether `language_of` could learn more about *path* from the file's first bytes."""
    name = path.rsplit("/", 1)[-1].lower()
    return "." not in name[1:] and name not in _BY_FILE_NAME


def _language_of_shebang(head: bytes) -> str | None:
    if not head.startswith(b"#!"):
        return None
    line = head[2:HEAD_BYTES].split(b"\n", 1)[0].decode("utf-8", "replace")
    words = line.split()
    if words and words[0].rsplit("/", 1)[-1] == "env":
        words = _after_env(words[1:])
    if not words:
        return None
    return _BY_INTERPRETER.get(_interpreter(words[0]))


def _after_env(words: list[str]) -> list[str]:
    """Drop what `env` takes for itself: options, their values, assignments."""
    at = 0
    while at < len(words):
        word = words[at]
        if word in _VALUED_ENV_OPTIONS:
            at += 2
        elif word.startswith("-") or "=" in word:
            at += 1
        else:
            break
    return words[at:]


def _interpreter(word: str) -> str:
    return _VERSION.sub("", word.rsplit("/", 1)[-1].lower()).rstrip("-")
