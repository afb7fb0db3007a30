"""Constitutional AI: what is wrong with a constitution is one line, and each stage rests on the right one below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.api import Rubric
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.stages.view import drawn
from alignbench.store import Store, read_rows
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite
from alignbench.tasks.hh import HH
from alignbench_constitutional import Constitution, Principle, from_rubric, kept, load_constitution
from alignbench_ppo import PPO

FIELDS = "name, critique, revision, preference"
GOOD = "{name: a, critique: b, revision: c, preference: d}"


def refusal(source: str) -> str:
    with pytest.raises(UserError) as error:
        load_constitution(source, HH.rubric)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_named_with_what_is_shipped(tmp_path: Path) -> None:
    path = f"{tmp_path}/nowhere.yaml"
    assert refusal(path) == f"constitution '{path}': no such file, and none of that name is shipped (harmless)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("principles: [", "not YAML: while parsing a flow node"),
        ("", "the file: Input should be a valid dictionary"),
        ("principles: []", f"no principles; write at least one, with {FIELDS}"),
        ("articles: []", f"principles: Field required; each principle has {FIELDS}"),
        (
            "principles: [{name: a, critique: b, revision: c}]",
            f"principles.0.preference: Field required; each principle has {FIELDS}",
        ),
        (f"principles: [{GOOD}, {{nmae: a}}]", "principles.1.name: Field required"),
        (
            "principles: [{name: a, critique: b, revision: c, preference: d, tone: e}]",
            f"principles.0.tone: Extra inputs are not permitted; each principle has {FIELDS}",
        ),
        (f"principles: [{GOOD.replace('name: a', 'name: 7')}]", "principles.0.name: Input should be a valid string"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_that_names_the_field(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    assert refusal(str(path)).startswith(f"constitution '{path}': {problem}")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(str(path)).startswith(f"constitution '{path}': not YAML")


def test_no_code_in_a_constitution_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "own.yaml", tmp_path / "trace"
    path.write_text(f"principles: !!python/object/apply:os.mkdir ['{trace}']")
    assert "not YAML" in refusal(str(path))
    assert not trace.exists()


def test_the_shipped_constitution_asks_each_principle_in_three_wordings() -> None:
    principles = load_constitution("harmless", HH.rubric).principles
    assert [p.name for p in principles] == ["harm", "respect", "lawful", "candour"]
    for p in principles:
        assert len({p.critique, p.revision, p.preference}) == 3
        assert p.revision.endswith(":")  # the answer is opened for the reviser


def test_without_a_constitution_the_tasks_rubric_is_the_one_principle() -> None:
    rubric = Rubric("Say whether it is kind.", "Letter", "Tone", "Kind", "Rude")
    (principle,) = load_constitution(None, rubric).principles
    assert principle == from_rubric(rubric)
    assert principle == Principle(
        name="rubric",
        critique="What makes the letter less kind than it could be?",
        revision="The same letter, rewritten so that it is kind and not at all rude:",
        preference="Say whether it is kind.",
    )


CONFIG = {"constitution": "harmless", "num_revisions": 2, "num_prompts": 5, "rollout_batch_size": 8}


@pytest.fixture
def plan(suite_file) -> Plan:
    rows = [
        {"method": "constitutional", "config": CONFIG, "force": True},
        {"method": "rlaif", "force": True},
    ]
    return make_plan(load_suite(suite_file(rows)), load_catalog())


def test_the_start_is_supervised_on_revisions_of_the_supervised_start(plan: Plan) -> None:
    train, plain = (plan.stage(cell.train) for cell in plan.cells)
    start = plan.stage(train.key, "start")
    revisions = plan.stage(start.key, "data")
    assert (start.kind, revisions.kind) == ("sft", "revisions")
    first = plain.inputs["start"]
    assert start.inputs["on"] == revisions.inputs["start"] == first
    assert start.key != first


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (2, 3), (9, 4)])
def test_sl_cai_passes_over_its_revisions_as_often_as_asked_and_no_further_than_the_start(
    suite_file, tmp_path: Path, epochs: float, steps: int
) -> None:
    """Five revisions in batches of four: two passes are three steps, and the suite allows four."""
    rows = [{"method": "constitutional", "config": {**CONFIG, "num_train_epochs": epochs}, "force": True}]
    sft = {"max_steps": 4, "per_device_train_batch_size": 4}
    plan = make_plan(load_suite(suite_file(rows, sft=sft)), load_catalog())
    store = Store(tmp_path / "store")
    assert [record.status for record in run_here(plan, store).records] == ["ok"]
    start = plan.stage(plan.cells[0].train, "start")
    folder, below = store.get(start.key), store.get(start.inputs["on"])
    assert folder is not None
    assert below is not None
    assert len(read_rows(folder / "history.jsonl")) == steps
    assert len(read_rows(below / "history.jsonl")) == 4  # the start itself is not told of passes


def test_the_judge_compares_the_new_starts_samples_by_the_same_principles(plan: Plan) -> None:
    train, plain = (plan.stage(cell.train) for cell in plan.cells)
    labels = plan.stage(train.key, "reward", "comparisons")
    principles = load_constitution("harmless", HH.rubric).principles
    assert labels.options["source"]["name"] == "judge"
    assert labels.options["source"]["options"]["guidelines"] == [p.preference for p in principles]
    assert plan.stage(labels.key, "samples").inputs["start"] == train.inputs["start"]
    theirs = plan.stage(plain.key, "reward", "comparisons")
    ours, plainer = labels.options["source"], theirs.options["source"]
    assert {name for name in ours if ours[name] != plainer[name]} == {"options"}
    assert labels.options["seed"] == theirs.options["seed"]
    assert plan.catalog.method(plan.cells[0].method).cls.train is PPO.train


def test_direct_optimises_the_judges_score_by_the_same_principles_on_the_same_start(suite_file) -> None:
    rows = [
        {"method": "constitutional", "config": {**CONFIG, "direct": direct}, "label": str(direct)} for direct in (0, 1)
    ]
    plan = make_plan(load_suite(suite_file(rows)), load_catalog())
    fitted, direct = (plan.stage(cell.train) for cell in plan.cells)
    judge = direct.options["reward"]
    assert "reward" not in direct.inputs
    assert judge["name"] == "judge"
    labels = plan.stage(fitted.key, "reward", "comparisons")
    assert judge["options"]["guidelines"] == labels.options["source"]["options"]["guidelines"]
    assert direct.inputs["start"] == fitted.inputs["start"]


def test_another_principle_makes_other_revisions(suite_file, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    keys = []
    for wording in ("b", "z"):
        own.write_text(f"principles: [{GOOD.replace('b', wording)}]")
        rows = [{"method": "constitutional", "config": {"constitution": str(own)}}]
        plan = make_plan(load_suite(suite_file(rows)), load_catalog())
        keys.append(plan.stage(plan.cells[0].train, "start", "data").key)
    assert keys[0] != keys[1]


def test_revisions_are_rows_of_answer_critiques_and_the_last_revision(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    outcome = run_here(plan, store)
    assert [record.status for record in outcome.records] == ["ok", "ok"], outcome.failures
    revisions = plan.stage(plan.cells[0].train, "start", "data")
    folder = store.get(revisions.key)
    assert folder is not None
    rows = read_rows(folder / "rows.jsonl")
    assert [row["prompt"] for row in rows] == drawn(plan.task, "label", 0)[:5]
    names = {p.name for p in load_constitution("harmless", HH.rubric).principles}
    for row in rows:
        assert len(row["rounds"]) == 2
        assert {turn["principle"] for turn in row["rounds"]} <= names
        assert row["completion"] == row["rounds"][-1]["revision"]
        assert row["completion"].startswith(" ")  # as the demonstrations do after "Assistant:"
        assert row["answer"] != row["completion"]
    cost = store.meta(revisions.key)["cost"]
    assert cost["tokens_generated"] > 5 * (1 + 2 * 2)
    assert outcome.records[0].cost.total.labels_human == 0
    assert outcome.records[0].cost.total.labels_ai > 0


def test_principles_are_left_out_by_name_and_one_must_stay() -> None:
    three = Constitution(principles=tuple(Principle(name=n, critique=n, revision=n, preference=n) for n in "abc"))
    assert [p.name for p in kept(three, ["b"])] == ["a", "c"]
    assert kept(three, []) == list(three.principles)
    with pytest.raises(UserError, match="no principle 'd'; it has a, b, c"):
        kept(three, ["a", "d"])
    with pytest.raises(UserError, match="no principle is left"):
        kept(three, ["a", "b", "c"])
