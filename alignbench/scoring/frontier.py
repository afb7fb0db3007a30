"""Methods compared as what they trace: gold gain at matched KL or cost, area, hypervolume, cost to a target.

    read = matched_values(records, KL, 4.0)     # the gain at 4 nats, prompt by prompt, in each replicate that got there
    read["dpo"].values, read["dpo"].missed
    areas(records, KL)["dpo"].mean, to_target(records, 0.5, "seconds")["dpo"][0]

`records` are a suite's ends, and its snapshots too where they shall count. Which view of `traces` is read:

- at matched KL the trace itself, over-optimisation and all, with nothing chosen by the numbers that are told;
- at a matched cost the frontier, the best gain for no more of it: settings that cost the same stand at one x, and a
  trace through them would go straight up. It is chosen on the prompts it is told on, so it flatters (`tuned` does not);
- area and hypervolume are of the frontier, by definition; `view="trace"` gives the area of the other.

A replicate that has no such value is named with the reason, and no mean is taken over the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from alignbench.errors import UserError
from alignbench.scoring.crossed import FEWEST_REPLICATES, Estimate, estimate
from alignbench.scoring.record import Record
from alignbench.scoring.traces import KL, Point, Reading, Trace, at, frontier, scaled, traces

View = Literal["trace", "frontier"]


class Read(NamedTuple):
    """One row's values over its replicates."""

    values: dict[int, tuple[float, ...]]  # seed -> (P,), of the replicates that have them
    missed: dict[int, str]  # seed -> why there is none
    gaps: tuple[str, ...]  # cells that its traces lack, each with the reason

    @property
    def is_whole(self) -> bool:
        return bool(self.values) and not self.missed

    @property
    def matrix(self) -> np.ndarray | None:
        """(S, P) for intervals and verdicts, by rising seed; None unless every replicate has its row."""
        return np.array([self.values[seed] for seed in sorted(self.values)]) if self.is_whole else None

    @property
    def mean(self) -> float | None:
        return None if self.matrix is None else float(self.matrix.mean())

    def estimate(self, confidence: float = 0.95) -> Estimate | None:
        """The mean with its interval over replicates and prompts; None too under `FEWEST_REPLICATES`. The gain is
        paired with the start; `paired.compare` takes whole rows' `values` and pairs them with each other."""
        matrix = self.matrix
        return None if matrix is None or len(matrix) < FEWEST_REPLICATES else estimate(matrix, confidence)

    @property
    def reached(self) -> str:
        return f"reached in {len(self.values)} of {len(self.values) + len(self.missed)}"


class Range(NamedTuple):
    """The part of an axis that every compared trace covers."""

    low: float
    high: float
    limited_by: str  # the trace that ends at `high`


class Target(NamedTuple):
    """The first point at or above a target. `x` and `where` are None where there is none, and `why` says so."""

    x: float | None
    where: str | None
    why: str = ""


# ------------------------------------------------------------------------------------------------------ matched places


def matched_values(records: Iterable[Record], axis: str, place: float, view: View | None = None) -> dict[str, Read]:
    """By row, the gold gain at `place` of the axis in every replicate, interpolated inside the data only."""
    return _read(records, axis, view, lambda trace: at(trace, place))


def matched(
    records: Iterable[Record], axis: str, places: Sequence[float], view: View | None = None
) -> list[tuple[str, float, Read]]:
    """(row, place, values) for every row at every place: the table of `matched_values`."""
    everything = list(records)
    read = {place: matched_values(everything, axis, place, view) for place in places}
    rows = dict.fromkeys(row for at_place in read.values() for row in at_place)
    return [(row, place, read[place][row]) for row in rows for place in places]


def _read(
    records: Iterable[Record], axis: str, view: View | None, reading: Callable[[Trace], Reading]
) -> dict[str, Read]:
    found: dict[str, Read] = {}
    for row, by_seed in traces(records, axis).items():
        read = found.setdefault(row, Read({}, {}, tuple(gap for trace in by_seed.values() for gap in trace.gaps)))
        for seed, trace in by_seed.items():
            got = reading(_viewed(trace, view))
            if got.values is None:
                read.missed[seed] = got.why
            else:
                read.values[seed] = got.values
    return found


def _viewed(trace: Trace, view: View | None) -> Trace:
    return frontier(trace) if (view or ("trace" if trace.axis == KL else "frontier")) == "frontier" else trace


# ------------------------------------------------------------------------------------------------- area and hypervolume


