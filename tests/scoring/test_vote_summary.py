"""What a file of votes says of one rater, and in which words."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.feedback.votes import Votes, read_votes
from alignbench.report.agreement import labels_csv, summary_notes
from alignbench.scoring.agreement import wilson_of_credit
from alignbench.scoring.stats import Interval
from alignbench.scoring.vote_summary import summarise


def read(folder: Path, *rows: str) -> Votes:
    (folder / "votes.csv").write_text("\n".join(["item,rater,label", *rows, ""]))
    return read_votes(folder / "votes.csv")


def test_one_item_has_shares_and_no_interval(tmp_path: Path) -> None:
    votes = read(tmp_path, "a,r,1", "a,s,2", "b,r,1")
    found = summarise(votes, "nominal")
    assert (found.alpha.mean, found.one_rater.mean) == (0, 0)
    assert all(math.isnan(end) for end in (*found.alpha[1:], *found.one_rater[1:]))
    notes = list(summary_notes(votes, found, "nominal"))
    why = "no interval, for one item alone has votes of two raters"
    assert f"alpha (Krippendorff): 0.000, {why}" in notes
    assert f"one rater agrees with the majority of the others: 0.000, {why}; a tie of t labels counts 1/t" in notes


def test_one_rater_has_the_interval_of_as_many_independent_votes_as_there_are_items(tmp_path: Path) -> None:
    """Two raters agree or not, so the two votes of an item say the same."""
    rows = [f"{item},{rater},{0 if rater == 'r' or item >= 3 else 1}" for item in range(10) for rater in "rs"]
    found = summarise(read(tmp_path, *rows), "nominal").one_rater
    assert found.mean == 0.7
    assert np.allclose(found, wilson_of_credit(7, 10), atol=0.02)
    agreed = summarise(
        read(tmp_path, *(f"{item},{rater},{item % 2}" for item in range(10) for rater in "rs")), "nominal"
    )
    assert np.allclose(agreed.one_rater, wilson_of_credit(10, 10))


def test_the_interval_of_one_rater_covers_the_truth_of_few_items(tmp_path: Path) -> None:
    """Three raters who give the true one of two labels with a chance of 0.975: one is with both others, or with one of
    them, which is half, or alone."""
    rng, covered, one, truth = np.random.default_rng(0), 0, 0.975, 0.0
    for mine, first, second in np.ndindex(2, 2, 2):
        chance = np.prod([one if is_right else 1 - one for is_right in (mine, first, second)])
        truth += chance * (1.0 if mine == first == second else 0.5 if first != second else 0.0)
    for _ in range(100):
        true = rng.integers(0, 2, (10, 1))
        table = np.where(rng.random((10, 3)) < one, true, 1 - true)
        rows = [f"{item},{rater},{table[item, rater]}" for item in range(10) for rater in range(3)]
        found = summarise(read(tmp_path, *rows), "nominal").one_rater
        covered += found.low <= truth <= found.high
    assert covered >= 93


def test_two_long_labels_are_written_whole(tmp_path: Path) -> None:
    one, other = "x" * 400 + "1", "x" * 400 + "2"
    votes = read(tmp_path, f"a,r,{one}", f"a,s,{one}", f"b,r,{other}", f"b,s,{other}")
    rows = list(csv.reader(io.StringIO(labels_csv(votes, summarise(votes, "nominal")))))
    assert rows[1:] == [["a", one, one, "2"], ["b", other, other, "2"]]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("a  b", "a b"), "label 'a b' would be the same as 'a  b' in a CSV file"),
        (("\ud800", "c"), "label '?' would be empty in a CSV file, without characters that do not show; rename it"),
        (("'=1", "=1"), "label '=1' would be the same as ''=1' in a CSV file"),
    ],
)
def test_labels_that_the_file_could_not_tell_apart_are_refused(
    tmp_path: Path, labels: tuple[str, str], said: str
) -> None:
    lines = [{"item": i, "rater": rater, "label": label} for i, label in enumerate(labels) for rater in "rs"]
    (tmp_path / "votes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    votes = read_votes(tmp_path / "votes.jsonl")
    with pytest.raises(UserError) as raised:
        labels_csv(votes, summarise(votes, "nominal"))
    assert str(raised.value).startswith(said)
    assert str(raised.value).isprintable()


def test_no_number_is_a_negative_zero(tmp_path: Path) -> None:
    votes = read(tmp_path, "a,r,1", "a,s,2", "b,r,3", "b,s,4")
    found = summarise(votes, "nominal")._replace(alpha=Interval(-1e-9, -1e-9, 0.5))
    assert "alpha (Krippendorff): 0.000 [0.000, 0.500], 95 % over items" in summary_notes(votes, found, "nominal")
