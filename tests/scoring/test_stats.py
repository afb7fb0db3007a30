"""Intervals hold their level, agree with the textbook's, and refuse what has no interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from alignbench.scoring.stats import interval_of_mean, wilson


def test_bootstrap_holds_its_level_and_agrees_with_the_t_interval_on_normal_data() -> None:
    prompts, truth, trials = 60, 0.3, 400
    draws = np.random.default_rng(1).normal(truth, 2.0, size=(trials, prompts))
    covered, widths, analytic = 0, 0.0, 0.0
    for i, row in enumerate(draws):
        interval = interval_of_mean(row[None], 0.9, 500, seed=i)
        covered += interval.low <= truth <= interval.high
        widths += interval.high - interval.low
        analytic += 2 * stats.t.ppf(0.95, prompts - 1) * row.std(ddof=1) / math.sqrt(prompts)
    assert covered / trials == pytest.approx(0.9, abs=0.045)  # three standard errors of 400 trials
    assert widths / analytic == pytest.approx(1.0, abs=0.04)


def test_seeds_are_averaged_within_a_prompt_before_prompts_are_drawn() -> None:
    difficulty = np.random.default_rng(0).normal(size=50)
    one, eight = interval_of_mean(difficulty[None]), interval_of_mean(np.tile(difficulty, (8, 1)))
    assert eight == pytest.approx(one)  # seeds that agree bring no new prompt
    noise = np.random.default_rng(1).normal(size=50)
    assert interval_of_mean(np.stack([difficulty + noise, difficulty - noise])) == pytest.approx(one)


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=(1, 20))
    assert interval_of_mean(values) == interval_of_mean(values)
    assert interval_of_mean(values, seed=1) != interval_of_mean(values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "at least one seed and two prompts"),
        ([[]], "at least one seed and two prompts"),
        ([[1.0]], "at least one seed and two prompts"),
        ([[1.0, 2.0], [1.0]], "differ in their number of prompts"),
        ([[1.0, math.nan]], "1 of 2 values are not finite"),
        ([[1.0, math.inf]], "1 of 2 values are not finite"),
    ],
)
def test_an_interval_is_refused_where_there_is_none(values: list[list[float]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        interval_of_mean(values)


def test_wilson_by_hand() -> None:
    # z = 1.959964, 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10) = 0.716740,
    # half width z sqrt(0.8 * 0.2 / 10 + z^2/400) / (1 + z^2/10) = 0.226577
    assert wilson(8, 10) == pytest.approx((0.8, 0.490163, 0.943317), abs=2e-6)


def test_wilson_stays_within_zero_and_one() -> None:
    assert wilson(0, 20).low == 0
    assert 0 < wilson(0, 20).high < 0.2
    assert wilson(20, 20).high == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_counts_that_cannot_be(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {hits} hits of {n}"):
        wilson(hits, n)
