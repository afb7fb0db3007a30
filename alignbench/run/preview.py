"""What a run would do, before it does it: stages, what is cached, how long the rest may take."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from alignbench.api import Stage
from alignbench.run.board import describe
from alignbench.store import Store
from alignbench.suite.plan import Plan

# Seconds per unit of `size`: the quickstart on two cores of an AMD Zen 5, bfloat16; replaced by what this store saw
# of a kind. A stage's size is what its time grows with: steps, pairs, completions.
SECONDS_PER_UNIT = {
    "sft": 0.2, "samples": 0.01, "comparisons": 0.015, "human_comparisons": 0.0001, "joined_comparisons": 0.0001,
    "reward_model": 0.04, "train": 0.75, "completions": 0.025, "gold": 0.002, "gold_rewards": 0.006,
    "proxy_rewards": 0.01, "gold_card": 2.0, "reward_card": 0.02, "closed_form": 0.001, "score": 0.0005,
    "revisions": 0.1,
}  # fmt: skip


def plan_table(plan: Plan, store: Store) -> Table:
    """One line per stage, one with the sum, and one with what the cells would take each by itself."""
    seen = seconds_per_unit(plan, store)
    estimates = {key: size(stage) * seen.get(stage.kind, 1.0) for key, stage in plan.stages.items()}
    missing = {key: seconds for key, seconds in estimates.items() if not store.has(key)}
    table = Table("key", "stage", "state", "estimate", box=None, pad_edge=False)
    for key, stage in plan.stages.items():
        state, seconds = ("to do", f"{missing[key]:.0f} s") if key in missing else ("cached", "")
        table.add_row(key[:12], escape(describe(stage)), state, seconds)
    whole = f"{len(plan.stages)} stages, {len(plan.cells)} cells"
    table.add_row("", whole, f"{len(missing)} to do", f"{sum(missing.values()):.0f} s")
    alone = [estimates[key] for cell in plan.cells for key in plan.upstream(cell.score)]
    saved = f"{len(alone) - len(plan.stages)} stages and {1 - sum(estimates.values()) / sum(alone):.0%}"
    table.add_row("", f"sharing saves {saved} of the time of the cells one by one", "", "")
    return table


def seconds_per_unit(plan: Plan, store: Store) -> Mapping[str, float]:
    """The median of what cached stages of this plan took, where there is one."""
    taken: dict[str, list[float]] = {}
    for key, stage in plan.stages.items():
        if store.has(key):
            cost: dict[str, Any] = store.meta(key).get("cost", {})
            taken.setdefault(stage.kind, []).append(cost.get("seconds", 0.0) / max(1.0, size(stage)))
    return {**SECONDS_PER_UNIT, **{kind: median(values) for kind, values in taken.items()}}


def size(stage: Stage) -> float:
    """What the time of a stage grows with."""
    o = stage.options
    if stage.kind == "train":
        return o["max_steps"] if o["method"] else 0.01
    if stage.kind == "reward_model":
        return size(stage.inputs["comparisons"]) * o["num_train_epochs"]
    if stage.kind == "joined_comparisons":
        return sum(size(part) for part in stage.inputs.values())
    if stage.kind == "comparisons":
        return stage.inputs["samples"].options["prompts"]
    if stage.kind == "samples":
        return o["prompts"] * o["per_prompt"]
    if stage.kind == "completions":
        return o["prompts"] * o["per_prompt"]
    if "completions" in stage.inputs:
        return size(stage.inputs["completions"])
    if stage.kind == "gold_card":
        return 1
    if stage.kind == "reward_card":
        return o["held_out_pairs"]
    if stage.kind == "gold":
        return 4000
    return float(next((o[name] for name in ("max_steps", "pairs", "num_prompts") if name in o), 100))
