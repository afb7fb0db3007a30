"""A policy is not trained on a reward model at chance, unless the suite insists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.answers import finished
from alignbench.run.export import jobs_of
from alignbench.run.gate import refuse_at_chance
from alignbench.run.here import run_here
from alignbench.store import Store, write_json
from alignbench.suite.plan import Plan, plan_of
from alignbench.suite.spec import load_suite

TASK = """
import alignbench
from alignbench import HeldOutPairs, Pair
from alignbench.tasks.oracle import Oracle
from alignbench_baselines import BestOfN
from alignbench_ppo import PPO


class Contrary(Oracle):
    name = "contrary"

    def held_out_pairs(self):
        found = super().held_out_pairs()
        return HeldOutPairs([Pair(p.prompt, p.rejected, p.chosen) for p in found.pairs], found.human_accuracy)


class PPOBest(PPO):
    name = "ppo_best"

    def decoding(self, config):
        return BestOfN().decoding(BestOfN.Config(num_samples=2))


@alignbench.hookimpl
def alignbench_methods():
    return [PPOBest]


@alignbench.hookimpl
def alignbench_tasks():
    return [Contrary]
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "zz_contrary.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)

    def make(task: str, *rows: dict[str, Any], **keys: Any) -> Plan:
        suite = {
            "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 2, "task": task,
            "lora": {"r": 8, "alpha": 16}, "sft": {"max_steps": 60, "learning_rate": 0.003},
            "comparisons": {"source": "human", "pairs": 780},
            "reward_model": {"pooling": "last", "learning_rate": 0.01, "per_device_train_batch_size": 39},
            "evaluation": {"prompts": 4, "held_out_pairs": 390}, "methods": ["sft", *rows], **keys,
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(suite))
        return make_plan(load_suite(path), load_catalog(["zz_contrary"]))

    return make


def test_a_row_on_a_reward_at_chance_fails_in_one_line_and_its_siblings_go_on(planned) -> None:
    outcome = run_here(planned("contrary", {"method": "dpo"}, {"method": "ppo"}), Store(), is_strict=False)
    start, dpo, ppo = outcome.records
    assert (start.status, dpo.status, ppo.status, outcome.exit_code) == ("ok", "ok", "failed", 2)
    share = start.metrics["reward_model_accuracy"]
    assert share < 0.5
    assert f"its reward orders {share:.1%} of 390 held-out human pairs as people did" in ppo.cause
    assert "set `force: true` on the row" in ppo.cause
    assert "\n" not in ppo.cause


def test_force_trains_on_it_all_the_same(planned) -> None:
    plan = planned("contrary", {"method": "ppo", "force": True})
    assert run_here(plan, Store(), is_strict=True).exit_code == 0
    assert all(stage.gate is None for stage in plan.stages.values())


@pytest.mark.parametrize("first", ["plain", "forced"])
def test_each_row_of_two_on_one_training_is_judged_by_its_own_key_in_any_order(planned, first: str) -> None:
    rows = [{"method": "ppo", "label": "plain"}, {"method": "ppo", "label": "forced", "force": True}]
    plan = planned("contrary", *sorted(rows, key=lambda row: row["label"] != first))
    assert len({cell.train for cell in plan.cells[1:]}) == 1
    outcome = run_here(plan, Store(), is_strict=False)
    assert {record.label: record.status for record in outcome.records[1:]} == {"plain": "failed", "forced": "ok"}
    assert outcome.exit_code == 2


def test_what_an_earlier_run_forced_is_not_told_without_it(planned) -> None:
    store = Store()
    assert run_here(planned("contrary", {"method": "ppo", "force": True}), store, is_strict=True).exit_code == 0
    plan = planned("contrary", {"method": "ppo"})
    outcome = run_here(plan, store, is_strict=False)
    assert (outcome.records[1].status, outcome.exit_code) == ("failed", 2)
    assert "set `force: true` on the row" in outcome.records[1].cause
    assert "set `force: true`" in next(iter(finished(plan, store).left_out.values()))


def test_a_method_that_trains_and_decodes_is_refused_too(planned) -> None:
    plan = planned("contrary", {"method": "ppo_best"}, {"method": "best_of_n"})
    _, trained, untrained = run_here(plan, Store(), is_strict=False).records
    assert (trained.status, untrained.status) == ("failed", "ok")  # who trains nothing exploits nothing
    with pytest.raises(UserError, match=r"methods\[1\].force: 'best_of_n' is trained on no fitted reward model here"):
        planned("contrary", {"method": "best_of_n", "force": True})


def test_snapshots_of_a_refused_row_are_refused(planned) -> None:
    plan = planned("contrary", {"method": "ppo"}, snapshots=1)
    outcome = run_here(plan, Store(), is_strict=False)
    assert [record.status for record in outcome.records if record.label == "ppo"] == ["failed", "failed"]


def test_too_few_pairs_to_tell_are_told_as_such(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"hits": 1, "pairs": 1, "effective": 1.0})
    with pytest.raises(UserError, match=r"100.0% of 1 held-out .* raise `evaluation.held_out_pairs`"):
        refuse_at_chance(tmp_path, "reward card on x")


def test_a_sound_reward_passes_and_the_gate_is_no_part_of_the_key(planned) -> None:
    plan, forced = planned("oracle", {"method": "ppo"}), planned("oracle", {"method": "ppo", "force": True})
    assert run_here(plan, Store(), is_strict=True).exit_code == 0
    assert plan.stages.keys() == forced.stages.keys()


def test_force_is_refused_where_no_reward_model_is_optimised(planned) -> None:
    for row in ({"method": "dpo", "force": True}, {"method": "ppo", "reward": "length", "force": True}):
        with pytest.raises(UserError, match=r"toy.yaml:\d+ methods\[1\].force: .* remove the key"):
            planned("oracle", row)


def test_whoever_computes_the_stage_waits_for_its_gate(planned) -> None:
    """Another scheduler is told of it, and a plan in which it comes too late is damaged."""
    plan = planned("contrary", {"method": "ppo"})
    train = plan.stages[plan.cells[1].train]
    job = next(job for job in jobs_of(plan, Store(), Path("plan.json")) if job["key"] == train.key)
    assert train.gate in job["needs"]
    data = plan.to_dict()
    again = plan_of(json.loads(json.dumps(data)), plan.catalog, plan.task)
    assert again.stages == plan.stages
    card = next(stage for stage in data["stages"] if stage["key"] == train.gate)
    data["stages"] = [stage for stage in data["stages"] if stage is not card] + [card]
    with pytest.raises(UserError, match="damaged"):
        plan_of(data, plan.catalog, plan.task)


@pytest.mark.parametrize(
    ("hits", "is_refused"), [(50, True), (55, True), (55.5, False), (65, False), (20, True)]
)  # of a hundred: a coin's standard error is 5
def test_the_bar_is_one_standard_error_above_a_coin(tmp_path: Path, hits: float, is_refused: bool) -> None:
    write_json(tmp_path / "card.json", {"hits": hits, "pairs": 100, "effective": 100.0})
    if is_refused:
        with pytest.raises(UserError, match="of 100 held-out human pairs"):
            refuse_at_chance(tmp_path, "reward card on x")
    else:
        refuse_at_chance(tmp_path, "reward card on x")


def test_pairs_that_share_texts_raise_the_bar(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"hits": 58, "pairs": 100, "effective": 25.0})
    with pytest.raises(UserError, match=r"up to 60\.0% is what chance does"):
        refuse_at_chance(tmp_path, "reward card on x")
