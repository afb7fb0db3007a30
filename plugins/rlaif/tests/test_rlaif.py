"""RLAIF's recipe: what it shares with PPO's, and the one thing in which it differs."""

from __future__ import annotations

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite
from alignbench_ppo import PPO
from alignbench_rlaif import RLAIF

LABELLED_BY_LENGTH = {"source": "length", "pairs": 12}  # stands in for people


def planned(suite_file, *methods, **keys) -> Plan:
    return make_plan(load_suite(suite_file(list(methods), **keys)), load_catalog())


def test_it_differs_from_ppo_in_who_labels_the_same_samples(suite_file) -> None:
    plan = planned(suite_file, "ppo", "rlaif", comparisons=LABELLED_BY_LENGTH)
    people, judge = (plan.stage(cell.train, "reward") for cell in plan.cells)
    assert people.kind == judge.kind == "reward_model"
    assert dict(people.options) == dict(judge.options)
    labels = [plan.stage(fitted.key, "comparisons") for fitted in (people, judge)]
    assert [stage.options["source"]["name"] for stage in labels] == ["length", "judge"]
    assert len({stage.inputs["samples"] for stage in labels}) == 1
    assert len({plan.stage(cell.train).inputs["start"] for cell in plan.cells}) == 1
    assert plan.cells[1].proxy == "reward_model(judge)"


def test_it_trains_by_ppos_own_code_and_options() -> None:
    assert RLAIF.train is PPO.train
    assert RLAIF.Config().model_dump(exclude={"judge", "direct"}) == PPO.Config().model_dump()


def test_direct_optimises_the_judge_itself_without_samples_or_a_reward_model(suite_file) -> None:
    config = {"direct": True, "judge": {"format": "pairwise"}}
    plan = planned(suite_file, {"method": "rlaif", "config": config})
    (cell,) = plan.cells
    train = plan.stage(cell.train)
    assert set(train.inputs) == {"start"}
    assert train.options["reward"]["name"] == "judge"
    assert train.options["reward"]["options"] == {"format": "pairwise"}
    assert {stage.kind for stage in plan.upstream(train.key).values()} == {"train", "sft"}
    assert cell.proxy == "judge"


def test_another_judge_makes_other_labels_of_the_same_samples(suite_file) -> None:
    rows = [
        {"method": "rlaif", "label": name, "config": {"judge": {"format": name}}} for name in ("pointwise", "pairwise")
    ]
    plan = planned(suite_file, *rows)
    labels = [plan.stage(cell.train, "reward", "comparisons") for cell in plan.cells]
    assert len({stage.key for stage in labels}) == 2
    assert len({stage.inputs["samples"] for stage in labels}) == 1


@pytest.mark.parametrize("direct", [False, True])
def test_a_misspelt_option_of_the_judge_is_found_before_anything_runs(suite_file, direct: bool) -> None:
    row = {"method": "rlaif", "config": {"direct": direct, "judge": {"formatt": "pairwise"}}}
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+ methods\[0\].*formatt: unknown key; did you mean 'format'\?"):
        planned(suite_file, row)
