"""What each row may use: the suite's steps or its own, and the suite's budget for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

SUITE = """
model: oracle-llama
task: oracle
device: cpu
max_steps: 6
snapshots: 1
comparisons: {source: human, pairs: 12}
methods: [sft, dpo, {method: dpo, label: short, max_steps: 2}, {method: dpo, label: none, max_steps: 0}]
"""


def planned(folder: Path, more: str = "") -> Plan:
    path = folder / "allowance.yaml"
    path.write_text(SUITE + more)
    return make_plan(load_suite(path), load_catalog())


def test_a_rows_own_steps_replace_the_suites_and_place_its_snapshots(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    trains = {cell.label: plan.stage(cell.train).options for cell in plan.cells if cell.label != "sft"}
    assert {label: options["max_steps"] for label, options in trains.items()} == {"dpo": 6, "short": 2, "none": 0}
    assert {label: list(options["snapshots"]) for label, options in trains.items()} == {
        "dpo": [3], "short": [1], "none": [],
    }  # fmt: skip
    assert {options["budget"] for options in trains.values()} == {None}


def test_a_budget_is_in_every_row_and_in_no_other_stage(tmp_path: Path) -> None:
    plain, budgeted = planned(tmp_path), planned(tmp_path, "budget: {episodes: 12}\n")
    for cell in budgeted.cells:
        train = budgeted.stage(cell.train)
        assert train.kind == "untrained" or train.options["budget"] == {"episodes": 12.0}
    new = {stage.kind for key, stage in budgeted.stages.items() if key not in plain.stages}
    assert "train" in new
    assert not new & {"sft", "human_comparisons", "reward_model", "untrained"}


@pytest.mark.parametrize("given", ["{}", "{flops: 1.0e9, episodes: 3}", "{episodes: 0}", "{watts: 3}"])
def test_a_budget_that_is_none_is_one_line_with_its_place(tmp_path: Path, given: str) -> None:
    with pytest.raises(UserError, match=r"allowance.yaml:9 budget") as refused:
        planned(tmp_path, f"budget: {given}\n")
    assert "\n" not in str(refused.value)
