"""Intervals: what the numbers of a table may be off by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def interval_of_mean(
    values: Sequence[Sequence[float]] | np.ndarray,  # (S, P): seeds, prompts
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over prompts, of each prompt's mean over seeds.

    The seeds are averaged first because they share their prompts: an easy prompt is easy under every seed, and S x P
    values taken for independent would give an interval too narrow. The interval speaks of other prompts, not of other
    seeds.
    """
    if len({len(row) for row in values}) > 1:
        raise ValueError(f"seeds differ in their number of prompts: {sorted({len(row) for row in values})}")
    by_seed = np.asarray(values, dtype=float)  # (S, P)
    if by_seed.ndim != 2 or by_seed.shape[1] < 2:
        raise ValueError(f"an interval needs at least one seed and two prompts, got values of shape {by_seed.shape}")
    if not np.isfinite(by_seed).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(by_seed))} of {by_seed.size} values are not finite")
    by_prompt = by_seed.mean(axis=0)  # (P,)
    ends = stats.bootstrap(
        (by_prompt,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 10**7 // by_prompt.size),  # 80 MB of draws at once
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(by_prompt.mean()), float(ends.low), float(ends.high))


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion; unlike the normal one it keeps its level near 0 and 1."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= hits <= n and n > 0, got {hits} hits of {n}")
    ends = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return Interval(hits / n, float(ends.low), float(ends.high))
