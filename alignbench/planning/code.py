"""What a file of code says: a digest that a comment leaves alone, and the modules it imports.

Parsing every file at each plan takes most of a second, so the answers are kept under the sha256 of the bytes they were
read from; an answer can therefore not be stale, wherever the file lies and whatever its time stamp.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from alignbench.store.paths import home

MOST = 5000  # answers kept on disk, the latest

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """`from ..base import name` is (2, "base", ["name"]); `import base` has no names."""

    level: int
    base: str
    names: list[str]


class Facts(NamedTuple):
    digest: str  # of the code, docstrings left out
    documented: str  # with them
    reads_docs: bool  # whether it may read some module's
    imports: list[Import]


def bytes_digest(path: Path) -> str:
    """sha256 of a file, read again only when its size or time has changed."""
    stat = path.stat()
    return _bytes_digest(path, stat.st_mtime_ns, stat.st_size)


@cache
def _bytes_digest(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(path: Path) -> Facts:
    """What a Python file says; of any other file, and of one that does not parse, the bytes."""
    raw = bytes_digest(path)
    if path.suffix != ".py":
        return Facts(raw, raw, False, [])
    answers = _answers()
    if raw not in answers.rows:
        answers.rows[raw] = _read(path.read_bytes(), raw)
        answers.is_changed = True
    return answers.rows[raw]


def _read(source: bytes, raw: str) -> Facts:
    try:
        tree = ast.parse(source)
        imports = list(_imports(tree, _importers(tree)))
        documented = _digest(tree)
        for node in ast.walk(tree):
            if isinstance(node, Documented) and _opens(node):
                del node.body[0]
        return Facts(_digest(tree), documented, b"__doc__" in source or b"getdoc" in source, imports)
    except (SyntaxError, ValueError, RecursionError):
        return Facts(raw, raw, False, [])


def _digest(tree: ast.AST) -> str:
    return hashlib.sha256(ast.dump(tree).encode(errors="surrogatepass")).hexdigest()


def strings(path: Path) -> set[str]:
    """The texts that stand in a Python file, any of which may name another file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return set()
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _opens(node: Documented) -> bool:
    """Whether a docstring opens the body."""
    return ast.get_docstring(node, clean=False) is not None


def _importers(tree: ast.AST) -> set[str]:
    """The names by which the file may call what imports a module by name."""
    aliases = (alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names)
    return {"import_module", "__import__"} | {a.asname for a in aliases if a.asname and a.name == "import_module"}


def _imports(node: ast.AST, importers: set[str]) -> Iterator[Import]:
    """Every import that can run, also inside functions. Neither those for a type checker, nor those of a hook that only
    lists classes: each class it offers is keyed where it is used."""
    if isinstance(node, ast.Import):
        yield from (Import(0, alias.name, []) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield Import(node.level, node.module or "", [alias.name for alias in node.names])
    elif isinstance(node, ast.Call) and _name(node.func) in importers and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            base = first.value.lstrip(".")
            yield Import(len(first.value) - len(base), base, [])
    if isinstance(node, ast.FunctionDef) and _only_lists(node):
        return
    is_for_checker = isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"
    for child in node.orelse if isinstance(node, ast.If) and is_for_checker else ast.iter_child_nodes(node):
        yield from _imports(child, importers)


def _only_lists(function: ast.FunctionDef) -> bool:
    is_hook = any(_name(d.func if isinstance(d, ast.Call) else d) == "hookimpl" for d in function.decorator_list)
    body = function.body[1 if _opens(function) else 0 :]
    return is_hook and all(isinstance(statement, ast.Import | ast.ImportFrom | ast.Return) for statement in body)


def _name(node: ast.expr) -> str | None:
    """`b` of `b` and of `a.b`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _file() -> Path:
    """Where answers are kept: those of another Python, or of another version of this module, are not ours."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}-{bytes_digest(Path(__file__))[:12]}"
    return home() / "code" / f"{version}.json"


@dataclass
class _Answers:
    rows: dict[str, Facts]
    is_changed: bool = False


@lru_cache
def _answers() -> _Answers:
    try:
        rows = json.loads(_file().read_text())
        return _Answers({raw: _told(*row) for raw, row in rows.items()})
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: read again what is needed
        return _Answers({})


def _told(digest: str, documented: str, reads_docs: bool, imports: list[tuple[int, str, list[str]]]) -> Facts:
    return Facts(digest, documented, reads_docs, [Import(*one) for one in imports])


def save() -> None:
    """Write what was learnt since. A home that cannot be written costs time and nothing else."""
    answers = _answers()
    if answers.is_changed:
        answers.is_changed = False
        file = _file()
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(dict(list(answers.rows.items())[-MOST:])))
            draft.replace(file)
