"""Text and code as Markdown that renders as exactly that text and code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"[\\`*\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def prose(text: str) -> str:
    """One paragraph: `code` between backticks stays code, everything else is taken literally."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(
        part if i % 2 else _MARKUP.sub(r"\\\g<0>", part.translate(_ENTITIES)) for i, part in enumerate(parts)
    )


def code(text: str) -> str:
    """A code span on one line; its fence is longer than any run of backticks within."""
    text = " ".join(text.split())
    if not text:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are Markdown already; a bar in one splits no cell, in code or out of it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
