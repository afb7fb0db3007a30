"""Answers taken back: by hand-derived shares, with an interval that holds its level where prompts repeat."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.feedback.votes import read_votes
from alignbench.report.audit_results import votes_csv
from alignbench.scoring.agreement import effective, share_of_clusters, wilson_of_credit
from alignbench.scoring.audit import Gold, Key, Pair
from alignbench.scoring.audit_votes import (
    Vote,
    agreement,
    position,
    read_answers,
    tallies,
    with_gold,
)

NONE = Gold(win_rate=(None, None, None), gain=(None, None, None))
SHEET = "0123abcd" + "0" * 56


def key(*sides: tuple[str, str, str]) -> Key:
    """`sides`: prompt, left row, right row of each pair. Gold likes what stands left, by a point."""
    pairs = tuple(
        Pair(item=f"0123abcd-{n:03d}", prompt=prompt, place=n, replicate=0, left=left, right=right, gold_left=1.0,
             gold_right=0.0)
        for n, (prompt, left, right) in enumerate(sides, 1)
    )  # fmt: skip
    rows = dict.fromkeys(["sft", "dpo", "=ppo"], NONE)
    return Key(suite="s", seed=0, against="sft", sheet=SHEET, page="", rows=rows, equal={}, pairs=pairs)


KEY = key(("p", "dpo", "sft"), ("q", "sft", "dpo"), ("r", "dpo", "sft"), ("s", "sft", "dpo"), ("t", "=ppo", "sft"))


def votes(rater: str, *labels: str) -> list[Vote]:
    return [Vote(f"0123abcd-{n:03d}", rater, label) for n, label in enumerate(labels, 1)]


def test_a_rows_share_is_what_was_given_to_it_a_tie_half_and_a_pair_counts_once() -> None:
    # ann: dpo wins 1, loses 2 (its text stood right), ties 3, wins 4; bob: only the first pair, which dpo loses
    said = [*votes("ann", "left", "left", "tie", "right"), *votes("bob", "right")]
    dpo, ppo = tallies(said, KEY)
    assert (dpo.row, dpo.asked, dpo.answered, dpo.prompts) == ("dpo", 4, 4, 4)
    assert dpo.won is not None
    assert dpo.won.mean == pytest.approx((0.5 + 0 + 0.5 + 1) / 4)
    assert dpo.won == pytest.approx(wilson_of_credit(2.0, 4))  # four prompts, four trials
    assert dpo.gold_won == pytest.approx(2 / 4)  # gold likes the left: dpo in pairs 1 and 3
    assert (ppo.row, ppo.asked, ppo.answered, ppo.won, ppo.gold_won) == ("=ppo", 1, 0, None, None)


def test_people_and_gold_are_compared_where_both_prefer_one_text() -> None:
    same, decided = with_gold(votes("ann", "left", "left", "tie", "right"), KEY)
    assert same is not None
    assert (same.mean, decided) == (pytest.approx(2 / 3), 3)
    assert with_gold(votes("ann", "tie"), KEY) == (None, 0)


def test_the_share_of_left_answers_is_of_those_that_choose() -> None:
    found = position(votes("ann", "left", "left", "tie", "right", "left"))
    assert found[:3] == (3, 1, 1)
    assert found.share == pytest.approx(wilson_of_credit(3, 4))
    assert position(votes("ann", "tie", "tie")).share is None


def test_alpha_needs_two_raters_of_one_pair() -> None:
    assert agreement(votes("ann", "left", "right")) is None
    same = [*votes("ann", "left", "right", "tie"), *votes("bob", "left", "right", "tie")]
    found = agreement(same)
    assert found is not None
    assert (found.mean, found.high) == (1, 1)
    assert found.low < 0  # three pairs say little
    pair = agreement([*votes("ann", "left"), *votes("bob", "right")])
    assert pair is not None
    assert math.isnan(pair.low)
    alone = agreement([*votes("ann", "left", "left"), *votes("bob", "left", "left")])
    assert alone is not None
    assert math.isnan(alone.mean)


def test_pairs_of_one_prompt_that_are_answered_alike_are_one_trial() -> None:
    alike = np.array([1, 1, 0, 0, 1, 1, 0, 0], dtype=float)
    assert effective(alike, list("aabbccdd")) == pytest.approx(4)  # no fewer than that
    assert effective(alike, list("abcdefgh")) == pytest.approx(8)
    assert effective(np.array([1.0, 0] * 4), list("aabbccdd")) == 8  # no more than there are
    loose = np.array([1, 0, 0, 0, 1, 1, 1, 0] * 4, dtype=float)
    prompts = [str(place // 2) for place in range(32)]
    alone, together = (loose - 0.5) @ (loose - 0.5) * 32 / 31, (4 * 2 * 1.0) * 16 / 15  # sums 0, -1, 1, 0 four times
    ratio = (2.039513 / 2.131450) ** 2  # 31 and 15
    assert effective(loose, prompts) == pytest.approx(32 * alone / together * ratio, rel=1e-5)
    assert effective(np.ones(6), list("aabbcc")) == 3  # nothing varies: a prompt is one trial
    assert share_of_clusters([1.0] * 6, list("aabbcc")) == pytest.approx(wilson_of_credit(3, 3))
    assert effective(np.array([1.0, 0]), list("aa")) == 1


def test_the_interval_holds_its_level_where_prompts_repeat_and_wilson_over_pairs_does_not() -> None:
    rng = np.random.default_rng(0)
    held, plain, rounds, truth = 0, 0, 1500, 0.6
    clusters = [str(place) for place in range(30) for _ in range(4)]
    for _ in range(rounds):
        own = rng.random(30) < truth  # of each prompt; a pair follows it in four of five cases
        credit = np.where(rng.random((30, 4)) < 0.8, own[:, None], rng.random((30, 4)) < truth).ravel().astype(float)
        found = share_of_clusters(credit.tolist(), clusters)
        alone = wilson_of_credit(float(credit.sum()), len(credit))
        held += found.low <= truth <= found.high
        plain += alone.low <= truth <= alone.high
    assert held / rounds > 0.93
    assert plain / rounds < 0.80  # the control: pairs taken for independent


def test_the_votes_are_the_long_table_that_agreement_reads(tmp_path: Path) -> None:
    said = [*votes("ann", "left", "left", "tie", "right", "left"), *votes("=bob", "left")]
    (tmp_path / "votes.csv").write_text(votes_csv(said, KEY))
    lines = (tmp_path / "votes.csv").read_text().splitlines()
    assert lines[0] == "item,rater,label,row,against,replicate,prompt,won"
    assert lines[1:3] == ["0123abcd-001,ann,left,dpo,sft,0,1,1", "0123abcd-002,ann,left,dpo,sft,0,2,0"]
    assert lines[5].split(",")[3] == "'=ppo"
    assert lines[6].split(",")[1] == "'=bob"
    found = read_votes(tmp_path / "votes.csv")
    assert (len(found.items), len(found.raters), set(found.labels)) == (5, 2, {"left", "right", "tie"})


def test_two_raters_whose_names_look_the_same_are_not_written_as_one(tmp_path: Path) -> None:
    said = [Vote("0123abcd-001", "ann", "left"), Vote("0123abcd-001", "ann\u200b", "right")]
    with pytest.raises(UserError, match=r"rater 'ann ' would be the same as 'ann' in a CSV file.*; rename it"):
        votes_csv(said, KEY)
    long = [Vote("0123abcd-001", "x" * 400 + end, "left") for end in "ab"]
    (tmp_path / "votes.csv").write_text(votes_csv(long, KEY))
    assert read_votes(tmp_path / "votes.csv").raters == [vote.rater for vote in long]


def test_a_filled_sheet_and_the_pages_files_are_read_alike(tmp_path: Path) -> None:
    rows = ['0123abcd-001,p,x,"y, z",Left', "0123abcd-002,p,x,y,", "0123abcd-003,p,x,y,TIE"]
    (tmp_path / "ann.csv").write_text("\n".join(["\ufeffitem,prompt,left,right,answer", *rows, ""]))
    (tmp_path / "b.csv").write_text('item,rater,label\n0123abcd-001,"bob",right\n')
    (tmp_path / "c.jsonl").write_text('{"item":"0123abcd-001","rater":"cy","label":"left"}\n')
    found = read_answers([tmp_path / name for name in ("ann.csv", "b.csv", "c.jsonl")], KEY)
    assert found.votes == [
        Vote("0123abcd-001", "ann", "left"), Vote("0123abcd-003", "ann", "tie"), Vote("0123abcd-001", "bob", "right"),
        Vote("0123abcd-001", "cy", "left"),
    ]  # fmt: skip
    assert found.blank == 1


HEAD = "item,rater,label\n0123abcd-001,ann,left\n"
BAD = {
    "another sheet": (f"{HEAD}89abcdef-001,ann,left\n", ":3: 89abcdef-001 is of another sheet, and the key is of 0123"),
    "unknown item": (f"{HEAD}0123abcd-009,ann,left\n", ":3: no item '0123abcd-009' on this sheet; did you mean '0123"),
    "unknown answer": (f"{HEAD}0123abcd-002,ann,both\n", ":3: left, right, tie or nothing is an answer, got 'both'"),
    "twice": (f"{HEAD}0123abcd-001,ann,left\n", ":3: 'ann' answered 0123abcd-001 in "),
    "no answer": ("item,answer\n0123abcd-001,\n", ": has no answer; fill its column"),
    "no column": ("item,said\n0123abcd-001,left\n", ":1: should have the columns item and answer"),
    "two answers": ("item,label,answer\n0123abcd-001,left,right\n", ":1: has the columns label and answer, and either"),
    "no item": ("item,answer\n,left\n", ":2: no item; fill the cell"),
    "escapes": (f"{HEAD}\x1b[31m,ann,left\n", ":3: no item ' [31m' on this sheet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_answer_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    text, said = BAD[name]
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_answers([path], KEY)
    assert str(raised.value).startswith(f"{path}{said}")
    assert str(raised.value).isprintable()


def test_a_rater_may_not_answer_in_two_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sheet.csv").write_text("item,answer\n0123abcd-001,left\n")
    with pytest.raises(UserError, match=r"two/sheet.csv:2: 'sheet' answered 0123abcd-001 in .*one/sheet.csv:2 already"):
        read_answers([tmp_path / folder / "sheet.csv" for folder in ("one", "two")], KEY)
