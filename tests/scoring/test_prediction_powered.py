"""The prediction-powered mean against numbers by hand, ordinary least squares and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS

from alignbench.scoring.prediction_powered import Ends, ppi_mean


def test_the_estimate_and_lambda_by_hand() -> None:
    """Human 1 1 0 0, judged 1 0 0 0, alone 1 0: cov 1/6, variances 1/4 and 1/2, so lambda = (1/24) / (1/16 + 1/4)."""
    found = ppi_mean(np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0]), np.array([1.0, 0]))
    weight = (1 / 24) / (1 / 16 + 1 / 4)
    assert found.weight == pytest.approx(weight)
    assert found.interval.mean == pytest.approx(0.5 + weight * (0.5 - 0.25))
    assert found.people_alone.mean == 0.5
    alone = stats.t.ppf(0.975, 3) * math.sqrt(1 / 3 / 4)
    assert found.people_alone.high - 0.5 == pytest.approx(alone)
    variance = (1 / 3 - 2 * weight / 6 + weight**2 / 4) / 4 + weight**2 / 4  # var(human - lambda judged) / n + ...
    assert found.interval.high - found.interval.mean == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(variance))


def test_with_endless_others_it_is_the_regression_of_people_on_the_judge() -> None:
    """lambda is then the slope, and the estimate what least squares predicts at the judge's mean of the others."""
    rng = np.random.default_rng(0)
    judged = rng.normal(size=40)
    human = judged + rng.normal(size=40)
    others = np.tile(rng.normal(size=1000), 1000)
    line = OLS(human, np.stack([np.ones(40), judged], axis=1)).fit().params
    found = ppi_mean(judged, human, others)
    assert found.weight == pytest.approx(line[1], rel=1e-3)
    assert found.interval.mean == pytest.approx(line @ [1, others.mean()], abs=1e-4)


@pytest.mark.parametrize(("n", "others", "right"), [(50, 150, 0.8), (50, 500, 0.95), (100, 1000, 0.5), (60, 300, 0.2)])
def test_the_interval_covers_as_it_says_and_is_never_wider_than_without_the_judge(
    n: int, others: int, right: float
) -> None:
    """People prefer with probability 0.6; the judge is as they are with probability `right`, also below a half."""
    rng, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(2000):
        human = rng.random(n + others) < 0.6
        judged = np.where(rng.random(n + others) < right, human, ~human).astype(float)
        found = ppi_mean(judged[:n], human[:n].astype(float), judged[n:])
        covered += found.interval.low <= 0.6 <= found.interval.high
        widths.append([one.high - one.low for one in (found.interval, found.people_alone)])
    assert 0.93 <= covered / 2000 <= 0.97
    with_judge, alone = np.array(widths).T
    assert (with_judge <= alone + 1e-12).all()
    if right != 0.5:
        assert with_judge.mean() < 0.9 * alone.mean()
    if right == 0.95:
        assert with_judge.mean() < 0.6 * alone.mean()


@pytest.mark.parametrize(
    ("n", "others", "people", "right"), [(10, 190, 0.9, 0.9), (20, 180, 0.9, 0.95), (10, 1000, 0.7, 0.95)]
)
def test_it_covers_where_few_labels_often_hold_no_error_of_the_judge(
    n: int, others: int, people: float, right: float
) -> None:
    """If no error seen were none made, some 0.73, 0.92 and 0.89 of them would; labels all alike have no interval."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(2000):
        human = rng.random(n + others) < people
        judged = np.where(rng.random(n + others) < right, human, ~human).astype(float)
        _, low, high = ppi_mean(judged[:n], human[:n].astype(float), judged[n:]).interval
        if not math.isnan(low):
            covered.append(low <= people <= high)
    assert len(covered) > 1200
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("is_with", [True, False])
def test_labels_without_an_error_of_the_judge_count_as_with_one(is_with: bool) -> None:
    """Nine of ten for one side, all judged rightly or all wrongly: variances 1/10 and one error's 1/10, of 0 and 1."""
    human = np.array([1.0] * 9 + [0.0])
    judged = human if is_with else 1 - human
    found = ppi_mean(judged, human, np.tile(judged, 100))
    alone = 0.09 * 1000 / 999 / 1000
    weight = 0.01 / (0.01 + 0.01 + alone)
    assert found.weight == pytest.approx(weight if is_with else -weight)
    variance = (1 - weight) ** 2 * 0.01 + weight**2 * (0.01 + alone)
    assert found.interval.high - found.interval.mean == pytest.approx(stats.t.ppf(0.975, 9) * math.sqrt(variance))
    assert found.interval.high - found.interval.mean < found.people_alone.high - found.people_alone.mean


