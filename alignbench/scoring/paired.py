"""Which of two rows is better: one verdict for every pair of rows of a comparison.

Two rows are compared over the replicates both have, value by value: what a replicate or a prompt does to both rows
alike falls out of the difference. Every difference has an interval of its own (`scoring.crossed`); the claims are then
held together over all pairs that are compared.

- *better*: the difference is not 0, by Holm's procedure (Holm, 1979, "A simple sequentially rejective multiple test
  procedure") over the pairs. The chance that a table holds any false one is at most 1 - confidence.
- *equivalent*: the difference lies within +- delta, by two one-sided tests of size 1 - confidence each (Schuirmann,
  1987). A table of 15 pairs has 15 chances to say so falsely, so these p-values are a Holm family of their own, which
  holds the chance of any false "equivalent" at 1 - confidence too. One family for both would also do, since a
  difference can't be 0 and beyond delta at once; two keep the p beside a difference the one that any other program
  gives.
- *undecided*: neither; with the smallest true difference that would probably have been found, and what to buy.
- *not compared*: under three replicates in common.

A difference can be surely not 0 and surely within delta. Delta was declared as the smallest difference that matters,
so the verdict is then "equivalent", and `winner` still names the row that is ahead.

**Three or four replicates.** A difference's MS_replicate then has 2 or 3 degrees of freedom, and Holm's first step
over 15 pairs asks for t = 17. So the variance between replicates is pooled over all R rows that have these replicates.
Let m be the (R, S) table of a row's mean in a replicate. A replicate effect that all rows share, and the rows' own
means, fall out of the two-way residual r of m, whose sum of squares has exactly (R - 1)(S - 1) degrees of freedom: it
is what R - 1 orthogonal contrasts of rows vary by over S replicates, so no difference is counted twice though pairs
share rows. If the rows' own replicate effects vary alike, 2 P sum(r^2) / ((R - 1)(S - 1)) estimates the same as a
difference's MS_replicate.

Rows need not vary alike, and pooling would make the wild ones' intervals too narrow. The contrast a - b is orthogonal
to the other R - 2, so F = MS_replicate(a - b) / MS_replicate(the rest), with S - 1 and (R - 2)(S - 1) degrees of
freedom, tests it. At these sizes the test is weak: at its usual 5 % it would let a variance ten times the others' pass
more often than not. A preliminary test for pooling wants a large size (Bancroft, 1964, "Analysis and inference for
incompletely specified models involving the use of preliminary test(s) of significance"): a pair is pooled only if p >
0.5, so half of all pairs are not pooled where they might be; at 0.25 a row that varies twenty times as much as five
others brought false differences into 8 % of tables. Bartlett's test over all rows did worse: it forbids quiet pairs
for a wild row, and wild rows still passed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from alignbench.scoring.crossed import (
    FEWEST_REPLICATES,
    Estimate,
    MeanSquares,
    Split,
    Spread,
    mean_squares,
    split_of,
    spread_of,
)

Rows = Mapping[str, Mapping[int, Sequence[float]]]  # label -> seed -> value per prompt
Word = Literal["better", "equivalent", "undecided", "not compared"]
Goods = Literal["replicates", "prompts", "samples"]
POOLED_UP_TO = 4  # replicates; with more, a pair's own variance will do
POOLED_ABOVE = 0.5  # p of the test that forbids pooling
POWER = 0.8
MOST = 100  # times as much as there is: more is not worth naming


class Purchase(NamedTuple):
    """What would bring the detectable difference down to delta.

    `number`: of replicates or of prompts in all, or how many times as many samples per prompt. None: not even MOST
    times as much of it would do alone.
    """

    what: Goods
    number: int | None


@dataclass(frozen=True)
class Verdict:
    """On the difference a - b. All that is a number is None where the pair is not compared; then `reason` says why."""

    a: str
    b: str
    verdict: Word
    replicates: int  # in common
    difference: Estimate | None = None  # the pair's own interval, not widened for the number of pairs
    is_pooled: bool = False  # the interval, and the split, take the variance between replicates from other rows too
    p: float | None = None  # that the difference is 0, two-sided
    p_holm: float | None = None  # the same, held over all pairs
    p_equivalent: float | None = None  # that it is delta or more either way, held over all pairs
    winner: str | None = None  # the row that is surely ahead, also where they are equivalent
    detectable: float | None = None  # the true difference found with 80 % power at Holm's first, strictest step
    next: Purchase | None = None  # of an undecided pair
    reason: str = ""


class _Pair(NamedTuple):
    """A difference that can be judged."""

    mean: float
    squares: MeanSquares  # MS_replicate pooled, if it is
    spread: Spread
    split: Split
    is_pooled: bool


def compare(
    rows: Rows,
    delta: float,
    confidence: float = 0.95,
    sampling: Mapping[str, float] | None = None,  # of a row: mean variance of a cell's mean over draws of completions
) -> list[Verdict]:
    """Every pair of rows once, in the order in which rows come. `delta` is in the values' unit.

    ValueError if delta is not above 0, rows differ in their number of prompts, or a value is not finite.
    """
    if not delta > 0:
        raise ValueError(f"delta must be above 0, got {delta}")
    _check(rows)
    common = {(a, b): [seed for seed in rows[a] if seed in rows[b]] for a, b in combinations(rows, 2)}
    pairs = {
        (a, b): _difference(rows, a, b, seeds, sampling or {})
        for (a, b), seeds in common.items()
        if len(seeds) >= FEWEST_REPLICATES
    }
    p = {pair: found.spread.p(abs(found.mean)) for pair, found in pairs.items()}
    p_same = {pair: _p_beyond(found, delta) for pair, found in pairs.items()}
    p_holm = dict(zip(pairs, holm(list(p.values())), strict=True))
    p_equivalent = dict(zip(pairs, holm(list(p_same.values())), strict=True))
    alpha = 1 - confidence

    def judged(a: str, b: str) -> Verdict:
        found = pairs[a, b]
        is_sure, is_same = p_holm[a, b] <= alpha, p_equivalent[a, b] <= alpha
        detectable = found.spread.detectable(alpha / len(pairs), POWER)
        half = found.spread.half_width(alpha)
        return Verdict(
            a,
            b,
            "equivalent" if is_same else "better" if is_sure else "undecided",
            found.squares.replicates,
            Estimate(found.mean, found.mean - half, found.mean + half, found.spread.se, found.split),
            found.is_pooled,
            p[a, b],
            p_holm[a, b],
            p_equivalent[a, b],
            None if not is_sure else a if found.mean > 0 else b,
            detectable,
            None if is_sure or is_same else _purchase(found, delta, alpha / len(pairs)),
        )

    return [judged(*pair) if pair in pairs else _not_compared(*pair, seeds) for pair, seeds in common.items()]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the k-th smallest of m times m - k + 1, never below a smaller
    one's."""
    adjusted, least = [0.0] * len(p), 0.0
    for k, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - k) * p[i]))
        adjusted[i] = least
    return adjusted


