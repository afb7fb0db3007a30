"""A suite on the oracle task: which rows are held against which optimum, and that the numbers reach the records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.table import to_markdown
from alignbench.run.here import run_here
from alignbench.scoring.record import ENUMERATED
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

PPO = {"ent_coef": 0, "kl_coef": 1, "rollout_batch_size": 48, "per_device_train_batch_size": 48, "num_ppo_epochs": 1}
ROWS = [
    "sft",
    {"method": "dpo", "config": {"beta": 0.5, "per_device_train_batch_size": 117}},
    {"method": "ppo", "reward": "oracle", "config": {**PPO, "kl_coef": 2}},
    {"method": "ppo", "label": "ppo-reward-model", "config": PPO, "force": True},
    {"method": "ppo", "label": "ppo-bonus", "reward": "oracle", "config": {**PPO, "ent_coef": 0.01}},
    {"method": "rlaif", "config": PPO, "force": True},
    {"method": "constitutional", "config": {**PPO, "num_prompts": 12}, "force": True},
    {"method": "best_of_n", "config": {"n": 2, "num_samples": 3}},
]
WITH_OPTIMUM = {"dpo", "ppo", "ppo-reward-model", "rlaif", "constitutional"}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))

    def make(methods: list[Any] = ROWS, **keys: Any) -> Plan:
        suite = {
            "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 8, "task": "oracle",
            "kernels": kernels,
            "lora": {"r": 4, "alpha": 8}, "sft": {"max_steps": 5, "learning_rate": 0.01},
            "comparisons": {"source": "human", "pairs": 234},
            "reward_model": {"learning_rate": 0.01},
            "evaluation": {"prompts": 30, "held_out_pairs": 78, "bootstrap": 50},
            "methods": methods, **keys,
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(suite))
        return make_plan(load_suite(path), load_catalog())

    return make


def objectives(plan: Plan) -> dict[str, tuple[float | None, str | None] | None]:
    """By label: beta, and whose expectation counts."""
    stages = {cell.label: plan.stage(cell.score).inputs.get("closed_form") for cell in plan.cells}
    options = {label: None if key is None else plan.stage(key).options for label, key in stages.items()}
    return {label: None if found is None else (found["beta"], found["objective"]) for label, found in options.items()}


def test_a_row_is_held_against_the_optimum_of_what_it_optimised(planned) -> None:
    assert objectives(planned()) == {
        "sft": (None, None),
        "dpo": (0.5, "gold"),  # no reward of its own: that of the people behind the pairs
        "ppo": (2, "proxy"),
        "ppo-reward-model": (1, "proxy"),
        "ppo-bonus": (None, "proxy"),  # the entropy bonus moves the optimum
        "rlaif": (1, "proxy"),
        "constitutional": (1, "proxy"),
        "best_of_n": None,  # a decoding rule trains no policy
    }


def test_pairs_of_another_source_do_not_follow_gold_so_a_row_without_a_reward_has_no_optimum(planned) -> None:
    dpo = {"method": "dpo", "config": {"beta": 0.5}}
    for comparisons in ({"source": "oracle", "pairs": 24}, {"source": "judge", "pairs": 24, "human_pairs": 24}):
        assert objectives(planned([dpo], comparisons=comparisons)) == {"dpo": (0.5, None)}


def test_a_task_that_cannot_list_its_completions_has_no_such_stage(suite_file) -> None:
    plan = make_plan(load_suite(suite_file(["sft", "dpo"])), load_catalog())
    assert {stage.kind for stage in plan.stages.values()}.isdisjoint({"closed_form"})


def test_the_numbers_reach_the_records_and_the_table(planned, tmp_path: Path) -> None:
    outcome = run_here(planned(), Store(tmp_path / "store"))
    assert [record.cause for record in outcome.records] == [None] * len(ROWS)
    records = {record.label: record for record in outcome.records}
    for label, record in records.items():
        have = {name for name in ENUMERATED if record.metrics.get(name) is not None}
        wanted = set(ENUMERATED) if label in WITH_OPTIMUM else set(ENUMERATED[:3])
        assert have == (set() if label == "best_of_n" else wanted), label
    assert records["sft"].metrics["kl_nats_enumerated"] == 0
    assert records["dpo"].metrics["kl_nats_enumerated"] > 0
    own, other = (records[label].metrics for label in ("ppo", "ppo-reward-model"))
    assert own["reward_proxy_enumerated"] == own["reward_gold_enumerated"]  # its reward is gold itself
    assert other["reward_proxy_enumerated"] != other["reward_gold_enumerated"]
    for label in ("dpo", "ppo"):
        assert 0 < records[label].metrics["objective_share"] < 1, label
    markdown = to_markdown(outcome.records)
    assert markdown.startswith("| Method | TV to optimum |")
    assert "**KL to optimum** (nats, lower is better)" in markdown


def test_every_stage_and_record_says_which_kernels_ran_and_fast_and_plain_share_no_stage(planned, tmp_path) -> None:
    store, seen = Store(tmp_path / "store"), []
    for kernels in ("fast", "plain"):
        plan = planned(["sft"], kernels=kernels)
        (record,) = run_here(plan, store).records
        seen.append((set(plan.stages), record.context.machine["kernels"]))
        metas = [store.meta(key)["machine"] for key in plan.stages]
        assert {meta["kernels"].split(":")[0] for meta in metas} == {kernels}
        waits = os.environ.get("OMP_WAIT_POLICY") or f"spin {os.environ['GOMP_SPINCOUNT']}"
        assert {meta["thread_wait"] for meta in metas} == {waits}
    (fast, said_fast), (plain, said_plain) = seen
    assert fast.isdisjoint(plain)
    assert (said_fast, said_plain) == ("fast: packing, sampling, logprobs, norms, adapters", "plain")


def test_another_models_language_fails_the_row_and_says_which_model_to_name(
    planned, tmp_path: Path, dialogue_model: Path
) -> None:
    plan = planned(["sft"], model=str(dialogue_model))
    (record,) = run_here(plan, Store(tmp_path / "store")).records
    assert "not 1: set `model` to one whose whole vocabulary" in (record.cause or "")
