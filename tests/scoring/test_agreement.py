"""Alpha and the agreement of one rater, against published values, brute force and simulated truth."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import sparse

from alignbench.scoring.agreement import (
    _alphas,
    agreement_with_others,
    alpha,
    alpha_interval,
    count_votes,
    interval_of_pairs,
    wilson_of_credit,
)
from alignbench.scoring.stats import Interval, wilson

LEVELS = ("nominal", "ordinal", "interval")

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): four observers, twelve units, "." is no vote; the
# coincidences that he works out of them by hand, and his alphas.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
COINCIDENCES = np.array(
    [[7, 4 / 3, 1 / 3, 1 / 3, 0], [4 / 3, 10, 4 / 3, 1 / 3, 0], [1 / 3, 4 / 3, 8, 1 / 3, 0],
     [1 / 3, 1 / 3, 1 / 3, 4, 0], [0, 0, 0, 0, 3]]
)  # fmt: skip
ALPHAS = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}


def counted(rows: list[str]) -> sparse.csr_array:
    """Rows are observers, columns units, labels the digits 1 to 5."""
    votes = [(unit, int(label) - 1) for row in rows for unit, label in enumerate(row) if label != "."]
    items, labels = np.array(votes).T
    return count_votes(items, labels, len(rows[0]), 5)


def difference(level: str, one: int, other: int, values: np.ndarray, n: np.ndarray) -> float:
    """Krippendorff's squared differences as he defines them; `n` counts the pairable votes of each label."""
    if level == "nominal":
        return float(one != other)
    if level == "interval":
        return float(values[one] - values[other]) ** 2
    low, high = sorted((one, other))
    return (n[low : high + 1].sum() - (n[low] + n[high]) / 2) ** 2


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_of_krippendorffs_worked_example(level: str) -> None:
    values, n = np.arange(1.0, 6.0), COINCIDENCES.sum(axis=1)
    assert n.tolist() == pytest.approx([9, 13, 10, 5, 3])
    delta = np.array([[difference(level, c, k, values, n) for k in range(5)] for c in range(5)])
    by_hand = 1 - (n.sum() - 1) * (COINCIDENCES * delta).sum() / (np.outer(n, n) * delta).sum()
    assert round(by_hand, 3) == ALPHAS[level]
    assert alpha(counted(OBSERVERS), values, level) == pytest.approx(by_hand, abs=1e-6)  # type: ignore[arg-type]


def brute_force(table: list[list[int]], values: np.ndarray, level: str) -> float:
    """`table` (units, votes of each): every ordered pair of votes, in a loop."""
    units = [votes for votes in table if len(votes) > 1]
    every = [vote for votes in units for vote in votes]
    n = np.bincount(every, minlength=len(values))
    observed = expected = 0.0
    for votes in units:
        for i, j in product(range(len(votes)), repeat=2):
            if i != j:
                observed += difference(level, votes[i], votes[j], values, n) / (len(votes) - 1) / len(every)
    for i, j in product(range(len(every)), repeat=2):
        if i != j:
            expected += difference(level, every[i], every[j], values, n) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


@pytest.mark.parametrize(("level", "seed"), product(LEVELS, range(4)))
def test_alpha_equals_a_loop_over_all_pairs_of_votes_with_votes_missing(level: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=4)) * 10.0**seed
    table = [rng.integers(0, 4, rng.integers(1, 6)).tolist() for _ in range(15)]
    items = np.repeat(np.arange(15), [len(votes) for votes in table])
    counts = count_votes(items, np.concatenate(table), 15, 4)
    assert alpha(counts, values, level) == pytest.approx(brute_force(table, values, level), abs=1e-6)  # type: ignore[arg-type]


def test_alpha_is_one_in_agreement_and_undefined_where_nothing_varies() -> None:
    items = np.array([0, 0, 1, 1])
    agreed = count_votes(items, np.array([0, 0, 1, 1]), 2, 2)
    assert alpha(agreed, np.arange(2.0), "nominal") == 1
    alike = alpha_interval(count_votes(items, np.zeros(4, dtype=int), 2, 1), np.zeros(1), "interval")
    assert all(math.isnan(end) for end in alike)
    with pytest.raises(ValueError, match="two votes"):
        alpha(count_votes(np.array([0, 1]), np.array([0, 1]), 2, 2), np.arange(2.0), "nominal")


