"""What a plugin author may define, call and set, and what a suite may say, read off the source of the classes.

From the source and not from the objects, because what an attribute means stands in the comment beside it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple


class Attribute(NamedTuple):
    name: str
    type: str
    default: str  # "" where there is none
    meaning: str  # the comment beside it


class Call(NamedTuple):
    signature: str
    is_required: bool  # a subclass must define it
    meaning: str  # the docstring's first paragraph


class Contract(NamedTuple):
    """One class."""

    name: str
    meaning: str
    attributes: list[Attribute]
    calls: list[Call]


def contract(cls: type) -> Contract:
    """With what it has from alignbench's classes that it is made of, theirs first."""
    whole = Contract(cls.__name__, (inspect.getdoc(cls) or "").partition("\n\n")[0], [], [])
    for part in reversed(cls.__mro__):
        if part.__module__.startswith("alignbench."):
            lines = inspect.getsource(part).splitlines()
            (node,) = ast.parse("\n".join(lines)).body
            assert isinstance(node, ast.ClassDef)
            whole.attributes.extend(_attributes(node, lines))
            whole.calls.extend(_calls(node))
    return whole


def _attributes(node: ast.ClassDef, lines: list[str]) -> Iterator[Attribute]:
    for line, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id[0] != "_":
            default = "" if line.value is None else ast.unparse(line.value)
            default = "{}" if default == "Field(default_factory=dict)" else default
            meaning = " ".join(filter(None, [_comment(line, lines), _text(after)]))
            yield Attribute(line.target.id, ast.unparse(_plain(line.annotation)), default, meaning)


def _plain(annotation: ast.expr) -> ast.expr:
    """`int` of `Annotated[int, ...]`."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        return annotation.slice.elts[0]
    return annotation


def _text(line: ast.stmt | None) -> str:
    """The words of a line that is a text and nothing else: they are of the attribute above it."""
    is_text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
    return " ".join(ast.literal_eval(line.value).split()) if is_text else ""  # type: ignore[union-attr]


def _comment(line: ast.AnnAssign, lines: list[str]) -> str:
    """What stands behind an attribute, or else in the comment lines above it."""
    behind = lines[(line.end_lineno or 0) - 1].encode()[line.end_col_offset or 0 :].decode()
    above: list[str] = []
    for text in reversed(lines[: line.lineno - 1]):
        if not text.strip().startswith("#"):
            break
        above.insert(0, text)
    return " ".join(text.strip().removeprefix("#").strip() for text in ([behind] if behind.strip() else above))


def _calls(node: ast.ClassDef) -> Iterator[Call]:
    for call in node.body:
        if not isinstance(call, ast.FunctionDef) or call.name.startswith("_"):
            continue
        marks = {ast.unparse(mark) for mark in call.decorator_list}
        call.args.args = call.args.args[1:]  # without self
        arguments = re.sub(r"(: [^=]+)=", r"\1 = ", ast.unparse(call.args))  # spaced as PEP 8 has it
        arguments = "" if "property" in marks else f"({arguments})"
        returns = "" if call.returns is None else f" -> {ast.unparse(call.returns)}"
        yield Call(f"{call.name}{arguments}{returns}", "abstractmethod" in marks, _paragraph(call))


def _paragraph(node: ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0]
