"""What `alignbench check` prints: a line per check as it is done, then each failure in full.

A plugin that raises fails every check that runs it, the same way each time: that is told once, with its traceback.
"""

from __future__ import annotations

import textwrap
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console

from alignbench.errors import printable
from alignbench.plugins import Catalog
from alignbench.testing.bound import CheckFailure, in_column
from alignbench.testing.doors import all_checks, checks_for
from alignbench.testing.kit import NotApplicable, Speed
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
        _print(console, f"{time.perf_counter() - began:6.1f} s  {one.name}  {one.check.name}  {said}")
    for block in _blocks(failures):
        _print(console, f"\n{block}")
    silent = len(bound) - passed - len(failures)
    more = [one for name in dict.fromkeys(names) for one in checks_for(name, "learning", catalog)]
    untold = "; learning checks not run; add --learning" if len(more) > len(bound) else ""
    _print(console, f"\n{passed} passed, {len(failures)} failed, {silent} do not apply{untold}")
    return 1 if failures else 0


def list_checks(console: Console) -> None:
    """What each check requires, and the traps it fails on; a block each, as wide as the terminal."""
    for number, one in enumerate(all_checks()):
        traps = "; ".join(f"{trap} {TRAPS[trap]}" for trap in one.traps)
        lines = [f"{one.name}  ({one.subject}, {one.speed})"]
        for label, text in (("requires:  ", one.requires), ("fails on:  ", traps)):
            if text:
                lines += textwrap.wrap(
                    text,
                    console.width,
                    initial_indent=f"    {label}",
                    subsequent_indent=" " * (4 + len(label)),
                    break_on_hyphens=False,
                )
        _print(console, "\n" * bool(number) + "\n".join(lines))


def _blocks(failures: Sequence[CheckFailure]) -> list[str]:
    """Each failure's text; crashes of one plugin that raised the same at the same place are one."""
    blocks: list[str] = []
    alike: dict[tuple[str, str], list[CheckFailure]] = defaultdict(list)
    for failure in failures:
        if failure.is_crash:
            alike[failure.plugin, failure.observed].append(failure)
        else:
            blocks.append(str(failure))
    for (plugin, observed), group in alike.items():
        lines = {"plugin": plugin, "checks": ", ".join(one.check.name for one in group), "observed": observed}
        lines["likely cause"] = "the plugin raised; the checks saw no more than that"
        trace = "".join(traceback.format_exception(group[0].origin))
        blocks.append("\n".join([*map(in_column, lines, lines.values()), *map(printable, trace.splitlines())]))
    return blocks


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
