"""PPO in rounds: each round's reward model has read what the last round's policy says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store, read_rows
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))

    def make(rounds: int, max_steps: int = 2, **comparisons: Any) -> Plan:
        config = {"learning_rate": 0.02, "rollout_batch_size": 8, "per_device_train_batch_size": 8}
        wanted = {"source": "judge", "pairs": 12, "human_pairs": 4, **comparisons}
        suite = {
            "model": "oracle-llama", "task": "oracle", "device": "cpu", "dtype": "float32", "max_steps": max_steps,
            "lora": {"r": 4, "alpha": 8}, "sft": {"max_steps": 2}, "comparisons": wanted,
            "evaluation": {"prompts": 4, "held_out_pairs": 4, "samples_per_prompt": 2},
            "methods": [
                {"method": "ppo", "config": config, "force": True},
                {"method": "ppo_iterated", "config": {**config, "num_rounds": rounds}, "force": True},
            ],
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(suite))
        return make_plan(load_suite(path), load_catalog())

    return make


def test_one_round_is_ppo_with_its_reward_model(planned) -> None:
    plan = planned(1)
    rewards = [plan.stages[cell.train].inputs["reward"] for cell in plan.cells]
    assert rewards[0] == rewards[1]


def test_each_round_adds_the_last_policys_samples_and_the_first_is_the_ppo_row(planned) -> None:
    plan, store = planned(3), Store()
    plain, last = (plan.stages[cell.train] for cell in plan.cells)
    compared = plan.stage(last.key, "reward", "comparisons")
    assert list(compared.inputs) == ["samples", "samples_1", "samples_2", "human"]
    assert plan.stage(compared.key, "samples_1", "samples", "policy").key == plain.key
    second = plan.stage(compared.key, "samples_2", "samples", "policy")
    assert list(plan.stage(second.key, "reward", "comparisons").inputs) == ["samples", "samples_1", "human"]
    assert last.inputs["start"] == second.inputs["start"] == plain.inputs["start"]
    records = run_here(plan, store, is_strict=True).records
    assert [record.status for record in records] == ["ok", "ok"]
    first, again = (read_rows(store.get(plan.stage(compared.key, name, "samples").key) / "rows.jsonl")
                    for name in ("samples", "samples_1"))  # fmt: skip
    assert [row["prompt"] for row in first] == [row["prompt"] for row in again]
    assert first != again
    labels = [record.cost.total.labels_ai for record in records]
    assert labels == [12, 36]  # 12 pairs a round
    assert records[1].metrics["fitted_pairs"] == len(read_rows(store.get(compared.key) / "rows.jsonl"))


def test_a_policy_that_took_no_step_says_what_the_start_says(planned) -> None:
    plan, store = planned(2, max_steps=0), Store()
    run_here(plan, store, is_strict=True)
    compared = plan.stage(plan.cells[1].train, "reward", "comparisons")
    samples = [store.get(plan.stage(compared.key, name, "samples").key) for name in ("samples", "samples_1")]
    assert len({*samples}) == 2
    assert read_rows(samples[0] / "rows.jsonl") == read_rows(samples[1] / "rows.jsonl")


def test_peoples_own_pairs_cannot_be_had_of_a_policys_samples(planned) -> None:
    with pytest.raises(
        UserError, match=r":1 comparisons\.source: people's own pairs say nothing of a policy's samples"
    ):
        planned(2, source="human", human_pairs=0)
    planned(1, source="human", human_pairs=0)
