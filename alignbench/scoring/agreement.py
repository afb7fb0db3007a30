"""How far raters agree: Krippendorff's alpha, one rater against the others, and intervals for both.

Votes come as two integer arrays, (V,) items and (V,) labels, and are counted into a sparse (I, L) table. Alpha is that
of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): it takes any number of raters and any missing
vote. Its interval resamples items, with all their votes, because another study would have other items. The
`evalica` library has an alpha too; it resamples single disagreements as if they were independent, and holds raters by
items in one dense table, which a million votes of many raters do not fit.

No function reads a file or prints, and none imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from scipy import sparse, stats

from alignbench.scoring.stats import CONFIDENCE, Interval

Level = Literal["nominal", "ordinal", "interval"]
RESAMPLES = 1000
CELLS = 10**7  # float64 cells of a block of resamples, 80 MB


def count_votes(items: np.ndarray, labels: np.ndarray, n_items: int, n_labels: int) -> sparse.csr_array:
    """(I, L) float64: how often each item got each label. `items` and `labels` are (V,) codes."""
    ones = np.ones(len(items))
    return sparse.csr_array(sparse.coo_array((ones, (items, labels)), shape=(n_items, n_labels)))  # sums repeats


def alpha(counts: sparse.csr_array, values: np.ndarray, level: Level) -> float:
    """Krippendorff's alpha of `counts` (I, L), whose labels stand for the (L,) `values`, ascending at ordinal level.

    1 is perfect agreement, 0 that of chance. NaN where the items with two votes or more have one label in all: nothing
    varies, and agreement by chance would be perfect too. ValueError if no item has two votes.
    """
    pairable, values = _pairable(counts, values)
    return float(_alphas(pairable, values, level, np.ones((1, pairable.shape[0])))[0])


def alpha_interval(
    counts: sparse.csr_array,
    values: np.ndarray,
    level: Level,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Alpha, and the percentile bootstrap over items. The arguments are those of `alpha`.

    A resample in which nothing varies has no alpha and is left out. The ends are NaN where alpha is, and where one item
    alone has two votes.
    """
    pairable, values = _pairable(counts, values)
    seen = alpha(pairable, values, level)
    if math.isnan(seen) or pairable.shape[0] < 2:
        return Interval(seen, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    key = rng.random((pairable.shape[1], 2))  # items with the same votes have the same two sums
    first, times = _alike(np.ascontiguousarray(pairable @ key).view(complex).ravel())
    kinds = pairable[first]
    blocks = _resamples(rng, times, resamples, CELLS // max(kinds.shape))
    drawn = [_alphas(kinds, values, level, weights) for weights in blocks]
    return Interval(seen, *_ends(np.concatenate(drawn), confidence))


def agreement_with_others(counts: sparse.csr_array, items: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(V,) of each vote: whether it is the label most of the item's other votes have; where t labels tie for that and
    it is one of them, 1 / t. NaN where the item has no other vote."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    most = np.zeros(counts.shape[0])
    np.maximum.at(most, rows, counts.data)
    n_most = np.bincount(rows, counts.data == most[rows], counts.shape[0])
    n_next = np.bincount(rows, counts.data == most[rows] - 1, counts.shape[0])
    # Without this vote its label has one vote less: it is in front if it led alone, beside those who were one behind.
    own = np.asarray(counts[items, labels]).ravel()
    leads = (own == most[items]) & (n_most[items] == 1)
    total = np.asarray(counts.sum(axis=1)).ravel()[items]
    return np.where(total > 1, leads / (1 + n_next[items]), np.nan)


def interval_of_ratio(
    over: np.ndarray,  # (I,)
    under: np.ndarray,  # (I,)
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Sum of `over` by sum of `under`, such as right votes by votes of each item; percentile bootstrap over items."""
    if not under.sum() > 0:
        raise ValueError("a ratio needs an item with something below the line")
    first, times = _alike(over + 1j * under)
    both = np.stack([over, under], axis=1)[first]
    blocks = _resamples(np.random.default_rng(seed), times, resamples, CELLS // len(first))
    sums = np.concatenate([weights @ both for weights in blocks])
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = sums[:, 0] / sums[:, 1]
    return Interval(float(over.sum() / under.sum()), *_ends(drawn, confidence))


def interval_of_pairs(
    hits: np.ndarray,  # (P,), within `bounds`
    left: np.ndarray,  # (P,) codes of the texts
    right: np.ndarray,  # (P,)
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Mean over pairs that share texts: the normal interval with `dyadic_variance`, cut at the `bounds` of a value."""
    if len(hits) < 2:
        raise ValueError(f"an interval needs at least two pairs, got {len(hits)}")
    mean = float(hits.mean())
    rest = hits - mean
    variance = max(dyadic_variance(rest, left, right), float(rest @ rest)) / len(hits) ** 2
    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
    return Interval(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))


def share_of_pairs(hits: np.ndarray, left: np.ndarray, right: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Mean of (P,) hits, 0 to 1, over pairs that share texts: Wilson's interval of as many independent pairs as say as
    much. Unlike `interval_of_pairs` it has a width where all pairs agree."""
    n = max(1, int(effective_pairs(hits, left, right)))
    return wilson_of_credit(float(hits.mean()) * n, n, confidence)


def effective_pairs(hits: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """How many independent pairs have the variance that these (P,) have, P at most."""
    residuals = hits - float(hits.mean())
    alone, variance = float(residuals @ residuals), dyadic_variance(residuals, left, right)
    return len(hits) if variance <= alone else len(hits) * alone / variance


def dyadic_variance(rest: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Of the sum of (P,) values whose residuals are `rest`: their products over all pairs of pairs with a text in
    common, each once and each with itself (Aronow, Samii & Assenova, Political Analysis 2015, equation 2; Fafchamps &
    Gubert 2007, J. Dev. Econ. 83). `left` and `right` are codes of the texts."""
    count = int(max(left.max(), right.max())) + 1
    by_text = np.bincount(left, rest, count) + np.bincount(right, rest, count)
    _, pair = np.unique(np.minimum(left, right) * count + np.maximum(left, right), return_inverse=True)
    by_pair = np.bincount(pair, rest)  # at both of its texts, so that it was counted twice
    return float(by_text @ by_text - by_pair @ by_pair)


def wilson_of_credit(credit: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval where a tie is half a hit: `credit` may be any number from 0 to n (Wilson 1927)."""
    if not 0 <= credit <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= credit <= n and n > 0, got {credit} of {n}")
    share, z2 = credit / n, float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _pairable(counts: sparse.csr_array, values: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
    """The items with two votes or more, for a vote alone agrees with nobody, and the labels that those have."""
    kept = counts[np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() >= 2)]
    if not kept.shape[0]:
        raise ValueError("alpha needs an item with two votes")
    used = np.flatnonzero(np.asarray(kept.sum(axis=0)).ravel())
    return kept[:, used], values[used]


def _alphas(counts: sparse.csr_array, values: np.ndarray, level: Level, weights: np.ndarray) -> np.ndarray:
    """(B,) alphas, where resample b takes item i weights[b, i] times; weights (B, I)."""
    size = np.asarray(counts.sum(axis=1)).ravel()  # (I,)
    n = weights @ size  # (B,)
    by_label = (counts.T @ weights.T).T  # (B, L)
    if level == "nominal":
        same = np.asarray(counts.multiply(counts).sum(axis=1)).ravel()  # (I,) ordered pairs of one label, and selves
        observed = weights @ ((size**2 - same) / (size - 1))
        expected = n**2 - (by_label**2).sum(axis=1)
    elif level == "interval":
        unit = _unit(values)
        observed = weights @ (2 * size * _squares_about_own_mean(counts, unit) / (size - 1))
        centre = by_label @ unit / n  # (B,)
        expected = 2 * n * (by_label * (unit - centre[:, None]) ** 2).sum(axis=1)
    else:
        # The ordinal difference of two labels is that of their mid-ranks, so this is the interval level on those.
        ranks = (np.cumsum(by_label, axis=1) - by_label / 2) / n[:, None] - 0.5  # (B, L), with a mean of 0
        total, square = (counts @ ranks.T).T, (counts @ (ranks**2).T).T  # (B, I)
        observed = (weights * (2 * (size * square - total**2) / (size - 1))).sum(axis=1)
        expected = 2 * n * (by_label * ranks**2).sum(axis=1)
    varies = (by_label > 0).sum(axis=1) > 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, 1 - (n - 1) * observed / expected, np.nan)


def _unit(values: np.ndarray) -> np.ndarray:
    """(L,) from 0 for the lowest value to 1 for the highest: alpha has neither unit nor zero, squares of large values
    overflow, and those of values far from 0, such as times, leave nothing of their differences."""
    halved = values / (2 if np.abs(values).max() > 1e300 else 1)  # the difference of two floats may be beyond floats
    return (halved - halved.min()) / (np.ptp(halved) or 1.0)


def _squares_about_own_mean(counts: sparse.csr_array, values: np.ndarray) -> np.ndarray:
    """(I,) sum over an item's votes of their squared distance from its mean."""
    items = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    mean = (counts @ values) / np.asarray(counts.sum(axis=1)).ravel()
    return np.bincount(items, counts.data * (values[counts.indices] - mean[items]) ** 2, counts.shape[0])


def _alike(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each kind of item: the place of its first, and how many items are of it. A million items are often a few
    kinds, and a resample need only say how many of each it has."""
    _, first, times = np.unique(keys, return_index=True, return_counts=True)
    return first, times


def _resamples(rng: np.random.Generator, times: np.ndarray, count: int, block: int) -> Iterator[np.ndarray]:
    """Blocks (B, K) float64 of `count` resamples: how often an item of each kind is drawn in as many draws as there are
    items, with replacement."""
    n, kinds = int(times.sum()), len(times)
    kind = np.repeat(np.arange(kinds), times)  # (n,)
    for start in range(0, count, max(1, block)):
        rows = min(max(1, block), count - start)
        if kinds * 10 < n:  # a binomial draw takes as long as some ten integers
            yield rng.multinomial(n, times / n, rows).astype(float)
        else:
            drawn = (np.bincount(kind[rng.integers(0, n, n)], minlength=kinds) for _ in range(rows))
            yield np.stack(list(drawn)).astype(float)


def _ends(drawn: np.ndarray, confidence: float) -> tuple[Any, Any]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