def _check(rows: Rows) -> None:
    prompts = {label: sorted({len(values) for values in cells.values()}) for label, cells in rows.items()}
    if len({length for lengths in prompts.values() for length in lengths}) > 1:
        raise ValueError(f"rows differ in their number of prompts: {prompts}")
    for label, cells in rows.items():
        for seed, values in cells.items():
            if not np.isfinite(values).all():
                raise ValueError(f"a value of row '{label}', replicate {seed}, is not finite")


def _not_compared(a: str, b: str, seeds: Sequence[int]) -> Verdict:
    reason = f"{len(seeds)} replicates in common, a comparison needs {FEWEST_REPLICATES}"
    return Verdict(a, b, "not compared", len(seeds), reason=reason)


def _difference(rows: Rows, a: str, b: str, seeds: Sequence[int], sampling: Mapping[str, float]) -> _Pair:
    values = _cells(rows[a], seeds) - _cells(rows[b], seeds)  # (S, P)
    own = mean_squares(values)
    drawn = sampling[a] + sampling[b] if a in sampling and b in sampling else None
    pooled = _pooled(rows, seeds, own) if len(seeds) <= POOLED_UP_TO else None
    squares = own if pooled is None else own._replace(replicate=pooled[0])
    spread = spread_of(squares, None if pooled is None else pooled[1])
    return _Pair(float(values.mean()), squares, spread, split_of(squares, drawn), pooled is not None)