def test_values_as_large_as_floats_go_have_the_alpha_of_their_multiples() -> None:
    small = alpha(counted(OBSERVERS), np.arange(1.0, 6.0), "interval")
    assert alpha(counted(OBSERVERS), np.arange(1.0, 6.0) * 3e307, "interval") == pytest.approx(small)


@pytest.mark.parametrize(
    "values",
    [1.7e9 + np.arange(5.0), -1e15 + np.arange(5.0), np.arange(-2.0, 3) * 8e307, np.arange(5.0) * 5e-324],
    ids=["times", "near the end of whole floats", "their range is no float", "subnormal"],
)
def test_alpha_at_interval_level_has_neither_zero_nor_unit(values: np.ndarray) -> None:
    small = alpha(counted(OBSERVERS), np.arange(5.0), "interval")
    assert alpha(counted(OBSERVERS), values, "interval") == pytest.approx(small)


def test_a_label_of_a_vote_alone_does_not_drown_the_differences_of_the_others() -> None:
    items, labels = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 0, 1, 2])
    with_it = alpha(count_votes(items, labels, 4, 3), np.array([0.0, 1.0, 1e12]), "interval")
    assert with_it == alpha(count_votes(items[:6], labels[:6], 3, 2), np.arange(2.0), "interval")


def test_small_differences_count_where_one_value_is_far_away() -> None:
    """As where a time is missing and was written as 0: without that item, the others still vary."""
    rng = np.random.default_rng(0)
    table = rng.integers(1, 4, (40, 3))
    items = np.repeat(np.arange(40), 3)
    near = alpha(count_votes(items, table.ravel(), 40, 4), np.arange(4.0), "interval")
    weights = np.ones((2, 41))
    weights[1, 40] = 0
    counts = count_votes(np.append(items, [40, 40]), np.append(table.ravel(), [0, 0]), 41, 4)
    both = _alphas(counts, np.array([0.0, 1.7e9, 1.7e9 + 1, 1.7e9 + 2]), "interval", weights)
    assert both[0] == pytest.approx(1)
    assert both[1] == pytest.approx(near, abs=1e-5)


def test_the_interval_of_alpha_covers_the_truth_as_often_as_it_says() -> None:
    """Item effect and noise of variance 1 each: the population's alpha at interval level is 1/2."""
    rng, hits = np.random.default_rng(0), 0
    items = np.repeat(np.arange(60), 4)
    for seed in range(200):
        values, labels = np.unique(rng.normal(size=(60, 1)) + rng.normal(size=(60, 4)), return_inverse=True)
        counts = count_votes(items, labels.ravel(), 60, len(values))
        found = alpha_interval(counts, values, "interval", resamples=200, seed=seed)
        hits += found.low <= 0.5 <= found.high
    assert 0.88 <= hits / 200 <= 0.985


@pytest.mark.parametrize("level", LEVELS)
def test_items_with_the_same_votes_are_drawn_as_often_as_others(level: str) -> None:
    """Four hundred items of three kinds, which are resampled by kind, against resamples of the items themselves."""
    rng = np.random.default_rng(0)
    kinds = np.array([[3, 0], [2, 1], [0, 3]])[rng.integers(0, 3, 400)]  # (I, L) counts
    found = alpha_interval(sparse.csr_array(kinds.astype(float)), np.arange(2.0), level, resamples=4000)
    for end, way, more in ((found.low, -1, [1, 1]), (found.high, 1, [0, 2] if kinds[:, 1].sum() < 600 else [2, 0])):
        items = np.vstack([kinds, more])
        drawn = [alpha(sparse.csr_array(items[rng.integers(0, 401, 401)].astype(float)), np.arange(2.0), level)
                 for _ in range(1000)]  # fmt: skip
        seen = alpha(sparse.csr_array(items.astype(float)), np.arange(2.0), level)
        assert end == pytest.approx(seen + way * 1.966 * np.std(drawn), abs=0.01)


