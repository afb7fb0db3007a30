"""A mean that people were asked for on a few items, and a judge on those and many more.

Prediction-powered inference (Angelopoulos et al., Science 2023, arXiv:2301.09633; with lambda, PPI++,
Angelopoulos, Duchi & Zrnic 2023, arXiv:2311.01453):
    estimate = mean(human) + lambda (mean(judged alone) - mean(judged beside people)).
It has no bias at any fixed lambda, whatever the judge is worth: lambda 0 hears people alone, lambda 1 trusts the judge
and corrects it where people were asked too. Here lambda is the one of least estimated variance,
    lambda = (cov(human, judged) / n) / (var(judged beside people) / n + var(judged alone) / N),
which is PPI++'s tuning, but for the two variances of the judge: each is of its own part, where PPI++ takes one of both
together. So the estimated variance of independent items never exceeds that of people alone, and a judge that is
constant has lambda 0. It is not cut to 0 to 1: a judge who is against people tells as much as one who is with them.

Few items often hold no error of the judge, which does not show that it makes none. So where the labels are without one,
the judge's variance beside people is that of one error more, 1 / n for a whole share on one of n items: lambda falls by
it, and the interval is no narrower than one error would make it. Simulated, 3,000 draws each of 810 settings: 10 to 48
labels, 30 to 1,000 others, people for one side on 0.5 to 0.95 of the items, a judge right on 0.7 to 0.98 that errs both
ways, up or down. Intervals of 95 % cover on 0.884 of the draws at least and on 0.93 or more in 91 % of the settings,
those of people alone on 0.928 and in 93 %; without the one error it was 0.363 and 51 %. Labels that are all alike have
no interval, and are no draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from alignbench.scoring.agreement import dyadic_variance
from alignbench.scoring.stats import CONFIDENCE, Interval

FEWEST = 3  # items people were asked for: below, a covariance says nothing


class Ends(NamedTuple):
    """Codes of the two texts of each item, where items are pairs that share texts: labelled ones before the others."""

    left: np.ndarray  # (n + N,)
    right: np.ndarray  # (n + N,)


class Powered(NamedTuple):
    interval: Interval  # people's mean, by people and the judge
    people_alone: Interval  # by the labelled items without the judge
    weight: float  # lambda: of the judge


def ppi_mean(
    judged_labelled: np.ndarray,  # (n,) what the judge said of the items that people were asked for; a share, 0 to 1
    human: np.ndarray,  # (n,) what people said; a share
    judged_unlabelled: np.ndarray,  # (N,) what the judge said of the others
    ends: Ends | None = None,
    confidence: float = CONFIDENCE,
) -> Powered:
    """Mean over all items of what people say, with Student's intervals of n - 1 degrees of freedom. Items are
    independent, or pairs with `ends`, whose variance is then the dyadic one. The ends of an interval are NaN where
    nothing varies that it could rest on. ValueError: n < 3, N < 2, or shapes."""
    n, others = len(human), len(judged_unlabelled)
    if n < FEWEST or others < 2 or len(judged_labelled) != n:
        raise ValueError(
            f"needs {FEWEST} labelled items, 2 others and a judgement of each, got {n}, {others} and "
            f"{len(judged_labelled)}"
        )
    unseen = _unseen(judged_labelled, human)
    weight = _least_variance(judged_labelled, human, judged_unlabelled, unseen)
    both = []
    for share in (weight, 0.0):
        mean = float(human.mean() + share * (judged_unlabelled.mean() - judged_labelled.mean()))
        part = _influence(human - share * judged_labelled), _influence(share * judged_unlabelled)
        variance = _variance(*part, ends) + share**2 * unseen
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(variance) or math.nan
        both.append(Interval(mean, mean - half, mean + half))
    return Powered(both[0], both[1], weight)


def _unseen(judged: np.ndarray, human: np.ndarray) -> float:
    """Variance of the judge's mean that one error among the labels has, less what the errors there are make of it. An
    error of a judge who is against people is where it is with them."""
    errors = min(float(((human - judged) ** 2).sum()), float(((human - (1 - judged)) ** 2).sum()))
    return max(0.0, 1 - errors) / len(human) ** 2


def _least_variance(judged: np.ndarray, human: np.ndarray, alone: np.ndarray, unseen: float) -> float:
    noise = judged.var(ddof=1) / len(judged) + unseen + alone.var(ddof=1) / len(alone)
    shared = float(np.cov(human, judged)[0, 1]) / len(human)
    return shared / float(noise) if noise > 0 else 0.0


def _influence(values: np.ndarray) -> np.ndarray:
    """What each value moves the mean by; the sum of squares is the mean's unbiased variance."""
    return (values - values.mean()) / math.sqrt(len(values) * (len(values) - 1))


def _variance(labelled: np.ndarray, others: np.ndarray, ends: Ends | None) -> float:
    moved = np.concatenate([labelled, others])
    alone = float(moved @ moved)
    return alone if ends is None else max(alone, dyadic_variance(moved, ends.left, ends.right))
