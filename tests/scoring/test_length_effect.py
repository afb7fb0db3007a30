"""The logistic regression of a judge's choice on people's and on length, against statsmodels and planted effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from statsmodels.api import GLM
from statsmodels.genmod.families import Binomial

from alignbench.scoring.length_effect import is_separated, length_effect


def simulated(n: int, people: float, length: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """choice, human and gap, where the judge's log-odds are people (+-1) + length * gap."""
    rng = np.random.default_rng(seed)
    human, gap = rng.integers(0, 2, n).astype(float), rng.normal(size=n)
    choice = (rng.random(n) < expit(people * (2 * human - 1) + length * gap)).astype(float)
    return choice, human, gap


def apart(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of pairs that share no text."""
    return np.arange(n), np.arange(n, 2 * n)


def test_it_equals_statsmodels_with_its_robust_interval_also_with_ties() -> None:
    choice, human, gap = simulated(300, 0.8, 0.5)
    choice[:20] = 0.5
    by = np.stack([2 * human - 1, gap], axis=1)
    fitted = GLM(choice, by, family=Binomial()).fit(cov_type="HC0")
    found = length_effect(choice, human, gap, *apart(300)).log_odds
    assert found is not None
    assert found.mean == pytest.approx(fitted.params[1], rel=1e-6)
    assert found[1:] == pytest.approx(fitted.conf_int()[1], rel=1e-5)


def test_a_planted_effect_is_covered_as_often_as_the_interval_says() -> None:
    covered = 0
    for seed in range(400):
        found = length_effect(*simulated(200, 1.0, 0.7, seed), *apart(200)).log_odds
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_pairs_that_share_texts_widen_the_interval() -> None:
    choice, human, gap = (np.tile(values, 4) for values in simulated(100, 0.5, 0.5))
    copies = tuple(np.tile(codes, 4) for codes in apart(100))
    once, four = (length_effect(choice, human, gap, *ends).log_odds for ends in (apart(400), copies))
    assert once is not None
    assert four is not None
    assert (four.high - four.low) / (once.high - once.low) == pytest.approx(2, rel=1e-6)


def test_what_cannot_be_told_apart_is_said() -> None:
    _, human, gap = simulated(50, 0, 0)
    ends = apart(50)
    by_length = length_effect((gap > 0).astype(float), human, gap, *ends)
    assert by_length == (None, "length and people's choice together decide the judge's on every pair")
    assert length_effect(human, human, gap, *ends).log_odds is None
    one_column = length_effect((gap > 0).astype(float), human, 3 * (2 * human - 1), *ends)
    assert one_column == (None, "length goes with people's choice on every pair")
    assert length_effect(human, human, np.zeros(50), *ends).log_odds is None


def test_one_choice_against_the_line_makes_it_identifiable() -> None:
    by = np.array([[1, 2.0], [-1, -3], [1, 1], [-1, -1]])
    assert is_separated(by, np.array([1.0, 0, 1, 0]))
    assert is_separated(by, np.array([1.0, 0, 1, 0.5]))  # by (-1, 1), in which the tie is one
    assert not is_separated(by, np.array([1.0, 1, 1, 0.5]))  # there the first two are against each other
    assert not is_separated(by, np.array([0, 0, 1.0, 1]))


def test_separation_is_what_a_search_of_all_directions_finds() -> None:
    rng, seen = np.random.default_rng(0), []
    angles = np.linspace(0, 2 * np.pi, 20_001)
    directions = np.stack([np.cos(angles), np.sin(angles)])  # (2, A)
    for _ in range(100):
        by, choice = rng.normal(size=(5, 2)), rng.integers(0, 2, 5).astype(float)
        is_for = ((2 * choice - 1)[:, None] * (by @ directions) >= 0).all(axis=0)
        seen.append(bool(is_for.any()))
        assert is_separated(by, choice) == seen[-1]
    assert 20 < sum(seen) < 80