# Three raters give the true label with this chance, else any: two labels of these shares. Alpha is the chance squared.
FEW = {"high agreement": (0.95, 0.5), "perfect, nearly": (0.99, 0.5), "a rare label": (0.6, 0.1)}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("n_items", [5, 20])
def test_few_items_have_an_interval_that_covers_the_truth_and_quantiles_of_resamples_do_not(
    name: str, n_items: int
) -> None:
    right, share = FEW[name]
    rng, covered, by_quantiles, studies = np.random.default_rng(0), 0, 0, 0
    items, truth = np.repeat(np.arange(n_items), 3), right**2
    while studies < 150:
        true, other = rng.random((n_items, 1)) < share, rng.random((n_items, 3)) < share
        table = np.where(rng.random((n_items, 3)) < right, true, other).astype(int)
        if table.min() == table.max():
            continue  # alpha is not defined
        studies += 1
        counts = count_votes(items, table.ravel(), n_items, 2)
        found = alpha_interval(counts, np.arange(2.0), "nominal", resamples=200, seed=studies)
        assert found.low <= found.mean <= found.high
        covered += found.low <= truth <= found.high
        weights = rng.multinomial(n_items, np.full(n_items, 1 / n_items), 200).astype(float)
        low, high = np.nanquantile(_alphas(counts, np.arange(2.0), "nominal", weights), [0.025, 0.975])
        by_quantiles += low <= truth <= high
    assert covered / studies >= 0.94
    assert by_quantiles / studies < 0.87


def test_few_items_of_many_raters_cover_at_interval_level_too() -> None:
    """Item effect and noise of variance 1 each on a scale of 41 points; ten raters say little of other items."""
    rng, covered = np.random.default_rng(0), 0
    items = np.repeat(np.arange(4), 10)
    for seed in range(150):
        values = rng.normal(size=(4, 1)) + rng.normal(size=(4, 10))
        used, labels = np.unique(np.clip(np.round(values * 6), -20, 20), return_inverse=True)
        counts = count_votes(items, labels.ravel(), 4, len(used))
        found = alpha_interval(counts, used, "interval", resamples=200, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert covered / 150 >= 0.94


def test_where_all_agree_or_none_do_the_interval_says_how_few_they_are() -> None:
    def of(pairs: list[tuple[int, int]]) -> Interval:
        items = np.repeat(np.arange(len(pairs)), 2)
        return alpha_interval(count_votes(items, np.array(pairs).ravel(), len(pairs), 2), np.arange(2.0), "nominal")

    few, many = of([(0, 0), (1, 1)] * 5), of([(0, 0), (1, 1)] * 100)
    assert (few.mean, few.high, many.mean, many.high) == (1, 1, 1, 1)
    assert few.low < 0.3
    assert 0.9 < many.low < 0.99
    never = of([(0, 1)] * 20)
    assert never.low == -1
    assert never.mean < never.high < -0.3
    alone = of([(0, 1)])
    assert alone.mean == 0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_a_rater_is_compared_with_the_others_as_a_loop_does_it() -> None:
    rng = np.random.default_rng(0)
    items, labels = rng.integers(0, 60, 250), rng.integers(0, 3, 250)
    found = agreement_with_others(count_votes(items, labels, 60, 3), items, labels)
    for vote, (item, label) in enumerate(zip(items, labels, strict=True)):
        others = [one for place, one in enumerate(labels) if place != vote and items[place] == item]
        if not others:
            assert math.isnan(found[vote])
            continue
        most = max(others.count(one) for one in range(3))
        front = [one for one in range(3) if others.count(one) == most]
        assert found[vote] == pytest.approx((label in front) / len(front))
    assert len(set(found[~np.isnan(found)].tolist())) == 4  # 0, 1/3, 1/2 and 1 all happen


def test_the_interval_of_pairs_covers_where_texts_are_shared_and_a_plain_one_does_not() -> None:
    rng, covered, plain = np.random.default_rng(0), 0, 0
    left = np.tile(np.arange(80), 3)
    right = (left + np.repeat([1, 2, 3], 80)) % 80
    for _ in range(300):
        effect = rng.normal(size=80) * 0.1
        hits = 0.5 + effect[left] + effect[right] + rng.normal(size=240) * 0.1
        found = interval_of_pairs(hits, left, right)
        covered += found.low <= 0.5 <= found.high
        plain += abs(hits.mean() - 0.5) <= 1.96 * hits.std() / math.sqrt(240)
    assert covered / 300 >= 0.89
    assert plain / 300 < 0.8


def test_wilson_with_half_hits_lies_between_its_whole_neighbours() -> None:
    for hits in (0, 3, 10):
        assert wilson_of_credit(hits, 10) == pytest.approx(wilson(hits, 10))
    assert wilson(3, 10).low < wilson_of_credit(3.5, 10).low < wilson(4, 10).low
    with pytest.raises(ValueError, match=r"10\.5 of 10"):
        wilson_of_credit(10.5, 10)
