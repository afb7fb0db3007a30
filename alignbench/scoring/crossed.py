"""A mean over replicates crossed with prompts: how far it may be off, and where its variance comes from.

S replicates answer the same P prompts, so a value has three parts that vary: its replicate, its prompt, and the rest
(their interaction and the drawing of completions). Over other replicates and other prompts the variance of the mean is

    (MS_replicate + MS_prompt - MS_rest) / (S P)

with the mean squares of the two-way crossed layout (Searle, Casella & McCulloch, Variance Components, 1992, chapter
4), and it is taken never below MS_replicate / (S P) or MS_prompt / (S P), the variances of either one-way layout.

**Why not Satterthwaite's degrees of freedom.** They are a weighted mean of the parts' degrees of freedom, at weights
that are themselves estimated. When three replicates happen to agree, the replicate's share looks small, the degrees of
freedom jump from 2 to about 127 and the critical value falls from 4.3 to 2.0 (at Holm's first step of 15 pairs from 17
to 3): exactly the tables whose variance is underestimated are judged by the lenient value. One interval covers 92 %,
which passes, but the family of 15 pairs claims a false difference in up to 30 % of tables (benchmarks/STATISTICS.md).
So each part keeps its own quantile (Banerjee, 1960, "Approximate confidence interval for linear functions of means of
k populations when the population variances are not equal", Sankhya 22):

    half width^2 = (t_{S-1}^2 MS_replicate + t_{P-1}^2 max(0, MS_prompt - MS_rest)) / (S P)

which for a sum of independent mean squares covers at least its level at every level, whatever the true parts. Here the
second part is a difference, cut at 0; that it holds was simulated. With no variance between prompts it is the t
interval over replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

FEWEST_REPLICATES = 3  # below it a variance between replicates has one degree of freedom or none
LEAST_P = 1e-12  # smaller p-values are told as this one


class MeanSquares(NamedTuple):
    """Of a two-way crossed layout with one value per cell. With one prompt, `prompt` and `rest` are 0."""

    replicate: float
    prompt: float
    rest: float
    replicates: int
    prompts: int


@dataclass(frozen=True)
class Split:
    """Variance components in squared units of the value, estimated without bias but never below 0.

    `rest` is one cell's: interaction of replicate and prompt together with the drawing of completions. `sampling` is
    the share of `rest` that is due to drawing completions, where that is known: the mean variance of a cell's mean.
    With one prompt (a metric that has one value per replicate) all variance counts as the replicate's.
    """

    replicate: float
    prompt: float
    rest: float
    sampling: float | None = None

    @property
    def interaction(self) -> float:
        """What drawing completions leaves of `rest`; all of it where their share is not known."""
        return max(0.0, self.rest - (self.sampling or 0.0))


@dataclass(frozen=True)
class Spread:
    """The variance of a mean by its parts, each with its degrees of freedom."""

    replicate: float  # MS_replicate / (S P)
    replicate_df: float
    prompt: float  # max(0, MS_prompt - MS_rest) / (S P)
    prompt_alone: float  # MS_prompt / (S P): the floor
    prompt_df: int  # 0: one prompt, whose parts are 0

    def combined(self, multiple: Callable[[float], float]) -> float:
        """Banerjee's root of squares, each part at the multiple that fits its degrees of freedom."""
        over_replicates = multiple(self.replicate_df) ** 2 * self.replicate
        if self.prompt_df == 0:
            return math.sqrt(over_replicates)
        square = multiple(self.prompt_df) ** 2
        return math.sqrt(max(over_replicates + square * self.prompt, square * self.prompt_alone))

    @property
    def se(self) -> float:
        return self.combined(lambda df: 1.0)

    def half_width(self, alpha: float) -> float:
        """Of the two-sided interval of level 1 - alpha."""
        return self.combined(lambda df: -float(special.stdtrit(df, alpha / 2)))

    def p(self, distance: float) -> float:
        """Two-sided: the alpha whose interval just reaches a mean this far away. At least LEAST_P, but 0 if nothing
        varies and the distance is not 0."""
        if distance == 0:
            return 1.0
        if self.se == 0:
            return 0.0
        if self.half_width(LEAST_P) <= distance:
            return LEAST_P
        found = optimize.brentq(
            lambda log_alpha: self.half_width(math.exp(log_alpha)) - distance, math.log(LEAST_P), 0.0, xtol=1e-9
        )
        return math.exp(found)

    def detectable(self, alpha: float, power: float) -> float:
        """The true distance that a two-sided test of size alpha finds with this power: the noncentral t's noncentrality
        for each part's degrees of freedom, joined as the interval is. Exact where one part alone varies."""
        return self.combined(lambda df: float(special.nctdtrinc(df, 1 - power, -float(special.stdtrit(df, alpha / 2)))))


