"""How much a judge's choice goes by length once people's choice is given: one logistic regression.

    logit P(judge names the first text) = a (+1 people named it, -1 they did not) + b (its words - the other's)
There is no intercept, for the order of the texts is random. A tie is half a choice of each. The interval of b is the
sandwich whose filling adds up pairs that share a text (`agreement.dyadic_variance` of each pair's influence on b).

b exists only where choices do not follow a line: if some mixture of the two regressors is never against the judge's
choice, the likelihood grows without end (Albert & Anderson 1984, Biometrika 71). That is a linear program.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import linprog
from scipy.special import expit

from alignbench.scoring.agreement import dyadic_variance
from alignbench.scoring.stats import CONFIDENCE, Interval

WORDS = 10  # a regressor's unit
STEPS = 100  # of Newton's


class Effect(NamedTuple):
    log_odds: Interval | None  # b, of one unit of the gap; None: not identifiable
    why_not: str


def length_effect(
    choice: np.ndarray,  # (N,) 1, 1/2 or 0: the judge names the first text
    human: np.ndarray,  # (N,) 1 or 0
    gap: np.ndarray,  # (N,) length of the first text less that of the second
    left: np.ndarray,  # (N,) codes of the texts
    right: np.ndarray,  # (N,)
    confidence: float = CONFIDENCE,
) -> Effect:
    by = np.stack([2 * human - 1, gap], axis=1)  # (N, 2)
    if np.linalg.matrix_rank(by) < 2:
        return Effect(None, "length goes with people's choice on every pair")
    if is_separated(by, choice):
        return Effect(None, "length and people's choice together decide the judge's on every pair")
    found = _fitted(by, choice)
    chance = expit(by @ found)
    bread = np.linalg.inv(by.T @ (by * (chance * (1 - chance))[:, None]))
    moved = ((choice - chance)[:, None] * by @ bread)[:, 1]  # (N,) what each pair moves b by
    variance = max(dyadic_variance(moved, left, right), float(moved @ moved))
    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
    return Effect(Interval(float(found[1]), float(found[1]) - half, float(found[1]) + half), "")


def is_separated(by: np.ndarray, choice: np.ndarray) -> bool:
    """Whether a line has no choice against it and some for it, so that the likelihood has no maximum. `by` (N, K) of
    full rank, `choice` (N,) 1, 1/2 or 0."""
    scaled = by / np.abs(by).max(axis=0)
    towards = np.sign(choice - 0.5)[:, None] * scaled  # (N, K), zero for a tie
    ties = scaled[choice == 0.5]
    equal = {} if not len(ties) else {"A_eq": ties, "b_eq": np.zeros(len(ties))}
    found = linprog(-towards.sum(axis=0), A_ub=-towards, b_ub=np.zeros(len(by)), bounds=(-1, 1), **equal)
    return bool(found.status == 0 and -found.fun > 1e-7)


def _fitted(by: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """(K,) of greatest likelihood, by Newton's steps, each halved until it gains."""
    at = np.zeros(by.shape[1])
    for _ in range(STEPS):
        chance = expit(by @ at)
        gradient = by.T @ (choice - chance)
        step = np.linalg.solve(by.T @ (by * np.maximum(chance * (1 - chance), 1e-12)[:, None]), gradient)
        while _likelihood(by, choice, at + step) < _likelihood(by, choice, at) and np.abs(step).max() > 1e-12:
            step = step / 2
        at = at + step
        if np.abs(step).max() <= 1e-10 * max(1.0, float(np.abs(at).max())):
            break
    return at


def _likelihood(by: np.ndarray, choice: np.ndarray, at: np.ndarray) -> float:
    odds = by @ at
    return float((choice * odds - np.logaddexp(0, odds)).sum())
