"""The commands of the CLI and their parameters, read off the functions behind them.

Not off `--help`, whose layout is the terminal's and typer's and changes with both.
"""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, NamedTuple

from typer.models import ArgumentInfo, OptionInfo

from alignbench.cli import app


class Parameter(NamedTuple):
    name: str  # as it is typed: "SUITE", "--results"
    values: str  # "path", "method or reward"; "" for a flag
    default: str  # "" where it must be given or is left out
    help: str


class Command(NamedTuple):
    usage: str  # "alignbench run SUITE [options]"
    help: str
    parameters: list[Parameter]


def commands() -> list[Command]:
    rooms = [("alignbench", app)]
    rooms += [
        (f"alignbench {group.name}", group.typer_instance) for group in app.registered_groups if group.typer_instance
    ]
    return [
        _command(f"{opening} {registered.name or registered.callback.__name__}", registered.callback)
        for opening, room in rooms
        for registered in room.registered_commands
        if registered.callback
    ]


def _command(name: str, function: Any) -> Command:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters, words = [], [name]
    for parameter in inspect.signature(function).parameters.values():
        inner, *notes = typing.get_args(hints[parameter.name])
        (info,) = [note for note in notes if isinstance(note, ArgumentInfo | OptionInfo)]
        is_flag, is_optional = inner is bool, parameter.default is not inspect.Parameter.empty
        typed = parameter.name.upper()
        if isinstance(info, OptionInfo):
            # Within Annotated typer takes the first name given to an option for its default.
            names = [str(name) for name in (info.default, *(info.param_decls or ())) if str(name).startswith("--")]
            typed = [*names, f"--{parameter.name.replace('_', '-')}"][0]
        else:
            words.append(f"[{typed}]" if is_optional else typed)
        default = "" if not is_optional or is_flag or parameter.default is None else str(parameter.default)
        parameters.append(Parameter(typed, "" if is_flag else _values(inner), default, info.help or ""))
    if any(parameter.name.startswith("--") for parameter in parameters):
        words.append("[options]")
    return Command(" ".join(words), inspect.getdoc(function) or "", parameters)


def _values(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(typing.get_args(annotation))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(_values(part) for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is list:
        return f"{_values(typing.get_args(annotation)[0])}, any number"
    return {"str": "text"}.get(annotation.__name__, annotation.__name__.lower())
