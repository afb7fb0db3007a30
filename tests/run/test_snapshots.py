"""Policies at places along their training, scored as its end is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.table import write_results
from alignbench.run.here import run_here
from alignbench.scoring.record import Record, parted, read_records
from alignbench.store import Store
from alignbench.suite.plan import Plan, plan_of
from alignbench.suite.spec import load_suite

STEADY = {"lr_scheduler_type": "constant", "learning_rate": 0.01, "per_device_train_batch_size": 8}
PPO = {**STEADY, "rollout_batch_size": 8, "num_ppo_epochs": 1, "ent_coef": 0}
ROWS = [{"method": "dpo", "config": STEADY}, {"method": "ppo", "reward": "oracle", "config": PPO}]


def planned(folder: Path, methods: list[Any], **keys: Any) -> Plan:
    suite = {
        "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 6, "task": "oracle",
        "lora": {"r": 4, "alpha": 8}, "sft": {"max_steps": 4, "learning_rate": 0.01},
        "comparisons": {"source": "human", "pairs": 48}, "evaluation": {"prompts": 8, "held_out_pairs": 8},
        "methods": methods, **keys,
    }  # fmt: skip
    path = folder / "toy.yaml"
    path.write_text(json.dumps(suite))
    return make_plan(load_suite(path), load_catalog())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))

    def records(methods: list[Any], **keys: Any) -> list[Record]:
        return run_here(planned(tmp_path, methods, **keys), Store(), is_strict=True).records

    return records


def numbers(record: Record) -> Any:
    return record.metrics, record.per_prompt, record.counts


def test_a_snapshot_is_the_policy_of_a_run_that_ends_there(run) -> None:
    """With a steady learning rate a shorter run is the beginning of a longer one: same draws, same adapter."""
    ends, along = parted(run(ROWS, snapshots=2))
    assert [(r.label, r.snapshot.name, r.snapshot.value) for r in along] == [
        ("dpo", "step", 2), ("dpo", "step", 4), ("ppo", "step", 2), ("ppo", "step", 4),
    ]  # fmt: skip
    for steps in (2, 4):
        shorter = run(ROWS, max_steps=steps)
        there = [record for record in along if record.snapshot.value == steps]
        assert [numbers(record) for record in there] == [numbers(record) for record in shorter]
        for one, other in zip(there, shorter, strict=True):
            assert one.cost.marginal.tokens_trained == other.cost.marginal.tokens_trained
            assert one.cost.total.tokens_trained == other.cost.total.tokens_trained
            assert one.cost.marginal.flops == other.cost.marginal.flops > 0
    assert len({str(numbers(record)) for record in (*ends, *along)}) == 6
    assert [numbers(record) for record in run(ROWS)] == [numbers(record) for record in ends]  # and moves no end


def test_the_ns_of_best_of_n_are_those_of_rows_of_their_own(run) -> None:
    def best_of(n: int) -> dict[str, Any]:
        return {"method": "best_of_n", "config": {"n": n, "num_samples": 8}}

    _, along = parted(run([best_of(8)], snapshots=5))
    assert [(r.snapshot.name, r.snapshot.value) for r in along] == [("n", 2), ("n", 4)]
    for record in along:
        (alone,) = run([best_of(int(record.snapshot.value))])
        assert numbers(record) == numbers(alone)
    assert [r.snapshot.value for r in parted(run([best_of(8)], snapshots=1))[1]] == [4]


def test_where_a_run_has_ended_early_its_end_is_what_stands_there(run, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "zz_early.py").write_text(
        "import alignbench, alignbench_dpo\n\n\nclass Early(alignbench_dpo.DPO):\n    name = 'early'\n\n"
        "    def train(self, trial, config):\n        trial.budget.max_steps, whole = 3, trial.budget.max_steps\n"
        "        super().train(trial, config)\n        trial.budget.max_steps = whole\n\n\n"
        "@alignbench.hookimpl\ndef alignbench_methods():\n    return [Early]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    suite = planned(tmp_path, [{"method": "dpo", "config": STEADY}], snapshots=2).suite
    rows = [suite.methods[0].model_copy(update={"method": "early", "label": "early"})]
    plan = make_plan(suite.model_copy(update={"methods": tuple(rows)}), load_catalog(["zz_early"]))
    ends, along = parted(run_here(plan, Store(), is_strict=True).records)
    assert [record.snapshot.value for record in along] == [2, 4]
    assert numbers(along[1]) == numbers(ends[0]) != numbers(along[0])
    assert along[1].cost.marginal == ends[0].cost.marginal
    assert along[0].cost.marginal.tokens_trained < ends[0].cost.marginal.tokens_trained


def test_places_are_even_distinct_and_on_the_way(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))

    def places(max_steps: int, snapshots: int) -> list[int]:
        plan = planned(tmp_path, ROWS[:1], max_steps=max_steps, snapshots=snapshots)
        assert plan_of(json.loads(json.dumps(plan.to_dict())), plan.catalog, plan.task) == plan
        return [cell.snapshot["value"] for cell in plan.cells if cell.snapshot]

    assert places(64, 3) == [16, 32, 48]
    assert places(2, 9) == [1]
    assert places(0, 3) == places(64, 0) == []
    with pytest.raises(UserError, match="snapshots"):
        places(6, -1)


def test_the_table_is_of_the_ends_and_snapshots_have_a_file_of_their_own(run, tmp_path: Path) -> None:
    records = run(["sft", *ROWS[:1]], snapshots=1)
    folder = tmp_path / "results"
    write_results(folder, records)
    assert [(r.label, r.snapshot) for r in read_records(folder / "records.jsonl")] == [("sft", None), ("dpo", None)]
    assert [(r.label, r.snapshot.value) for r in read_records(folder / "snapshots.jsonl")] == [("dpo", 3)]
    assert (folder / "table.csv").read_text().count("\ndpo") == 1
    write_results(folder, parted(records)[0])
    assert not (folder / "snapshots.jsonl").exists()
