"""Seeds are full replicates: what each draws anew, what all have in common, and what `share` gives back."""

from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.stages.view import drawn
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

SUITE = """
model: oracle-llama
task: oracle
device: cpu
dtype: float32
seeds: [0, 1]
max_steps: 2
sft: {max_steps: 1}
comparisons: {source: panel, pairs: 12, human_pairs: 12}
evaluation: {prompts: 6, samples_per_prompt: 2, start_samples_per_prompt: 3, held_out_pairs: 4}
methods: [sft, ppo, dpo, constitutional, {method: best_of_n, config: {n: 2, num_samples: 3}}]
"""
COMMON = {"gold", "gold_card"}


@pytest.fixture
def plan_of(tmp_path: Path):
    def make(more: str = "") -> Plan:
        path = tmp_path / "replicates.yaml"
        path.write_text(SUITE + more)
        return make_plan(load_suite(path), load_catalog())

    return make


def stages_of(plan: Plan, seed: int) -> dict[str, str]:
    """Key -> kind of every stage that the replicate's cells rest on."""
    cells = [cell for cell in plan.cells if cell.seed == seed]
    return {key: stage.kind for cell in cells for key, stage in plan.upstream(cell.score).items()}


def common_kinds(plan: Plan) -> set[str]:
    first, second = (stages_of(plan, seed) for seed in plan.suite.seeds)
    return {kind for key, kind in first.items() if key in second}


def test_two_replicates_have_gold_alone_in_common(plan_of) -> None:
    plan = plan_of()
    assert common_kinds(plan) == COMMON
    drawn_anew = set(stages_of(plan, 0).values()) - COMMON
    assert {
        "sft",
        "samples",
        "comparisons",
        "human_comparisons",
        "revisions",
        "reward_model",
        "train",
        "completions",
    } <= drawn_anew


@pytest.mark.parametrize(
    ("share", "kinds"),
    [
        ("[sft]", {"sft"}),
        ("[sft, labels]", {"sft", "samples", "comparisons", "human_comparisons", "joined_comparisons", "revisions"}),
        (
            "[sft, labels, reward_model]",
            {"sft", "samples", "comparisons", "human_comparisons", "joined_comparisons", "revisions", "reward_model"},
        ),
    ],
    ids=["sft", "labels", "reward_model"],
)
def test_share_draws_a_part_once_for_all_replicates(plan_of, share, kinds) -> None:
    beyond = {"untrained", "reward_card"}  # they rest on what is shared, and on nothing that is drawn
    common = common_kinds(plan_of(f"share: {share}\n"))
    assert common - COMMON - beyond == kinds
    assert "train" not in common
    assert "completions" not in common


def test_a_replicate_draws_other_label_prompts_and_the_same_held_out_ones(plan_of) -> None:
    task = plan_of().task
    label = [drawn(task, "label", seed)[:50] for seed in (0, 1)]
    assert label[0] != label[1]
    assert sorted(drawn(task, "label", 0)) == sorted(task.prompts("label"))
    assert drawn(task, "label", 0)[:50] == label[0]
    assert drawn(task, "eval", 0) == drawn(task, "eval", 1) == task.prompts("eval")


def test_a_stage_that_each_replicate_makes_anew_is_told_by_its_seed(plan_of) -> None:
    titles = [stage.title for stage in plan_of().stages.values()]
    assert len(set(titles)) == len(titles)
    assert {"sft, seed 0", "sft, seed 1", "gold"} <= set(titles)
    alone = {stage.title for stage in plan_of("share: [sft]\n").stages.values()}
    assert "sft" in alone


def test_the_start_is_scored_on_the_samples_every_gain_is_measured_against(plan_of) -> None:
    plan = plan_of()
    by_label = {cell.label: plan.stages[cell.score] for cell in plan.cells if cell.seed == 0}
    start = by_label["sft"].inputs
    assert start["gold"] == start["baseline_gold"]
    assert {score.inputs["baseline_gold"] for score in by_label.values()} == {start["gold"]}
    counted = {
        label: plan.stages[score.inputs["completions"]].options["per_prompt"] for label, score in by_label.items()
    }
    assert counted == {"sft": 3, "ppo": 2, "dpo": 2, "constitutional": 2, "best_of_n": 3}
    assert (
        by_label["best_of_n"].inputs["completions"] == start["completions"]
    )  # the start's own, as many as it asks for


@pytest.mark.parametrize(
    ("share", "missing"),
    [("[labels]", "labels rests on sft"), ("[reward_model]", "reward_model rests on sft and labels")],
)
def test_a_part_is_not_shared_without_what_it_rests_on(plan_of, share, missing) -> None:
    with pytest.raises(UserError, match=rf"share: {missing}, which each replicate draws anew; add"):
        plan_of(f"share: {share}\n")
    plan_of("share: [sft]\n")


def test_labels_of_people_may_be_shared_without_the_start(plan_of, tmp_path: Path) -> None:
    path = tmp_path / "human.yaml"
    path.write_text(
        SUITE.replace("{source: panel, pairs: 12, human_pairs: 12}", "{source: human, pairs: 12}") + "share: [labels]\n"
    )
    assert "human_comparisons" in common_kinds(make_plan(load_suite(path), load_catalog()))


def test_the_temperature_is_in_the_key_of_all_that_samples_and_of_nothing_else(plan_of) -> None:
    cold, warm = (stages_of(plan_of(f"temperature: {heat}\n"), 0) for heat in (0.7, 1.0))
    same = {kind for key, kind in cold.items() if key in warm}
    assert same == COMMON | {"sft", "untrained", "human_comparisons"}