def test_one_error_among_the_labels_is_enough_to_be_taken_as_it_is() -> None:
    """Then the weight is that of the plain formula; a tie is a quarter of one in squares, and lacks the rest."""
    human = np.array([1.0] * 7 + [0.0] * 3)
    seen, others = human.copy(), np.tile([1.0, 0, 1], 20)
    seen[0] = 0
    noise = seen.var(ddof=1) / 10 + others.var(ddof=1) / 60
    assert ppi_mean(seen, human, others).weight == pytest.approx(np.cov(human, seen)[0, 1] / 10 / noise)
    seen[0] = 0.5
    noise = seen.var(ddof=1) / 10 + 0.75 / 100 + others.var(ddof=1) / 60
    assert ppi_mean(seen, human, others).weight == pytest.approx(np.cov(human, seen)[0, 1] / 10 / noise)


def test_a_judge_of_another_mean_does_not_move_the_estimate() -> None:
    rng = np.random.default_rng(1)
    human = rng.random(2000) < 0.3
    judged = np.maximum(human, rng.random(2000) < 0.6).astype(float)  # it says yes to 72 %
    estimates = [
        ppi_mean(judged[order[:100]], human[order[:100]].astype(float), judged[order[100:]]).interval.mean
        for order in (rng.permutation(2000) for _ in range(300))
    ]
    assert np.mean(estimates) == pytest.approx(human.mean(), abs=0.01)
    assert judged.mean() > human.mean() + 0.3


def test_a_constant_judge_has_no_weight_and_a_perfect_one_nearly_all() -> None:
    human = np.tile([1.0, 0, 0], 20)
    constant = ppi_mean(np.ones(60), human, np.ones(100))
    assert (constant.weight, constant.interval) == (0, constant.people_alone)
    perfect = ppi_mean(human, human, np.tile([1.0, 0], 50_000))
    assert perfect.weight == pytest.approx(1 / (1 + 1 / 60 / human.var(ddof=1)), abs=1e-3)  # 0.93
    assert perfect.interval.mean == pytest.approx(1 / 3 + perfect.weight / 6)


def test_pairs_that_share_texts_get_wider_intervals_which_cover() -> None:
    """Strengths of 60 texts move people and judge alike; each text stands in six pairs, which say less than six."""
    rng, covered, plain = np.random.default_rng(0), 0, 0
    left = np.tile(np.arange(60), 3)
    right = (left + np.repeat([1, 2, 3], 60)) % 60
    ends = Ends(left, right)
    for _ in range(400):
        strength = rng.normal(size=60) * 0.2
        human = strength[left] + strength[right] + rng.normal(size=180) * 0.2
        judged = strength[left] + strength[right] + rng.normal(size=180) * 0.2
        for with_ends in (True, False):
            found = ppi_mean(judged[:60], human[:60], judged[60:], ends if with_ends else None).interval
            hit = found.low <= 0 <= found.high
            covered, plain = covered + (hit and with_ends), plain + (hit and not with_ends)
    assert covered / 400 >= 0.9
    assert plain / 400 < 0.85


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 labelled items, 2 others and a judgement of each, got 2, 5 and 2"):
        ppi_mean(np.ones(2), np.ones(2), np.ones(5))
    with pytest.raises(ValueError, match="got 4, 5 and 3"):
        ppi_mean(np.ones(3), np.ones(4), np.ones(5))