class Estimate(NamedTuple):
    """A mean and its interval. `se` is the root of the module's variance; the interval is wider than t times it."""

    mean: float
    low: float
    high: float
    se: float
    split: Split


def mean_squares(values: Sequence[Sequence[float]] | np.ndarray) -> MeanSquares:
    """Of values (S, P). ValueError if there are under three replicates, no prompt, ragged rows, or a value that is not
    finite."""
    if len({len(row) for row in values}) > 1:
        raise ValueError(f"replicates differ in their number of prompts: {sorted({len(row) for row in values})}")
    cells = np.asarray(values, dtype=float)
    if cells.ndim != 2 or cells.shape[0] < FEWEST_REPLICATES or cells.shape[1] < 1:
        raise ValueError(f"needs at least {FEWEST_REPLICATES} replicates and one prompt, got shape {cells.shape}")
    if not np.isfinite(cells).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(cells))} of {cells.size} values are not finite")
    replicates, prompts = cells.shape
    if (cells == cells[0, 0]).all():  # else the last bit of the mean would pass for variance
        return MeanSquares(0.0, 0.0, 0.0, replicates, prompts)
    centred = cells - cells.mean()
    by_replicate, by_prompt = centred.mean(axis=1), centred.mean(axis=0)
    replicate = prompts * float(by_replicate @ by_replicate) / (replicates - 1)
    if prompts == 1:
        return MeanSquares(replicate, 0.0, 0.0, replicates, prompts)
    rest = centred - by_replicate[:, None] - by_prompt
    return MeanSquares(
        replicate,
        replicates * float(by_prompt @ by_prompt) / (prompts - 1),
        float((rest**2).sum()) / ((replicates - 1) * (prompts - 1)),
        replicates,
        prompts,
    )


def split_of(squares: MeanSquares, sampling: float | None = None) -> Split:
    """Components from mean squares by their expectations: rest, rest + P replicate, rest + S prompt."""
    return Split(
        max(0.0, squares.replicate - squares.rest) / squares.prompts,
        max(0.0, squares.prompt - squares.rest) / squares.replicates,
        squares.rest,
        sampling,
    )


def spread_of(squares: MeanSquares, replicate_df: float | None = None) -> Spread:
    """`replicate_df`: where MS_replicate was pooled, its degrees of freedom; else S - 1."""
    cells = squares.replicates * squares.prompts
    return Spread(
        squares.replicate / cells,
        squares.replicates - 1 if replicate_df is None else replicate_df,
        max(0.0, squares.prompt - squares.rest) / cells,
        squares.prompt / cells,
        squares.prompts - 1,
    )


def estimate(
    values: Sequence[Sequence[float]] | np.ndarray,  # (S, P)
    confidence: float = 0.95,
    sampling: float | None = None,  # mean variance of a cell's mean over draws of completions
) -> Estimate:
    """The mean of one row's own values, over other replicates and other prompts. ValueError as `mean_squares`.

    Values that are all equal give an interval of no width: nothing was seen to vary.
    """
    squares = mean_squares(values)
    spread = spread_of(squares)
    mean, half = float(np.mean(values)), spread.half_width(1 - confidence)
    return Estimate(mean, mean - half, mean + half, spread.se, split_of(squares, sampling))
