"""How far raters agree: Krippendorff's alpha, one rater against the others, and intervals for both.

Votes come as two integer arrays, (V,) items and (V,) labels, and are counted into a sparse (I, L) table. Alpha is that
of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): it takes any number of raters and any missing
vote. Its interval resamples items, with all their votes, because another study would have other items. Its ends are no
quantiles of the resamples: those of ten items that three raters judge 95 % right cover the true alpha in half of all
studies, for where no item has a disagreement no resample has one. The `evalica` library has an alpha too; it resamples
single disagreements as if they were independent, and holds raters by items in one dense table, which a million votes of
many raters do not fit.

No function reads a file or prints, and none imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

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
    """Alpha, and where it would be with other items. The arguments are those of `alpha`.

    Student's t times the standard error of the bootstrap, on the scale of Fisher's z, which ends at -1 and 1. As in the
    exact interval of a proportion (Clopper & Pearson, Biometrika 26, 1934), each end counts one event beyond those
    seen: the lower one an item with a vote for each of the two commonest labels, the upper one an item with two votes
    for the `_farthest` label. So a few items that all agree have an interval with a width, and where no two votes
    agreed on a rare label two might have.

    The ends are NaN where alpha is, and where one item alone has two votes.
    """
    pairable, values = _pairable(counts, values)
    seen, n_items = alpha(pairable, values, level), pairable.shape[0]
    if math.isnan(seen) or n_items < 2:
        return Interval(seen, math.nan, math.nan)
    votes = np.asarray(pairable.sum(axis=0)).ravel()  # (L,)
    often, next_often = np.argsort(-votes, kind="stable")[:2]
    far = _farthest(votes, values, level)
    steps = float(stats.t.ppf((1 + confidence) / 2, n_items - 1))
    low = _end(_with_pair(pairable, often, next_often), values, level, -steps, resamples, seed)
    high = _end(_with_pair(pairable, far, far), values, level, steps, resamples, seed)
    return Interval(seen, min(low, seen), max(high, seen))


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


def wilson_of_credit(credit: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval where a tie is half a hit: `credit` may be any number from 0 to n, the trials, which need
    not be whole either (Wilson 1927)."""
    if not 0 <= credit <= n or n == 0:
        raise ValueError(f"a proportion needs 0 <= credit <= n and n > 0, got {credit} of {n}")
    share, z2 = credit / n, float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def share_of_clusters(
    credit: Sequence[float] | np.ndarray, clusters: Sequence[str] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """Mean of (n,) credits, 0 to 1, those of one cluster alike; Wilson's interval on as many trials as say as much, n
    over Kish's design effect (Survey Sampling, 1965), as Korn & Graubard (Survey Methodology 24, 1998) have it."""
    credit = np.asarray(credit, dtype=float)
    trials, share = effective(credit, clusters, confidence), float(credit.mean())
    ends = wilson_of_credit(share * trials, trials, confidence)
    return Interval(share, ends.low, ends.high)


def effective(credit: np.ndarray, clusters: Sequence[str] | np.ndarray, confidence: float = CONFIDENCE) -> float:
    """(n,) credits -> how many independent ones would say as much: n over the design effect, less what so few clusters
    say of it (Korn & Graubard's ratio of quantiles of t). At most n, and no fewer than if each cluster's were alike;
    that many, too, where all credits are the same and nothing tells."""
    _, code = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(code)
    n, groups = len(credit), len(sizes)
    fewest = n**2 / float(sizes @ sizes)
    rest = credit - credit.mean()
    alone = float(rest @ rest) * n / max(1, n - 1)
    if groups < 2 or not alone > 0:
        return fewest
    sums = np.bincount(code, rest)
    together = float(sums @ sums) * groups / (groups - 1)
    by_pair, by_cluster = stats.t.ppf((1 + confidence) / 2, [n - 1, groups - 1])
    found = n * alone / together if together > 0 else math.inf
    return max(fewest, min(float(n), found * float(by_pair / by_cluster) ** 2))


def _pairable(counts: sparse.csr_array, values: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
    """The items with two votes or more, for a vote alone agrees with nobody, and the labels that those have."""
    kept = counts[np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() >= 2)]
    if not kept.shape[0]:
        raise ValueError("alpha needs an item with two votes")
    used = np.flatnonzero(np.asarray(kept.sum(axis=0)).ravel())
    return kept[:, used], values[used]


def _farthest(votes: np.ndarray, values: np.ndarray, level: Level) -> int:
    """The label that is farthest from the mean of all votes, (L,) of each label; at nominal level, the rarest is."""
    if level == "nominal":
        return int(votes.argmin())
    places = _unit(values) if level == "interval" else np.cumsum(votes) - votes / 2
    return int(np.abs(places - votes @ places / votes.sum()).argmax())


def _with_pair(counts: sparse.csr_array, one: int, other: int) -> sparse.csr_array:
    """`counts` and an item with two votes."""
    return sparse.csr_array(
        sparse.vstack([counts, count_votes(np.zeros(2, int), np.array([one, other]), 1, counts.shape[1])])
    )


def _end(counts: sparse.csr_array, values: np.ndarray, level: Level, steps: float, resamples: int, seed: int) -> float:
    """Alpha of `counts`, `steps` standard errors further on the scale of Fisher's z."""
    rng = np.random.default_rng(seed)
    key = rng.random((counts.shape[1], 2))  # items with the same votes have the same two sums
    first, times = _alike(np.ascontiguousarray(counts @ key).view(complex).ravel())
    kinds = counts[first]
    blocks = _resamples(rng, times, resamples, CELLS // max(kinds.shape))
    drawn = np.concatenate([_alphas(kinds, values, level, weights) for weights in blocks])
    n_items = counts.shape[0]
    error = float(np.nanstd(drawn)) * math.sqrt(n_items / (n_items - 1))  # a resample in which nothing varies has none
    if error < 1e-12:  # all agree, or no two do: no vote speaks for less than that
        return math.copysign(1.0, steps)
    seen = min(max(alpha(counts, values, level), -1 + 1e-12), 1 - 1e-12)  # one huge difference may round it to 1
    return math.tanh(math.atanh(seen) + steps * error / (1 - seen**2))


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
