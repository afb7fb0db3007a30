"""YAML text -> plain data with line numbers, and one-line errors about keys.

`read` takes a file that is plain data (no tags, no aliases, no duplicate keys) and remembers the line of every key;
`validated` puts data into a model. Whatever is wrong is one line that opens with the place and the key path, such as
`quick.yaml:7 methods[2].config.beta: should be greater than 0, got 0`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from alignbench.errors import UserError, nearest, printable

M = TypeVar("M", bound=BaseModel)
Loc = tuple[str | int, ...]  # a key path: ("methods", 2, "config")

# -------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Source:
    """Where a suite was read, if from a file. Nothing is compared: suites are equal if their contents are."""

    file: Path | None = field(default=None, compare=False)
    lines: Mapping[Loc, int] = field(default_factory=dict, compare=False)
    text: str | None = field(default=None, compare=False)  # as the user wrote it

    def where(self, loc: Loc) -> str:
        while loc not in self.lines:  # () is always there
            loc = loc[:-1]
        return f"{self.file}:{self.lines[loc]}"


class _Loader(yaml.SafeLoader):
    """Plain data only, with the line of every key path."""

    def __init__(self, text: str, file: Path | str) -> None:
        super().__init__(text)
        self.file = file
        self.lines: dict[Loc, int] = {(): 1}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can stand for gigabytes
            line = self.peek_event().start_mark.line + 1
            raise UserError(f"{self.file}:{line}: an alias (*name) is not allowed; write the value out")
        return super().compose_node(parent, index)

    def plain(self, node: yaml.Node, loc: Loc = ()) -> Any:
        """The JSON value of a node."""
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return dict(self._item(key, value, loc) for key, value in node.value)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            self.lines.update({(*loc, i): item.start_mark.line + 1 for i, item in enumerate(node.value)})
            return [self.plain(item, (*loc, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode) or kind not in ("str", "int", "float", "bool", "null"):
            problem = f"the type {shown(kind)} is not allowed; write text (quoted), a number, a list or a mapping"
            raise self._refused(node, loc, problem)
        try:
            value = self.construct_object(node)
        except (ValueError, LookupError):  # such as `!!int x`
            problem = f"not a valid {kind}: {shown(node.value)}; quote it if it is text"
            raise self._refused(node, loc, problem) from None
        if kind in ("int", "float") and ":" in node.value:
            problem = f"{shown(node.value)} would be read as a number in base 60; quote it if it is text"
            raise self._refused(node, loc, problem)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise self._refused(node, loc, f"should be a number of at most 18 digits, got {printable(node.value, 20)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refused(node, loc, f"should be a finite number, got {printable(node.value, 60)}")
        return value

    def _item(self, key: yaml.Node, value: yaml.Node, loc: Loc) -> tuple[str, Any]:
        if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
            seen = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise self._refused(key, loc, f"a key should be text, got {seen}; quote it")
        at = (*loc, key.value)
        if at in self.lines:
            raise self._refused(key, at, f"this key stands on line {self.lines[at]} already; remove one")
        self.lines[at] = key.start_mark.line + 1
        return key.value, self.plain(value, at)

    def _refused(self, node: yaml.Node, loc: Loc, problem: str) -> UserError:
        return UserError(f"{opening(f'{self.file}:{node.start_mark.line + 1}', loc)}: {problem}")


_TAG = "tag:yaml.org,2002:"
# YAML 1.1, which PyYAML speaks, takes 1e-4 for text because it lacks a dot.
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789"))


def read(path: Path, kind: str = "a suite file", least: str = "`methods: [dpo]`") -> tuple[dict[str, Any], Source]:
    """The file's mapping, and where its keys stand. `kind` and `least`: what it should be, and hold."""
    try:
        raw = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder; name {kind}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of {kind}") from None
    line = 1
    try:
        text = raw.decode("utf-8-sig")
        loader = _Loader(text, path)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            return loader.plain(node), Source(path, loader.lines, text)
        line = node.start_mark.line + 1 if node else 1
        problem = f"{'should be a mapping' if node else 'the file is empty'}; it needs at least {least}"
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = "this is not UTF-8 text; save it as UTF-8"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"character #x{error.character:04x} is not allowed; remove it"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(str(error.problem or error.context).split())
        problem = f"cannot be read as YAML: {what}; mend the text here or just above"
    except RecursionError:
        problem = f"nested too deeply; {kind} has few levels"
    raise UserError(f"{path}:{line}: {problem}")


def read_value(text: str, where: str) -> Any:
    """One value, such as that of a command's option, as a suite file would have it; `where` opens an error."""
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        return None if node is None else loader.plain(node)
    except yaml.reader.ReaderError as error:
        problem = f"character #x{error.character:04x} is not allowed; remove it"
    except yaml.MarkedYAMLError as error:
        what = " ".join(str(error.problem or error.context).split())
        problem = f"cannot be read as YAML: {what}; quote it if it is text"
    except RecursionError:
        problem = "nested too deeply; an option has few levels"
    raise UserError(f"{where}: {problem}")


