"""The lines of a run as Markdown, with the machine and the day."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HEAD = ("point", "figure", "target", "holds", "control", "control failed", "seconds")


def render(lines: Sequence[dict[str, Any]], is_quick: bool) -> str:
    rows = [
        (
            line["point"], line["figure"], line["target"], _word(line["holds"]), line["control"]["what"],
            _word(line["control"]["failed"]), f"{line['seconds']:.0f}",
        )
        for line in lines
    ]  # fmt: skip
    written = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (HEAD, ("---",) * len(HEAD), *rows)]
    form = "the quick form" if is_quick else "the full form"
    return "\n".join(["# What the suite promises, measured", "", f"{_machine()}; {form}.", "", *written, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _word(fact: bool) -> str:
    return "yes" if fact else "NO"


def _machine() -> str:
    try:
        names = [
            x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x
        ]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    day = datetime.now(UTC).date().isoformat()
    return f"{day}, {name}, {os.cpu_count()} cores, torch {version('torch')}, Python {platform.python_version()}"