def _cells(row: Mapping[int, Sequence[float]], seeds: Sequence[int]) -> np.ndarray:
    return np.asarray([row[seed] for seed in seeds], dtype=float)  # (S, P)


def _pooled(rows: Rows, seeds: Sequence[int], own: MeanSquares) -> tuple[float, int] | None:
    """MS_replicate of a difference from all rows that have these replicates, and its degrees of freedom; None where the
    test forbids it or there is no third row. See the module."""
    if own.replicate == own.prompt == own.rest == 0:
        return None  # one row under two names: nothing varies, whatever other rows do
    every = [_cells(row, seeds).mean(axis=1) for row in rows.values() if all(seed in row for seed in seeds)]
    means = np.unique(every, axis=0)  # (R, S); a row under two names would count its variance as 0 beside its own
    df = (len(means) - 1) * (len(seeds) - 1)
    other_df = df - (len(seeds) - 1)
    if other_df < 1:
        return None
    rest = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    total = 2 * own.prompts * float((rest**2).sum())
    others = (total - (len(seeds) - 1) * own.replicate) / other_df
    if others <= 0 or special.fdtrc(len(seeds) - 1, other_df, own.replicate / others) <= POOLED_ABOVE:
        return None
    return total / df, df


def _p_beyond(found: _Pair, delta: float) -> float:
    """That the true difference is delta or more either way: the larger p of two one-sided tests."""
    inside = delta - abs(found.mean)
    one_sided = found.spread.p(abs(inside)) / 2
    return one_sided if inside > 0 else 1 - one_sided


def _purchase(found: _Pair, delta: float, alpha: float) -> Purchase:
    """The largest part of the variance says what to buy. If that alone would not do, the next that would.

    Replicates lower all parts but the prompts'; so the interaction counts with them, and so does the drawing of
    completions where its share is not known.
    """
    split, now, prompts = found.split, found.squares.replicates, found.squares.prompts
    drawn = min(split.sampling or 0.0, split.rest)

    def is_enough(replicates: int = now, prompts: int = prompts, times: int = 1) -> bool:
        rest = split.interaction + drawn / times
        squares = MeanSquares(
            rest + prompts * split.replicate, rest + replicates * split.prompt, rest, replicates, prompts
        )
        df = found.spread.replicate_df if replicates == now else None
        return spread_of(squares, df).detectable(alpha, POWER) <= delta

    parts: dict[Goods, float] = {
        "replicates": split.replicate / now + split.interaction / (now * prompts),
        "prompts": split.prompt / prompts,
        "samples": drawn / (now * prompts),
    }
    numbers: dict[Goods, Callable[[], int | None]] = {
        "replicates": lambda: _fewest(lambda n: is_enough(replicates=n), now + 1, now * MOST),
        "prompts": lambda: _fewest(lambda n: is_enough(prompts=n), prompts + 1, prompts * MOST),
        "samples": lambda: _fewest(lambda n: is_enough(times=n), 2, MOST),
    }
    dear = sorted((what for what in parts if parts[what] > 0), key=lambda what: -parts[what])
    offers = (Purchase(what, numbers[what]()) for what in dear)
    return next((offer for offer in offers if offer.number is not None), Purchase(dear[0], None))


def _fewest(is_enough: Callable[[int], bool], low: int, high: int) -> int | None:
    found = low + bisect_left(range(low, high + 1), True, key=is_enough)
    return found if found <= high else None