# --------------------------------------------------------------------------------------------------------------- errors


def validate_options(model_cls: type[M], options: Mapping[str, Any], where: str) -> M:
    """A plugin's options as its Config; `where` opens the error line, such as 'quick.yaml:7 methods[2].config'."""
    return validated(model_cls, options, lambda loc: where + _key_path(loc, is_tail=True))


def validated(model_cls: type[M], data: Mapping[str, Any], place: Callable[[Loc], str]) -> M:
    """The data as a model; `place` opens the error line for a key path below it."""
    try:
        model = model_cls.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
    else:
        # Pydantic's own strict mode would also refuse a list where a tuple is declared.
        for loc, problem in _taken_for_another(data, model, ()):
            raise UserError(f"{place(loc)}: {problem}")
        return model
    by_key: dict[Loc, list[Any]] = {}
    for detail in sorted(found, key=lambda detail: detail["type"] != "extra_forbidden"):  # a typo may explain the rest
        by_key.setdefault(_present(detail, data), []).append(detail)
    # The shallower error of a union is of an alternative that was not meant.
    keys = [key for key in by_key if not any(other[: len(key)] == key != other for other in by_key)]
    problems = " or ".join(dict.fromkeys(_problem(model_cls, keys[0], detail) for detail in by_key[keys[0]]))
    seen = _seen(by_key[keys[0]][-1])
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    raise UserError(f"{place(keys[0])}: {problems}{seen}{more}")


def _taken_for_another(data: Any, value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Where pydantic took true or false, or text, for a number, and text for true or false."""
    if isinstance(data, bool):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield loc, "should be a number, got true or false"
    elif isinstance(data, str):
        if isinstance(value, int | float):
            kind = "true or false" if isinstance(value, bool) else "a number"
            yield loc, f"should be {kind}, got the text {shown(data)}; remove the quotes"
    elif isinstance(data, Mapping) and isinstance(value, Mapping | BaseModel):
        values = value if isinstance(value, Mapping) else vars(value)
        for key in data:
            yield from _taken_for_another(data[key], values.get(key), (*loc, key))
    elif isinstance(data, list | tuple) and isinstance(value, list | tuple):
        for i, (item, taken) in enumerate(zip(data, value, strict=False)):
            yield from _taken_for_another(item, taken, (*loc, i))


def _present(detail: Any, data: Any) -> Loc:
    """The error's key path without pydantic's names for the alternatives of a union."""
    loc: Loc = ()
    for part in detail["loc"]:
        if (isinstance(data, Mapping) and part in data) or (isinstance(data, list | tuple) and isinstance(part, int)):
            data, loc = data[part], (*loc, part)
    return (*loc, detail["loc"][-1]) if detail["type"] == "missing" else loc


def _problem(model_cls: type[BaseModel], loc: Loc, detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key; {nearest(str(loc[-1]), _keys_at(model_cls, loc[:-1]))}"
    if detail["type"] == "missing":
        return "missing; add it"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    text = detail["msg"].partition(", got")[0].partition(", unable")[0].replace(" after validation", "")
    text = re.sub("a valid (dictionary.*|tuple|list|string)", lambda kind: _KINDS[kind[1][:4]], text)
    return f"should {text.partition('should ')[2]}" if "should " in text else text


_KINDS = {"dict": "a mapping", "tupl": "a list", "list": "a list", "stri": "text"}


def _seen(detail: Any) -> str:
    if detail["type"] in ("extra_forbidden", "missing", "value_error"):  # they say it themselves
        return ""
    is_unquoted = detail["type"] == "string_type" and isinstance(detail["input"], int | float)
    return f", got {shown(detail['input'])}{'; quote it' if is_unquoted else ''}"


def _keys_at(model_cls: Any, loc: Loc) -> list[str]:
    """The field names of the model that stands at `loc` below `model_cls`."""
    for part in loc:
        if part in model_cls.model_fields:  # else an index, or a key of a mapping
            model_cls = next(_models(model_cls.model_fields[part].annotation), model_cls)
    return list(model_cls.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def opening(where: str, loc: Loc) -> str:
    """What an error line opens with: 'quick.yaml:7 methods[2].config', or the place alone."""
    return f"{where} {_key_path(loc)}" if loc else where


def _key_path(loc: Loc, is_tail: bool = False) -> str:
    """('methods', 2, 'config') -> 'methods[2].config'; a tail opens with its dot."""
    names = (part if isinstance(part, int) or re.fullmatch(r"[\w-]+", part) else shown(part) for part in loc)
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    return path if is_tail else path.removeprefix(".")


def shown(value: Any) -> str:
    """A value as YAML would have it, on one line and short; JSON escapes control characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
