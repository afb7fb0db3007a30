"""The suite's promises, each measured beside a control that must fail: one line of JSON per point.

python -m benchmarks.reliability [POINT ...] [--quick] [--table FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.reliability.point import line_of, said
from benchmarks.reliability.table import render

POINTS = (
    "kill",
    "plugins",
    "kill-store",
    "race",
    "cache-key",
    "cache-rot",
    "disk-full",
    "bad-input",
    "hostile",
    "permissions",
)
LONG = ("scheduling",)  # minutes of waiting: not among the tests


def measured(point: str, is_quick: bool) -> dict[str, Any]:
    module = import_module(f"benchmarks.reliability.{point.replace('-', '_')}")
    return line_of(point, module.measure, is_quick)


def main() -> int:
    known = (*POINTS, *LONG)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("points", nargs="*", metavar="POINT", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer cases: the form that the tests run")
    parser.add_argument("--table", type=Path, help="write the lines as a table, with machine and date, to this file")
    asked = parser.parse_args()
    if unknown := [point for point in asked.points if point not in known]:
        parser.error(f"no point '{unknown[0]}'; allowed: {', '.join(known)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    lines = []
    for point in asked.points or known:
        lines.append(measured(point, asked.quick))
        print(said(lines[-1]), flush=True)
    if asked.table is not None:
        asked.table.write_text(render(lines, asked.quick), encoding="utf-8")
    return 0 if all(line["holds"] and line["control"]["failed"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
