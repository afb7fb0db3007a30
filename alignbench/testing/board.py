"""What `alignbench check` prints: a line per check as it is done, then each failure in full."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignbench.plugins import Catalog
from alignbench.testing.kit import CheckFailure, NotApplicable, Speed, all_checks, checks_for
from alignbench.testing.traps import TRAPS


def run_checks(names: Sequence[str], catalog: Catalog, speed: Speed, console: Console) -> int:
    """Every check of every name; 0, or 1 if one failed. UserError before the first if a name is unknown."""
    bound = [one for name in dict.fromkeys(names) for one in checks_for(name, speed, catalog)]
    failures: list[CheckFailure] = []
    passed = 0
    for one in bound:
        began, said = time.perf_counter(), "ok"
        try:
            one()
            passed += 1
        except NotApplicable as reason:
            said = f"does not apply: {reason}"
        except CheckFailure as failure:
            said = "FAILED"
            failures.append(failure)
        seconds = time.perf_counter() - began
        console.print(f"{seconds:6.1f} s  {one.name}  {one.check.name}  {said}", highlight=False, markup=False)
    for failed in failures:
        console.print(f"\n{failed}", highlight=False, markup=False, soft_wrap=True)
    silent = len(bound) - passed - len(failures)
    console.print(f"\n{passed} passed, {len(failures)} failed, {silent} do not apply", highlight=False)
    return 1 if failures else 0


def list_checks(console: Console) -> None:
    """What each check requires, and the traps it fails on."""
    table = Table("of a", "check", "speed", "requires", "fails on", box=None, pad_edge=False)
    for one in all_checks():
        traps = "; ".join(f"{number} {TRAPS[number]}" for number in one.traps)
        table.add_row(*map(escape, (one.subject, one.name, one.speed, one.requires, traps)))
    console.print(table)
