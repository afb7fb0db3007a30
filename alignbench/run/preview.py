"""What a run would do, before it does it: stages, what is cached, how long the rest may take."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from rich.markup import escape
from rich.table import Table

from alignbench.errors import printable
from alignbench.store import Store
from alignbench.suite.plan import Plan


def plan_table(plan: Plan, store: Store) -> Table:
    """One line per stage, one with the sum, and one with what the cells would take each by itself."""
    pace = pace_of_kinds(plan, store)
    estimates = {key: stage.estimate * pace.get(stage.kind, 1.0) for key, stage in plan.stages.items()}
    missing = {key: seconds for key, seconds in estimates.items() if not store.has(key)}
    table = Table("key", "stage", "state", "estimate", box=None, pad_edge=False)
    for key, stage in plan.stages.items():
        state, seconds = ("to do", f"{missing[key]:.0f} s") if key in missing else ("cached", "")
        table.add_row(key[:12], escape(printable(stage.title)), state, seconds)
    for cell in plan.cells:
        if cell.score is None:
            table.add_row("", escape(printable(f"{cell.label}, seed {cell.seed}: {cell.cause}")), "failed", "")
    ends = sum(cell.snapshot is None for cell in plan.cells)
    along = f", {len(plan.cells) - ends} snapshots" if len(plan.cells) > ends else ""
    whole = f"{len(plan.stages)} stages, {ends} cells{along}"
    table.add_row("", whole, f"{len(missing)} to do", f"{sum(missing.values()):.0f} s")
    alone = [estimates[key] for cell in plan.cells if cell.score for key in plan.upstream(cell.score)]
    if sum(alone) > 0:
        saved = f"{len(alone) - len(plan.stages)} stages and {1 - sum(estimates.values()) / sum(alone):.0%}"
        table.add_row("", f"sharing saves {saved} of the time of the cells one by one", "", "")
    return table


def pace_of_kinds(plan: Plan, store: Store) -> Mapping[str, float]:
    """For each kind of which stages of this plan are cached: the median of what they took over their estimates."""
    taken: dict[str, list[float]] = {}
    for key, stage in plan.stages.items():
        if stage.estimate > 0 and store.has(key):
            seconds = store.meta(key).get("cost", {}).get("seconds", 0.0)
            taken.setdefault(stage.kind, []).append(seconds / stage.estimate)
    return {kind: median(values) for kind, values in taken.items()}
