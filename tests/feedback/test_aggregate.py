"""Each aggregation against a formula, an optimiser, another library's numbers or a planted rater."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

from alignbench.feedback.aggregate import (
    Consensus,
    bradley_terry,
    dawid_skene,
    elo,
    majority,
    most_probable,
    ordered,
)
from alignbench.scoring.agreement import count_votes

# Rows are items, columns raters. The numbers are crowd-kit 1.4.2's: DawidSkene(n_iter, tol=-1e9).fit(...).
VOTED = ["0111", "0021", "1112", "2202", "2220", "0000", "1021", "1121", "212.", "01.0"]
CROWD_KIT = {
    1: [[0.063768, 0.929935, 0.006297], [0.606717, 0.364142, 0.02914], [0.003353, 0.945432, 0.051215],
        [0.031056, 0.0, 0.968944], [0.083183, 0.0, 0.916817], [0.993108, 0.0, 0.006892], [0.090126, 0.784341, 0.125533],
        [0.013925, 0.89968, 0.086396], [0.077204, 0.194471, 0.728325], [0.760026, 0.190376, 0.049598]],
    5: [[0.000755, 0.999245, 0.0], [0.087278, 0.912722, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0], [1.7e-05, 0.999983, 0.0], [8e-06, 0.999992, 0.0], [0.000339, 0.027201, 0.97246],
        [0.997928, 0.001911, 0.000161]],
}  # fmt: skip
CROWD_KIT_SAYS_1 = [0.034203196, 0.455407113, 0.019698670]  # after a step, of rater 2, by true label


def coded(rows: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    votes = [(i, r, int(c)) for i, row in enumerate(rows) for r, c in enumerate(row) if c != "."]
    return tuple(np.array(votes).T)  # type: ignore[return-value]


@pytest.mark.parametrize("steps", [1, 5])
def test_dawid_skene_takes_crowd_kits_steps(steps: int) -> None:
    found = dawid_skene(*coded(VOTED), (10, 4, 3), iterations=steps, tolerance=0)
    assert found.iterations == steps
    assert found.posterior == pytest.approx(np.array(CROWD_KIT[steps]), abs=1e-6)
    assert found.confusion.sum(axis=1) == pytest.approx(np.ones((4, 3)))
    if steps == 1:
        assert found.confusion[2, 1] == pytest.approx(CROWD_KIT_SAYS_1, abs=1e-8)


def test_dawid_skene_stops_where_nothing_moves_and_says_so() -> None:
    settled = dawid_skene(*coded(VOTED), (10, 4, 3), iterations=1000)
    assert settled.is_converged
    assert settled.iterations < 1000
    assert not dawid_skene(*coded(VOTED), (10, 4, 3), iterations=2).is_converged


def voted(rng: np.random.Generator, truth: np.ndarray, right: list[float]) -> tuple[np.ndarray, ...]:
    """One binary vote of each rater on each item, right with the rater's probability."""
    is_right = rng.random((len(truth), len(right))) < right
    labels = np.where(is_right, truth[:, None], 1 - truth[:, None])
    items, raters = np.indices(labels.shape)
    return items.ravel(), raters.ravel(), labels.ravel()


def test_dawid_skene_outvotes_raters_who_are_always_wrong() -> None:
    truth = np.random.default_rng(0).integers(0, 2, 500)
    items, raters, labels = voted(np.random.default_rng(1), truth, [0.8, 0.8, 0.8, 0.0])
    by_majority = majority(count_votes(items, labels, 500, 2)).credit(truth).mean()
    found = dawid_skene(items, raters, labels, (500, 4, 2))
    by_model = most_probable(found.posterior).credit(truth).mean()
    own_right = np.diagonal(found.confusion, axis1=1, axis2=2) @ found.prior
    assert by_majority < 0.8
    assert by_model > 0.97
    assert own_right.argmin() == 3
    assert own_right[3] < 0.1


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_the_majority_of_k_raters_is_right_as_often_as_the_binomial_says(k: int) -> None:
    truth = np.random.default_rng(0).integers(0, 2, 20_000)
    items, _, labels = voted(np.random.default_rng(k), truth, [0.7] * k)
    votes = np.arange(k + 1)
    expected = stats.binom.pmf(votes, k, 0.7) @ np.where(2 * votes == k, 0.5, 2 * votes > k)
    credit = majority(count_votes(items, labels, 20_000, 2)).credit(truth)
    assert credit.mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(20_000))


