"""Text that a model or a stranger's plugin wrote, made harmless for each place that shows it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from alignbench.errors import UserError, printable

LONGEST = 300  # characters of one label or cause
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # -1 is no formula


def one_line(text: str, longest: int | None = LONGEST) -> str:
    """One line of printable characters: no control, escape-sequence or text-direction characters. `longest`: characters
    of it; None: all."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return plain if longest is None or len(plain) <= longest else f"{plain[: longest - 1]}…"


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"})  # unlike \|, they split no cell
_MARKUP = re.compile(r"[\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def for_markdown(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", one_line(text).translate(_ENTITIES))


def for_csv(text: str, longest: int | None = LONGEST) -> str:
    """A spreadsheet takes a cell with such a beginning for a formula, in full-width characters too."""
    plain = one_line(text, longest)
    return f"'{plain}" if unicodedata.normalize("NFKC", plain[:1]) in ("=", "+", "-", "@") else plain


def distinct_for_csv(names: Iterable[str], what: str) -> dict[str, str]:
    """By name: its cell, whole. UserError where two names would be one cell, or one would be empty: whoever reads the
    file would take them for the same, or for none."""
    cells: dict[str, str] = {}
    names_of: dict[str, str] = {}
    for name in names:
        cell = name if NUMBER.fullmatch(name) else for_csv(name, None)
        other = names_of.setdefault(cell, name)
        if other != name or not cell:
            shown = f"'{printable(name, 60)}'"
            like = f"the same as '{printable(other, 60)}'" if other != name else "empty"
            raise UserError(
                f"{what} {shown} would be {like} in a CSV file, without characters that do not show; rename it"
            )
        cells[name] = cell
    return cells
