"""A row may have a reward model of its own, or several as one; what it does not say is the suite's."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store, read_rows
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

SUITE = """
model: oracle-llama
task: oracle
device: cpu
dtype: float32
max_steps: 2
lora: {r: 4, alpha: 8}
sft: {max_steps: 2}
comparisons: {source: human, pairs: 12}
reward_model: {layers: 1, per_device_train_batch_size: 6}
evaluation: {prompts: 4, held_out_pairs: 4, samples_per_prompt: 2}
methods:
  - {method: ppo, force: true}
"""


@pytest.fixture
def planned(tmp_path: Path):
    def plan(*rows: str, text: str = SUITE) -> Plan:
        file = tmp_path / "suite.yaml"
        file.write_text(text + "".join(f"  - {row}\n" for row in rows))
        return make_plan(load_suite(file), load_catalog())

    return plan


def reward(plan: Plan, cell: int):
    return plan.stage(plan.cells[cell].train, "reward")


def test_a_row_says_what_it_has_otherwise_and_the_rest_is_the_suites(planned) -> None:
    plan = planned("{method: ppo, label: longer, force: true, reward_model: {num_train_epochs: 4}}")
    suites, own = reward(plan, 0), reward(plan, 1)
    different = {name for name in suites.options if suites.options[name] != own.options[name]}
    assert different == {"num_train_epochs"}
    assert own.inputs == suites.inputs
    assert plan.cells[1].proxy == "reward_model(human), num_train_epochs 4"


def test_an_ensembles_first_member_is_the_model_that_stands_alone(planned) -> None:
    several = "{method: ppo, label: several, force: true, reward_model: {members: 3, combine: worst}}"
    others = "{method: best_of_n, reward_model: {members: 3, combine: mean}}"
    plan = planned(several, others)
    ensemble, other = reward(plan, 1), plan.stage(plan.cells[2].score, "reward_card", "proxy")
    members = [ensemble.inputs[f"member_{i}"] for i in range(3)]
    assert members == [other.inputs[f"member_{i}"] for i in range(3)]
    assert members[0] == reward(plan, 0).key
    assert len({*members}) == 3
    assert plan.cells[1].proxy == 'worst of 3 reward_model(human), members 3, combine "worst"'
    store = Store()
    records = run_here(plan, store, is_strict=True).records
    assert all(record.status == "ok" for record in records)
    assert [record.metrics["reward_model_steps"] for record in records] == [2, 6, 6]
    assert "reward_model_brier" not in records[1].metrics  # its scores claim no probability
    assert len(read_rows(store.get(ensemble.key) / "history.jsonl")) == 6


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ("{num_train_epoch: 4}", r":14 methods\[1\].reward_model.num_train_epoch: unknown key; did you mean 'num_tra"),
        ("{members: 0}", r":14 methods\[1\].reward_model.members: should be greater than or equal to 1, got 0"),
        ("{combine: worst}", r":14 methods\[1\].reward_model: combine: worst needs several reward models; set members"),
        (
            "{eval_steps: 2}",
            r":14 methods\[1\].reward_model: eval_steps and early_stopping_patience need pairs to look",
        ),
        ("{layers: 99}", r":14 methods\[1\].reward_model.layers: 99 asked for, the model has"),
    ],
)
def test_a_mistake_is_told_where_the_row_makes_it(planned, own: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        planned(f"{{method: ppo, label: own, force: true, reward_model: {own}}}")


@pytest.mark.parametrize("row", ["dpo", "ppo, reward: length", "sft"])
def test_a_row_that_fits_none_is_refused(planned, row: str) -> None:
    with pytest.raises(UserError, match=r":14 methods\[1\].reward_model: '\w+' fits no reward model here; remove the"):
        planned(f"{{method: {row}, label: own, reward_model: {{num_train_epochs: 4}}}}")


def test_a_row_with_lists_of_its_own_beside_pairs_is_refused(planned) -> None:
    mixed = SUITE.replace("{source: human, pairs: 12}", "{source: panel, pairs: 12, human_pairs: 4}")
    mixed = mixed.replace("methods:", "samples: {per_prompt: 4}\nmethods:")
    with pytest.raises(UserError, match=r"methods\[1\].reward_model: listwise cannot take lists of 4"):
        planned("{method: ppo, label: own, force: true, reward_model: {loss: listwise}}", text=mixed)
