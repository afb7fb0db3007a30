"""Votes made of single ratings are judged by other ratings of the same texts."""

from __future__ import annotations

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.scoring.rated_texts import AGGREGATIONS, ROUNDS, domain_agreement, paired_votes, worth
from alignbench.tasks.ratings import Sentence, human_accuracy, human_pairs


def rated(n: int, raters: int, effect_sd: float, seed: int = 0) -> list[Sentence]:
    """Texts of a normal effect, rated with noise of SD 1, to whole points."""
    rng = np.random.default_rng(seed)
    points = np.rint(rng.normal(size=(n, 1)) * effect_sd + rng.normal(size=(n, raters))).astype(int)
    return [Sentence(f"text {i}", tuple(row)) for i, row in enumerate(points.tolist())]


def test_ratings_that_are_noise_order_nothing_by_any_aggregation() -> None:
    """A rating on both sides would: its text's true mean rises with it."""
    votes = paired_votes([one.ratings for one in rated(800, 8, 0.0)], 3, seed=0)
    for name in AGGREGATIONS:
        found = worth(votes, 3, name).accuracy
        assert abs(found.mean - 0.5) < 2 * (found.high - found.low) / 2, name


def test_more_votes_are_worth_more_and_ties_are_told() -> None:
    found = domain_agreement("made", rated(600, 12, 1.0), (1, 5))
    by_name = {(one.aggregation, one.raters): one for one in found.worth}
    for name in AGGREGATIONS:
        one, five = by_name[name, 1], by_name[name, 5]
        assert one.accuracy.high < five.accuracy.low, name
    assert by_name["majority", 1].ties > by_name["majority", 5].ties > 0
    assert (found.texts, found.ratings, found.left_out) == (600, 7200, 0)


def test_one_rater_against_the_others_is_the_tasks_own_human_accuracy() -> None:
    texts = rated(300, 6, 1.0)
    found = domain_agreement("made", texts, (1,), seed=4)
    assert found.human_pairs == 150
    assert found.one_rater.mean == pytest.approx(human_accuracy(texts, human_pairs(texts, 150, 4)))
    assert found.one_rater.low < found.one_rater.mean < found.one_rater.high


def test_a_text_stands_in_several_pairs_of_its_own_block() -> None:
    votes = paired_votes([one.ratings for one in rated(500, 5, 1.0)], 3, seed=0)
    stands = np.bincount(np.concatenate([votes.left, votes.right]), minlength=500)
    assert stands.max() == 2 * ROUNDS
    assert stands.min() >= 3
    assert (votes.block[votes.left] == votes.block[votes.right]).all()
    assert len({frozenset(pair) for pair in zip(votes.left, votes.right, strict=True)}) == len(votes.left)


def test_too_few_ratings_for_votes_and_truth_are_counted_or_refused() -> None:
    texts = [*rated(100, 8, 1.0), *(Sentence(f"short {i}", (1, 2, 3)) for i in range(20))]
    assert domain_agreement("made", texts, (3,)).left_out == 20
    with pytest.raises(UserError, match="made: 9 votes and a truth need 11 ratings, and 0 texts have so many: lower"):
        domain_agreement("made", texts, (9,))
