"""Text that a model or a stranger's plugin wrote, made harmless for each place that shows it."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 300  # characters of one label or cause


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
