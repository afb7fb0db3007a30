"""A row learns from comparisons of its own where it asks for any, and everything else of it is as its neighbours'."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.api import turned
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.notes import remarks
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
comparisons: {source: panel, options: {raters: 3}, pairs: 12, human_pairs: 8}
evaluation: {prompts: 4, held_out_pairs: 4, samples_per_prompt: 2}
methods:
  - dpo
"""
PEOPLE = SUITE.replace("{source: panel, options: {raters: 3}, pairs: 12, human_pairs: 8}", "{source: human, pairs: 20}")


@pytest.fixture
def planned(tmp_path: Path):
    def plan(*rows: str, text: str = SUITE) -> Plan:
        file = tmp_path / "suite.yaml"
        file.write_text(text + "".join(f"  - {row}\n" for row in rows))
        return make_plan(load_suite(file), load_catalog())

    return plan


def preferences(plan: Plan, cell: int):
    return plan.stage(plan.cells[cell].train, "preferences")


def test_a_row_says_what_it_has_otherwise_and_the_rest_is_the_suites(planned) -> None:
    plan = planned("{method: dpo, label: few, comparisons: {pairs: 4}}", "{method: dpo, label: alike, comparisons: {}}")
    suites, few, alike = (preferences(plan, i) for i in range(3))
    assert alike.key == suites.key
    samples = [plan.stage(found.key, "samples", "samples").options["prompts"] for found in (suites, few)]
    assert samples == [12, 4]
    assert few.inputs["human"] == suites.inputs["human"]
    assert len({plan.stages[cell.train].inputs["start"] for cell in plan.cells}) == 1
    assert plan.cells[1].comparisons == "4 pairs, labelled by panel, and 8 real human pairs"


def test_another_source_has_its_own_options_and_its_own_reward_model(planned) -> None:
    plan = planned(
        "{method: ppo, label: people}", "{method: ppo, label: judged, comparisons: {source: judge, human_pairs: 0}}"
    )
    people, judged = (plan.stage(plan.cells[i].train, "reward", "comparisons") for i in (1, 2))
    assert people.kind == "joined_comparisons"
    assert judged.options["source"]["name"] == "judge"
    assert "raters" not in judged.options["source"]["options"]


def test_noise_turns_exactly_its_share_and_a_larger_one_turns_the_same_and_more(planned) -> None:
    noisy = [f"{{method: dpo, label: n{share}, comparisons: {{noise: 0.{share}}}}}" for share in (10, 25, 50)]
    plan, store = planned(*noisy, text=PEOPLE), Store()
    assert all(record.status == "ok" for record in run_here(plan, store, is_strict=True).records)
    sound, *others = (read_rows(store.get(preferences(plan, i).key) / "rows.jsonl") for i in range(4))
    turned_in = []
    for rows, share in zip(others, (0.1, 0.25, 0.5), strict=True):
        wrong = {i for i, (row, was) in enumerate(zip(rows, sound, strict=True)) if row != was}
        assert len(wrong) == round(share * len(sound))
        assert all(rows[i] == turned(sound[i]) for i in wrong)
        turned_in.append(wrong)
    assert turned_in[0] < turned_in[1] < turned_in[2]


def test_rows_that_had_other_comparisons_are_named_below_the_table(planned) -> None:
    plan = planned("{method: dpo, label: noisy, comparisons: {noise: 0.25}}", text=PEOPLE)
    records = run_here(plan, Store(), is_strict=True).records
    (said,) = (line for line in remarks(records) if "different human comparisons" in line)
    assert "(20 pairs, labelled by human: dpo; 20 pairs, labelled by human, 25% of them turned round: noisy)" in said


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ("{pairs: 100000}", r":13 methods\[1\].comparisons.pairs: 100000 asked for, the task's label split has"),
        ("{source: pannel}", r":13 methods\[1\].comparisons.source: .*'panel'"),
        ("{noise: 0.6}", r":13 methods\[1\].comparisons.noise: should be less than or equal to 0.5, got 0.6"),
        ("{nois: 0.1}", r":13 methods\[1\].comparisons.nois: unknown key; did you mean 'noise'"),
    ],
)
def test_a_mistake_is_told_where_the_row_makes_it(planned, own: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        planned(f"{{method: dpo, label: own, comparisons: {own}}}")


def test_a_wrong_option_of_a_source_is_told_at_the_option(planned) -> None:
    with pytest.raises(UserError, match=r":9 comparisons.options.ratrs: unknown key; did you mean 'raters'"):
        planned(text=SUITE.replace("raters: 3", "ratrs: 3"))
    with pytest.raises(UserError, match=r":13 methods\[1\].comparisons.options.formt: .* mean 'format'"):
        planned("{method: dpo, label: own, comparisons: {source: judge, options: {formt: pairwise}}}")


def test_comparisons_of_a_row_that_learns_from_none_are_refused(planned) -> None:
    with pytest.raises(UserError, match=r":13 methods\[1\].comparisons: 'ppo' learns from no comparisons here; remove"):
        planned("{method: ppo, reward: random, comparisons: {pairs: 4}}")
    planned("{method: rlaif, comparisons: {pairs: 4}}", "{method: best_of_n, comparisons: {pairs: 4}}")


def test_lists_and_pairs_do_not_mix_in_a_row_either(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    lists = SUITE.replace(", human_pairs: 8", "") + "samples: {per_prompt: 4}\nreward_model: {loss: listwise}\n"
    file.write_text(lists)
    load_suite(file)
    file.write_text(lists.replace("  - dpo\n", "  - {method: dpo, comparisons: {human_pairs: 4}}\n"))
    with pytest.raises(UserError, match="listwise cannot take lists of 4"):
        load_suite(file)
