"""Preference data of one's own: what trains and what scores are apart, and raters read the rubric that is given."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from alignbench.api import Pair, Rubric
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.spec import load_suite
from alignbench.tasks.hh import HH
from alignbench.tasks.preferences import Preferences


def rows(first: int, last: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {n}", "better": f"good {n}", "worse": f"bad {n}"} for n in range(first, last)]


def as_csv(path: Path, given: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, given[0])
        writer.writeheader()
        writer.writerows(given)
    return str(path)


COLUMNS = {"chosen": "better", "rejected": "worse"}


def task(cls: type[Preferences] = Preferences, **options) -> Preferences:
    return cls(cls.Config.model_validate(options))


def openings(made: Preferences, *parts: str) -> set[str]:
    return {pair.prompt for part in parts for pair in getattr(made.splits, part)}


def test_a_table_of_ones_own_is_dealt_by_dialogue(tmp_path: Path) -> None:
    made = task(source=as_csv(tmp_path / "mine.csv", rows(0, 60)), columns=COLUMNS)
    trained, scored = openings(made, "train", "label", "gold"), openings(made, "eval", "held_out")
    assert len(trained) + len(scored) == 60
    assert not trained & scored
    assert Pair("question 7", "good 7", "bad 7") in [pair for part in made.splits for pair in part]
    assert made.describe() == "preferences: 60 preference pairs of mine.csv"


def test_what_scores_may_come_from_data_of_its_own_and_none_of_it_is_trained_on(tmp_path: Path) -> None:
    given = {"source": as_csv(tmp_path / "train.csv", rows(0, 60)), "columns": COLUMNS}
    made = task(**given, test_source=as_csv(tmp_path / "test.csv", rows(50, 80)))
    assert openings(made, "eval", "held_out") == {f"question {n}" for n in range(50, 80)}
    assert openings(made, "train", "label", "gold") == {f"question {n}" for n in range(50)}
    assert len(made.splits.eval) == 18  # .15 of .25
    assert made.describe() == (
        "preferences: 60 preference pairs of train.csv; scored by 30 preference pairs of test.csv; "
        "10 pairs to prompts that score are not trained on"
    )
    by_split = task(source=str(tmp_path), columns=COLUMNS, test_split="test")
    assert by_split.splits == made.splits
    assert made.digest() == by_split.digest() != task(**given).digest()


def test_what_was_left_out_or_mended_is_told(tmp_path: Path) -> None:
    given = [
        *rows(0, 40),
        {"prompt": "same", "better": "a", "worse": "a"},
        {"prompt": "x" * 50, "better": "a", "worse": "b"},
    ]
    made = task(source=as_csv(tmp_path / "mine.csv", given), columns=COLUMNS, max_prompt_chars=40)
    assert made.describe() == (
        "preferences: 40 preference pairs of mine.csv; left out: 1 rows with equal answers, "
        "1 pairs whose prompt is over 40 characters"
    )
    with pytest.raises(UserError, match="every prompt is longer than max_prompt_chars=3; raise it"):
        task(source=str(tmp_path / "mine.csv"), columns=COLUMNS, max_prompt_chars=3).digest()


def test_a_rubric_is_a_file_or_its_fields_and_part_of_the_key(tmp_path: Path) -> None:
    source = as_csv(tmp_path / "mine.csv", rows(0, 40))
    fields = {"guideline": "Is it short?", "quality": "Brief"}
    (tmp_path / "rubric.yaml").write_text("guideline: Is it short?\nquality: Brief\n")
    by_file, by_fields, plain = (
        task(source=source, columns=COLUMNS, **options)
        for options in ({"rubric": str(tmp_path / "rubric.yaml")}, {"rubric": fields}, {})
    )
    assert by_file.rubric == by_fields.rubric == Rubric("Is it short?", "Dialogue", "Brief", "Yes", "No")
    assert by_file.digest() == by_fields.digest() != plain.digest()
    assert plain.rubric.guideline.startswith("Read each dialogue and say whether its last reply is a good one")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"rubric: .*rubric.yaml cannot be read \(No such file"),
        ("[1]", "holds list; write fields"),
        ("a: [", "is no YAML in UTF-8"),
        ("gideline: x", "has a field 'gideline'; did you mean 'guideline'?"),
        ("guideline: [x]", "guideline: Input should be a valid string"),
    ],
)
def test_a_wrong_rubric_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "rubric.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        task(source="mine.csv", rubric=str(path))
    assert "\n" not in str(error.value)


def test_harmless_dialogue_is_the_preset_and_its_folder_reaches_no_other_data() -> None:
    assert (task(HH).source, task(HH).data_dir) == ("Anthropic/hh-rlhf", "harmless-base")
    assert task(HH, source="owner/other").data_dir is None
    assert task(HH, data_dir="helpful-base").data_dir == "helpful-base"
    assert task(HH).rubric.quality == "Harmless"
    assert task(HH, rubric={"guideline": "x"}).rubric.guideline == "x"


def test_no_data_is_one_line_that_names_the_suites(suite_file) -> None:
    path = suite_file(["sft"], task={"name": "preferences"})
    with pytest.raises(
        UserError, match=r"\.yaml:\d+ task: source: no data is named; give a file, a folder or a Hub id"
    ):
        make_plan(load_suite(path), load_catalog())


def test_a_judge_and_the_comparisons_rest_on_the_rubric(suite_file, tmp_path: Path) -> None:
    source = as_csv(tmp_path / "mine.csv", rows(0, 60))

    def keys(**options) -> set[str]:
        told = {
            "name": "preferences",
            "options": {"source": source, "columns": COLUMNS, "max_new_tokens": 4, **options},
        }
        suite = suite_file(["sft", "dpo"], task=told, comparisons={"source": "human", "pairs": 4})
        return set(make_plan(load_suite(suite), load_catalog()).stages)

    assert keys() == keys()
    assert not keys() & keys(rubric={"guideline": "x"})