def test_a_tie_stays_one_and_shares_its_credit() -> None:
    items, labels = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 1, 1, 0, 0, 1])
    found = majority(count_votes(items, labels, 3, 3))
    assert found.label.tolist() == [-1, 1, 0]
    assert found.credit(np.array([2, 1, 1])) == pytest.approx([1 / 3, 1, 0])
    assert found.credit(np.array([-1, -1, -1])).tolist() == [0, 0, 0]
    assert isinstance(most_probable(np.array([[0.5, 0.5], [0.4, 0.6]])), Consensus)
    assert most_probable(np.array([[0.5, 0.5], [0.4, 0.6]])).label.tolist() == [-1, 1]


def met(seed: int, n_items: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Comparisons with ties; item 0 wins all of its own."""
    rng = np.random.default_rng(seed)
    left = rng.integers(0, n_items, n)
    right = (left + rng.integers(1, n_items, n)) % n_items
    share = rng.choice([0.0, 0.5, 1.0], n)
    return left, right, np.where(left == 0, 1.0, np.where(right == 0, 0.0, share))


@pytest.mark.parametrize(("strength", "seed"), [(1.0, 0), (0.1, 1), (5.0, 2)])
def test_bradley_terry_is_the_maximum_of_its_penalised_likelihood(strength: float, seed: int) -> None:
    left, right, share = met(seed, 8, 60)

    def loss(score: np.ndarray) -> float:
        won = special.log_expit(score[left] - score[right])
        lost = special.log_expit(score[right] - score[left])
        return float(-(share @ won) - (1 - share) @ lost - strength * special.log_softmax(score).sum())

    best = optimize.minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-8}).x
    found = bradley_terry(left, right, share, 8, strength)
    assert found == pytest.approx(best - best.mean(), abs=1e-4)
    assert found.argmax() == 0  # the undefeated, and finite


def test_bradley_terry_with_much_data_is_the_plain_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    true = rng.normal(size=6)
    left = rng.integers(0, 6, 4000)
    right = (left + rng.integers(1, 6, 4000)) % 6
    share = (rng.random(4000) < special.expit(true[left] - true[right])).astype(float)
    design = np.zeros((4000, 6))
    design[np.arange(4000), left], design[np.arange(4000), right] = 1, -1
    fitted = LogisticRegression(C=1e6, fit_intercept=False).fit(design, share).coef_[0]
    assert bradley_terry(left, right, share, 6, 1e-3) == pytest.approx(fitted - fitted.mean(), abs=2e-3)


def test_elo_is_the_textbooks_update_in_the_order_of_the_votes() -> None:
    left, right, share = met(3, 5, 40)
    score = np.full(5, 1000.0)
    for one, other, said in zip(left, right, share, strict=True):
        gain = 4 * (said - 1 / (1 + 10 ** ((score[other] - score[one]) / 400)))
        score[one] += gain
        score[other] -= gain
    assert elo(left, right, share, 5) == pytest.approx(score, abs=1e-9)
    assert elo(left[::-1], right[::-1], share[::-1], 5) != pytest.approx(score, abs=1e-6)


def test_scores_within_rounding_of_each_other_tie() -> None:
    assert ordered(np.array([0.1 + 0.2 - 0.3, 1e-3, -2.0])).tolist() == [0, 1, -1]
