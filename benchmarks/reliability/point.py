"""What a point says: the figure that was measured, what it should be, and whether its control failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple


class Control(NamedTuple):
    """The same measurement with a fault planted. One that does not fail shows that nothing was measured."""

    what: str
    failed: bool


class Measured(NamedTuple):
    figure: str
    target: str
    holds: bool
    control: Control


Measure = Callable[[bool, Path], Measured]  # (whether the quick form is wanted, a folder of its own)


def line_of(point: str, measure: Measure, is_quick: bool) -> dict[str, Any]:
    """Measure a point. Seconds are wall time: read them on a machine that does nothing else."""
    began = time.monotonic()
    with TemporaryDirectory(prefix=f"alignbench-{point}-", ignore_cleanup_errors=True) as folder:
        seen = measure(is_quick, Path(folder))
    return {
        "point": point, "figure": seen.figure, "target": seen.target, "holds": seen.holds,
        "control": seen.control._asdict(), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def said(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=True)
