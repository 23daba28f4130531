"""Turn a Typer application into the reference of its commands, in Markdown.

Reads what `--help` is made from, not its output: that depends on the terminal.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer
from typer.main import get_command


def reference(app: typer.Typer, name: str) -> Iterator[str]:
    """Yield the lines that describe every visible command of *app*, called *name*."""
    yield from _describe(get_command(app), name, level=2)


def _describe(command: Any, path: str, *, level: int) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    children = getattr(command, "commands", {})
    usage = [path, *map(_placeholder, arguments)]
    yield f"{'#' * level} {path}"
    yield ""
    yield inspect.cleandoc(command.help or "").replace("\f", "")
    yield ""
    if not children:
        yield f"`{' '.join(usage)}{' [options]' if options else ''}`"
        yield ""
    if arguments or options:
        yield "| | meaning | default |"
        yield "|---|---|---|"
        for parameter in [*arguments, *options]:
            yield f"| {_names(parameter)} | {_cell(parameter.help)} | {_default(parameter)} |"
        yield ""
    for child, inner in children.items():
        if not inner.hidden:
            yield from _describe(inner, f"{path} {child}", level=min(level + 1, 4))


def _placeholder(argument: Any) -> str:
    word = str(argument.metavar or argument.name).upper()
    word = f"{word}…" if argument.nargs != 1 else word
    return word if argument.required else f"[{word}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_placeholder(parameter)}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" `{str(parameter.metavar or parameter.name).upper()}`"
    return f"{names}{value}{', several times' if parameter.multiple else ''}"


def _default(parameter: Any) -> str:
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    if parameter.required:
        return "required"
    shown = "" if default in (None, False, [], ()) or callable(default) else f"`{default}`"
    variable = f"`{parameter.envvar}`" if parameter.envvar else ""
    return ", else ".join(filter(None, [variable, shown]))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
