"""Mean squares and intervals agree with independent ones, hold where they must, and refuse what has none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower

from alignbench.scoring.crossed import Spread, estimate, mean_squares, split_of, spread_of


def table(replicates: int, prompts: int, own: float = 0.3, taste: float = 0.8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = own * rng.normal(size=(replicates, 1)) + taste * rng.normal(size=prompts)
    return parts + rng.normal(size=(replicates, prompts))


@pytest.mark.parametrize(("replicates", "prompts"), [(3, 7), (5, 2), (4, 20)])
def test_mean_squares_are_those_of_statsmodels_two_way_layout(replicates: int, prompts: int) -> None:
    values = table(replicates, prompts)
    long = pd.DataFrame(
        [(s, p, values[s, p]) for s in range(replicates) for p in range(prompts)], columns=["s", "p", "y"]
    )
    expected = anova_lm(ols("y ~ C(s) + C(p)", data=long).fit())["mean_sq"]
    seen = mean_squares(values)
    assert seen[:3] == pytest.approx([expected["C(s)"], expected["C(p)"], expected["Residual"]])


def test_by_hand() -> None:
    # replicate means 1, 3, 5 around 3, prompt means 2 and 4; residuals +-1, -+1 and 0
    values = [[1.0, 1.0], [1.0, 5.0], [4.0, 6.0]]
    squares = mean_squares(values)
    assert squares == pytest.approx((8.0, 6.0, 2.0, 3, 2))
    assert split_of(squares) == split_of(squares, None)
    split = split_of(squares, sampling=0.5)
    assert (split.replicate, split.prompt, split.rest, split.interaction) == pytest.approx((3.0, 4 / 3, 2.0, 1.5))
    found = estimate(values)
    assert found.mean == pytest.approx(3.0)
    assert found.se**2 == pytest.approx((8 + 6 - 2) / 6)
    # t(0.975) is 12.7062 with one degree of freedom: 12.7062 sqrt(6 / 6), for that floor is above
    # sqrt((4.30265^2 * 8 + 12.7062^2 * 4) / 6) = 11.5028
    assert found.high - found.mean == pytest.approx(12.7062, rel=1e-5)
    # t(0.975) is 4.30265 with two and 1.97882 with 127: sqrt(18.51280 * 2 + 3.91573 * 0.5)
    assert Spread(2.0, 2, 0.5, 0.6, 127).half_width(0.05) == pytest.approx(6.24366, rel=1e-5)


def test_the_variance_is_never_below_a_one_way_layouts() -> None:
    for seed in range(200):
        squares = mean_squares(table(3, 5, own=0.0, taste=0.0, seed=seed))
        spread = spread_of(squares)
        r, p, e = (square / 15 for square in squares[:3])
        assert spread.se**2 == pytest.approx(max(r + p - e, r, p))
        for part, df in ((r, 2), (p, 4)):
            assert spread.half_width(0.05) >= stats.t.ppf(0.975, df) * math.sqrt(part) - 1e-12


def test_with_one_prompt_it_is_the_one_sample_t() -> None:
    values = table(6, 1)
    found, expected = estimate(values, 0.9), stats.ttest_1samp(values[:, 0], 0.0)
    assert found[1:3] == pytest.approx(expected.confidence_interval(0.9))
    assert spread_of(mean_squares(values)).p(abs(found.mean)) == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.split.replicate == pytest.approx(values.var(ddof=1))
    assert found.split.prompt == found.split.rest == 0


def test_p_is_the_level_of_the_interval_that_reaches_zero() -> None:
    spread = spread_of(mean_squares(table(4, 12)))
    for distance in (0.05, 0.3, 1.0, 3.0):
        assert spread.half_width(spread.p(distance)) == pytest.approx(distance, rel=1e-6)
    assert spread.p(0.0) == 1.0


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (4, 0.05 / 15), (10, 0.05 / 15), (9, 0.05)])
def test_the_detectable_effect_is_statsmodels(df: int, alpha: float) -> None:
    spread = Spread(0.3, df, 0.0, 0.0, 127)
    size = TTestPower().solve_power(nobs=df + 1, alpha=alpha, power=0.8)
    assert spread.detectable(alpha, 0.8) == pytest.approx(size * math.sqrt(df + 1) * math.sqrt(0.3), rel=1e-4)


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five() -> None:
    """Between the exact cases too, where both parts vary."""
    rng, found, trials = np.random.default_rng(0), 0, 400
    replicates, prompts, own, taste = 5, 32, 0.05, 1.2
    rest = 1.0
    truth = Spread(own / replicates + rest / 160, 4, taste / prompts, taste / prompts + rest / 160, 31)
    size = truth.detectable(0.05, 0.8)
    for _ in range(trials):
        values = size + own**0.5 * rng.normal(size=(replicates, 1)) + taste**0.5 * rng.normal(size=prompts)
        spread = spread_of(mean_squares(values + rng.normal(size=(replicates, prompts))))
        found += spread.half_width(0.05) < abs(values.mean())
    assert found / trials == pytest.approx(0.8, abs=0.08)


def test_values_that_are_all_equal_leave_nothing_in_doubt() -> None:
    found = estimate(np.full((3, 4), 0.1))
    assert found[:4] == pytest.approx((0.1, 0.1, 0.1, 0.0))
    spread = spread_of(mean_squares(np.full((3, 4), 0.1)))
    assert (spread.p(0.0), spread.p(0.1), spread.detectable(0.05, 0.8)) == (1.0, 0.0, 0.0)


def test_order_shift_and_scale() -> None:
    values, rng = table(4, 9), np.random.default_rng(1)
    found = np.array(estimate(values)[:4])
    mixed = values[rng.permutation(4)][:, rng.permutation(9)]
    assert estimate(mixed)[:4] == pytest.approx(found)
    assert estimate(values + 7)[:4] == pytest.approx([*(found[:3] + 7), found[3]])
    assert estimate(3 * values)[:4] == pytest.approx(3 * found)


def test_components_are_recovered_and_never_below_zero() -> None:
    many = [split_of(mean_squares(table(4, 30, 0.5, 0.8, seed))) for seed in range(400)]
    means = np.mean([(x.replicate, x.prompt, x.rest) for x in many], axis=0)
    assert means == pytest.approx([0.25, 0.64, 1.0], rel=0.12)
    none = [split_of(mean_squares(table(3, 5, 0.0, 0.0, seed))) for seed in range(50)]
    assert {min(x.replicate, x.prompt) for x in none} >= {0.0}
    assert all(min(x.replicate, x.prompt) >= 0 for x in none)


def coverage(width_over_prompts_alone: bool) -> float:
    hits = 0
    for seed in range(400):
        values = table(3, 40, own=0.3, taste=0.3, seed=seed)
        half = spread_of(mean_squares(values)).half_width(0.05)
        if width_over_prompts_alone:
            half = stats.t.ppf(0.975, 39) * values.mean(axis=0).std(ddof=1) / math.sqrt(40)
        hits += abs(values.mean()) <= half
    return hits / 400


def test_the_interval_covers_and_one_over_prompts_alone_does_not() -> None:
    assert 0.93 <= coverage(width_over_prompts_alone=False) <= 0.99
    assert coverage(width_over_prompts_alone=True) < 0.8


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.ones((2, 9)), r"at least 3 replicates and one prompt, got shape \(2, 9\)"),
        (np.ones((3, 0)), "at least 3 replicates and one prompt"),
        ([], "at least 3 replicates and one prompt"),
        ([[1.0, 2.0], [1.0], [2.0, 3.0]], r"differ in their number of prompts: \[1, 2\]"),
        ([[1.0], [math.nan], [2.0]], "1 of 3 values are not finite"),
    ],
)
def test_an_estimate_is_refused_where_there_is_none(values: list[list[float]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        estimate(values)