def common_range(records: Iterable[Record], axis: str) -> Range:
    """From the largest of the traces' smallest x (over KL 0, the start's) to the smallest of their largest x, over all
    replicates of all rows. A trace that holds the start alone limits nobody. UserError where no such part is left."""
    lines = [trace for by_seed in traces(records, axis).values() for trace in by_seed.values() if _is_line(trace)]
    if not lines:
        raise UserError(f"no row was measured along {axis}, so there is no area; give the records of trained rows")
    low = max(trace.points[0].x for trace in lines)
    last = min(lines, key=lambda trace: trace.points[-1].x)
    high = last.points[-1].x
    if low >= high:
        raise UserError(
            f"no part of {axis} is covered by every row: '{last.row}' seed {last.seed} ends at {high:g}, another "
            f"begins at {low:g}; leave a row out"
        )
    return Range(low, high, f"{last.row}, seed {last.seed}")


def areas(
    records: Iterable[Record], axis: str, within: Range | None = None, view: View = "frontier"
) -> dict[str, Read]:
    """By row, the area under its gain over `within` (default: `common_range`), in gold points times the axis' unit. It
    is linear in the prompts' gains, so each prompt has an area of its own, (P,), and their mean is the row's.

    Divide by `high - low` for the mean gain over the range.
    """
    everything = list(records)
    low, high, _ = within or common_range(everything, axis)
    return _read(everything, axis, view, lambda trace: _area(trace, low, high))


def _area(trace: Trace, low: float, high: float) -> Reading:
    ends = at(trace, low), at(trace, high)
    for end in ends:
        if end.values is None:
            return end
    places = [low, *sorted({point.x for point in trace.points if low < point.x < high}), high]
    gains = np.array([at(trace, place).values for place in places])  # (N, P)
    left, right = _weights(trace, np.array(places))
    values = left @ gains[:-1] + right @ gains[1:]
    return Reading(tuple(values.tolist()), float(values.mean()))


def _weights(trace: Trace, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N - 1,) each: what the gains on the left and on the right of a piece weigh in its area. With g linear in
    d = sqrt(x) from (d0, g0) to (d1, g1), the integral of g dx = g 2d dd is
    (d1 - d0) [g0 (2 d0 + d1) + g1 (d0 + 2 d1)] / 3; with g linear in x it is the trapezoid's."""
    d = np.array([scaled(trace, place) for place in places])
    if trace.axis != KL:
        return np.diff(d) / 2, np.diff(d) / 2
    return np.diff(d) * (2 * d[:-1] + d[1:]) / 3, np.diff(d) * (d[:-1] + 2 * d[1:]) / 3


def hypervolumes(
    records: Iterable[Record], axis: str, within: Range | None = None
) -> tuple[dict[str, dict[int, float | None]], tuple[float, float]]:
    """By row and seed, and the reference point they are counted from: x at the end of `within` (default:
    `common_range`), gain 0, the start's. What lies beyond it counts for nothing; None: nothing measured.

    The measure of what at least one point beats in both (Zitzler & Thiele 1999; moocore computes it): unlike the area,
    it draws no line between points, and counts only gains that were measured.
    """
    import moocore  # a table without a frontier does without

    everything = list(records)
    reference = ((within or common_range(everything, axis)).high, 0.0)

    def volume(trace: Trace) -> float | None:
        if not _is_line(trace):
            return None
        places = np.array([(point.x, point.gain) for point in trace.points])
        return float(moocore.hypervolume(places, ref=reference, maximise=[False, True]))

    found = traces(everything, axis)
    return {row: {seed: volume(trace) for seed, trace in found[row].items()} for row in found}, reference


def _is_line(trace: Trace) -> bool:
    return bool(trace.points) and trace.is_more_than_the_start


# ----------------------------------------------------------------------------------------------------- cost to a target


def to_target(records: Iterable[Record], target: float, axis: str) -> dict[str, dict[int, Target]]:
    """By row and seed, the least x at which the gain was measured at `target` or above, over all settings of the sweep
    and all snapshots; the x of that very point, never one between two. The more often a row was measured, the better
    its chance of a lucky point, so compare rows of equal settings and snapshots."""
    found = traces(records, axis)
    return {row: {seed: _first(trace, target) for seed, trace in found[row].items()} for row in found}


def _first(trace: Trace, target: float) -> Target:
    if not trace.points:
        return Target(None, None, at(trace, 0).why)
    hits = [point for point in trace.points if point.gain >= target]
    if hits:
        return Target(hits[0].x, hits[0].where)
    best: Point = max(trace.points, key=lambda point: point.gain)
    return Target(None, None, f"not reached: the most is {best.gain:.2f}, {best.where}")
