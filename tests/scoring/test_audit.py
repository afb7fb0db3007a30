"""Which pairs are drawn: one question of both rows, evenly, the sides by a coin that the sheet does not tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.scoring.audit import Answers, Drawn, Gold, Key, draw, read_key

P, N = 30, 4


def answers(label: str, seed: int = 0, words: str | None = None, prompts: int = P) -> Answers:
    """Every text says whose it is, unless `words` does."""
    texts = [[words or f"{label} {seed} {place} {sample}" for sample in range(N)] for place in range(prompts)]
    return Answers(
        label, seed, [f"prompt {place}" for place in range(prompts)], texts, np.full((prompts, N), 1 / N),
        np.arange(prompts * N, dtype=float).reshape(prompts, N),
    )  # fmt: skip


def test_a_pair_is_of_one_prompt_and_one_replicate_and_the_key_says_whose_text_is_where() -> None:
    drawn = draw([answers(row, seed) for row in ("sft", "dpo", "ppo") for seed in (0, 1)], "sft", 40, 0)
    assert len(drawn.pairs) == 40
    for question, pair in zip(drawn.questions, drawn.pairs, strict=True):
        assert {pair.left, pair.right} in ({"sft", "dpo"}, {"sft", "ppo"})
        for row, text, gold in (
            (pair.left, question.left, pair.gold_left), (pair.right, question.right, pair.gold_right)
        ):  # fmt: skip
            said = text.split()
            assert said[:3] == [row, str(pair.replicate), str(pair.place)]
            assert gold == pair.place * N + int(said[3])
        assert question.prompt == pair.prompt == f"prompt {pair.place}"
        assert question.item == pair.item


def test_rows_replicates_and_prompts_are_asked_as_evenly_as_they_come() -> None:
    drawn = draw([answers(row, seed) for row in ("sft", "a", "b", "c") for seed in (0, 1)], "sft", 31, 0)
    rows = Counter(({pair.left, pair.right} - {"sft"}).pop() for pair in drawn.pairs)
    assert sorted(rows.values()) == [10, 10, 11]
    assert max(Counter(pair.place for pair in drawn.pairs).values()) == 2  # 31 questions of 30 prompts
    by_replicate = Counter(
        (({pair.left, pair.right} - {"sft"}).pop(), pair.replicate) for pair in drawn.pairs
    )  # fmt: skip
    assert max(by_replicate.values()) - min(by_replicate.values()) <= 1


def test_where_a_row_runs_out_the_others_fill_up_and_no_question_is_asked_twice() -> None:
    drawn = draw([answers("sft"), answers("a", prompts=3), answers("b")], "sft", 1000, 0)
    rows = Counter(({pair.left, pair.right} - {"sft"}).pop() for pair in drawn.pairs)
    assert rows == {"a": 3, "b": P}
    assert len({(pair.place, frozenset((pair.left, pair.right))) for pair in drawn.pairs}) == len(drawn.pairs)


def test_which_side_is_left_is_a_coins_throw_that_the_seed_alone_does_not_tell() -> None:
    rows = [answers("sft", prompts=400), answers("dpo", prompts=400)]
    sides = [[pair.left == "sft" for pair in draw(rows, "sft", 400, seed).pairs] for seed in (0, 1)]
    for side in sides:
        assert 150 < sum(side) < 250  # five standard deviations
    assert sides[0] != sides[1]
    assert draw(rows, "sft", 400, 0) == draw(rows, "sft", 400, 0)
    other = [rows[0], answers("dpo", words="said otherwise", prompts=400)]
    assert [pair.left == "sft" for pair in draw(other, "sft", 400, 0).pairs] != sides[0]


def test_texts_that_read_the_same_are_counted_and_not_asked() -> None:
    drawn = draw([answers("sft", words="x  y"), answers("a", words=" x y\n"), answers("b")], "sft", 1000, 0)
    assert drawn.equal == {"a": P}
    assert {pair.left for pair in drawn.pairs} | {pair.right for pair in drawn.pairs} == {"sft", "b"}
    with pytest.raises(UserError, match=r"no pair to ask: 30 were looked at, and the texts of each are equal"):
        draw([answers("sft", words="x"), answers("a", words="x")], "sft", 5, 0)


def told(drawn: Drawn, against: str) -> int:
    """Sides that a reader of the sheet alone can name: one text of the pair stands on its prompt more often, and only
    the row that every pair has can be behind that."""
    seen = Counter((one.prompt, " ".join(text.split())) for one in drawn.questions for text in (one.left, one.right))
    count = 0
    for one, pair in zip(drawn.questions, drawn.pairs, strict=True):
        left, right = (seen[one.prompt, " ".join(text.split())] for text in (one.left, one.right))
        count += left != right and against == (pair.left if left > right else pair.right)
    return count


@pytest.mark.parametrize("samples", [16, 1])
def test_no_prompt_shows_a_text_twice_for_that_would_tell_whose_it_is(samples: int) -> None:
    """Twenty prompts and a hundred questions, so that each prompt is asked five times of few texts of the start."""
    texts = [[f"sft {place} {sample} {' ' * sample}" for sample in range(samples)] for place in range(20)]
    start = Answers("sft", 0, [f"prompt {place}" for place in range(20)], texts, np.full((20, samples), 1 / samples),
                    np.zeros((20, samples)))  # fmt: skip
    drawn = draw([start, *(answers(f"row {row}", prompts=20) for row in range(5))], "sft", 100, 0)
    assert told(drawn, "sft") == 0
    assert len(drawn.questions) == min(100, 20 * samples)  # one that always says the same can be shown once a prompt
    assert sum(drawn.shown.values()) == 100 - len(drawn.questions)
    assert drawn.equal == {}


def test_a_text_that_another_row_has_shown_is_not_shown_again_whatever_its_spaces() -> None:
    same = [["said  by both", "x"] for _ in range(P)]
    one, other = answers("a")._replace(texts=same), answers("b")._replace(texts=[["said by both\u200b"]] * P)
    one, other = (each._replace(chances=each.chances[:, : len(each.texts[0])]) for each in (one, other))
    one = one._replace(chances=np.tile([1.0, 0.0], (P, 1)))
    drawn = draw([answers("sft"), one, other], "sft", 1000, 0)
    assert len(drawn.pairs) == P
    assert sum(drawn.shown.values()) == P


def test_a_row_that_decodes_is_asked_by_what_its_rule_picks() -> None:
    chances = np.zeros((P, N))
    chances[:, 2] = 1
    drawn = draw([answers("sft"), answers("best")._replace(chances=chances)], "sft", P, 0)
    picked = [text for one in drawn.questions for text in (one.left, one.right) if text.startswith("best")]
    assert {text.split()[3] for text in picked} == {"2"}


def test_a_row_is_held_against_the_replicates_that_both_have() -> None:
    drawn = draw([answers("sft", 0), answers("a", 0), answers("a", 1)], "sft", 1000, 0)
    assert {pair.replicate for pair in drawn.pairs} == {0}
    assert len(drawn.pairs) == P


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a row is missing": (lambda key: key["rows"].pop("dpo"), "is of row 'dpo', which `rows` has not"),
    "another row is held against": (lambda key: key.update(against="dpo"), "should have 'dpo' on one side, and once"),
    "an item twice": (lambda key: key["pairs"].append(key["pairs"][0]), "-001 is there twice"),
    "a row on both sides": (
        lambda key: key["pairs"][1].update(left="sft", right="sft"),
        "-002 should have 'sft' on on",
    ),
    "another sheet": (lambda key: key.update(sheet="f" * 64), "-001 is not of sheet ffffffff"),
    "an escape sequence": (
        lambda key: key["pairs"][0].update(left="\x1b[31m", right="sft"),
        "is of row ' [31m', which",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_key_that_was_altered_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    drawn = draw([answers(row) for row in ("sft", "dpo", "ppo")], "sft", 4, 0)
    none = Gold(win_rate=(None, None, None), gain=(None, None, None))
    key = Key(suite="s", seed=0, against="sft", sheet=drawn.sheet, page="", equal={}, pairs=tuple(drawn.pairs),
              rows=dict.fromkeys(["sft", "dpo", "ppo"], none))  # fmt: skip
    path = tmp_path / "key.json"
    path.write_text(key.model_dump_json())
    assert read_key(tmp_path) == key
    assert Key(**{**key.model_dump(), "rows": {"dpo": none, "ppo": none}}).pairs  # a start may be no row of the suite
    alter, said = ALTERED[name]
    found = json.loads(path.read_text())
    alter(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError) as raised:
        read_key(tmp_path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{path}: item ")
    assert str(raised.value).endswith("; restore it from a copy, or draw another sheet")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read: No such file"), ("{", "is not JSON"), ('{"format": 1}', "suite: Field required"),
     ('{"format": 2}', "has format 2")],
)  # fmt: skip
def test_what_is_no_key_is_one_line(tmp_path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "key.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read_key(tmp_path)
    assert str(tmp_path / "key.json") in str(raised.value)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
