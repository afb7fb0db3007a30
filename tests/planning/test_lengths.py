"""What a model cannot hold, or tell apart, is said before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.spec import load_suite

CASES = Path(__file__).parents[2].parent / "shared" / "cases"


@pytest.fixture
def plan(tmp_path: Path, tiny_models):
    """`plan(rows, **options)` of the task on a model with a window of 256 byte-level tokens."""

    def made(rows: list[dict] | Path, pairs: int = 6, **options):
        source = rows if isinstance(rows, Path) else tmp_path / "data.jsonl"
        if not isinstance(rows, Path):
            source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        suite = {
            "model": str(tiny_models["llama"]), "methods": ["sft", "dpo"],
            "comparisons": {"source": "human", "pairs": pairs}, "evaluation": {"prompts": 2, "held_out_pairs": 2},
            "task": {"name": "preferences", "options": {"source": str(source), "max_new_tokens": 8, **options}},
        }  # fmt: skip
        path = tmp_path / "suite.yaml"
        path.write_text(json.dumps(suite, indent=1))
        return make_plan(load_suite(path), load_catalog())

    return made


def rows(count: int = 40, **own) -> list[dict]:
    return [{"prompt": f"question {n}", "chosen": f" yes {n}", "rejected": " no", **own} for n in range(count)]


def test_what_fits_is_not_spoken_of(plan) -> None:
    assert plan(rows()).task_in_words == "preferences: 40 preference pairs of data.jsonl"


def test_a_prompt_beyond_the_window_is_refused_with_the_length_that_fits(plan) -> None:
    given = [*rows(), {"prompt": "x" * 300, "chosen": "a", "rejected": "b"}]
    with pytest.raises(UserError) as error:
        plan(given)
    said = str(error.value)
    assert "1 of 41 prompts do not fit the model's window of 256 tokens beside 8 of an answer (the longest has" in said
    assert "or set max_prompt_chars to 299, in task.options" in said
    assert "suite.yaml:" in said
    assert "left out: 1 pairs whose prompt is over 299 characters" in plan(given, max_prompt_chars=299).task_in_words


def test_the_very_last_token_that_fits_is_let_through(plan) -> None:
    window, answer = 256, 8
    fits = "Ω" * ((window - answer - 1) // 2)  # two bytes, and two tokens, each
    plan([*rows(), {"prompt": fits, "chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match="do not fit"):
        plan([*rows(), {"prompt": f"{fits}xx", "chosen": "a", "rejected": "b"}])


def test_answers_that_are_alike_as_far_as_they_are_read_are_counted_or_refused(plan) -> None:
    alike = {"chosen": " the same for long, then kind", "rejected": " the same for long, then cruel"}
    given = [{**row, **(alike if n % 2 else {})} for n, row in enumerate(rows())]
    told = plan(given, pairs=9).task_in_words
    count = int(told.split("; ")[-1].split()[0])
    assert 1 <= count < 9
    assert told.endswith(f"; {count} of 9 human pairs have answers alike in the 8 tokens read")
    with pytest.raises(
        UserError, match="all of 6 human pairs have answers that are alike in the 8 tokens that are read"
    ):
        plan(rows(**alike))
    assert "alike" not in plan(rows(**alike), max_new_tokens=64).task_in_words


def test_the_cases(plan) -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    with pytest.raises(UserError, match="1 of 61 prompts do not fit"):
        plan(CASES / "29-one-prompt-beyond-the-window.jsonl", max_new_tokens=24)
    with pytest.raises(UserError, match="human pairs have answers that are alike"):
        plan(CASES / "09-alike-before-the-cut.jsonl")
