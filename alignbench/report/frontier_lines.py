"""What a picture of the frontiers draws: a line per row, a dot per setting or snapshot, and where both lie in px."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from alignbench.report.escape import one_line
from alignbench.report.frontiers import ROUND
from alignbench.report.label_places import Point
from alignbench.scoring.record import Record
from alignbench.scoring.traces import KL, Trace, row_of, traces

WIDTH, HEIGHT = 560, 360  # px, of the plot
LONGEST = 30  # characters of a name
TICKS_APART = 0.07  # of the width


class Dot(NamedTuple):
    """A setting or snapshot: the mean over the replicates that have it."""

    kl: float
    gain: float
    is_whole: bool  # every replicate has it


class Line(NamedTuple):
    name: str
    dots: tuple[Dot, ...]  # the start first, then by KL
    replicates: tuple[Trace, ...]
    is_bound: bool  # its KL is an upper bound


class Frame(NamedTuple):
    """What the plot spans, and the way to px and back."""

    most_kl: float
    low: float
    high: float

    def px(self, kl: float, gain: float) -> Point:
        return Point(WIDTH * sqrt(kl / self.most_kl), HEIGHT * (self.high - gain) / (self.high - self.low))

    def data(self, point: Point) -> tuple[float, float]:
        return self.most_kl * (point.x / WIDTH) ** 2, self.high - (self.high - self.low) * point.y / HEIGHT


def lines_of(records: Sequence[Record]) -> list[Line]:
    """Rows that left the start, in first-seen order."""
    bounded = {row_of(record) for record in records if record.metrics.get("kl_nats_bound") is not None}
    found = []
    for row, by_seed in traces(records, KL).items():
        drawn = tuple(trace for trace in by_seed.values() if trace.is_more_than_the_start)
        if drawn:
            found.append(Line(_name(row), _dots(drawn, len(by_seed)), drawn, row in bounded))
    return found


def _name(row: str) -> str:
    name = one_line(row) or "?"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _dots(drawn: Sequence[Trace], replicates: int) -> tuple[Dot, ...]:
    settings: dict[str, list[tuple[float, float]]] = {}
    for trace in drawn:
        for point in trace.points[1:]:  # after the start
            settings.setdefault(point.where, []).append((point.x, point.gain))
    dots = [
        Dot(fmean(x for x, _ in at), fmean(gain for _, gain in at), len(at) == replicates) for at in settings.values()
    ]
    return (Dot(0.0, 0.0, True), *sorted(dots))


def frame_of(lines: Sequence[Line]) -> Frame:
    points = [(point.x, point.gain) for line in lines for trace in line.replicates for point in trace.points]
    kls, gains = zip(*points, strict=True)
    low, high = min(gains), max(gains)
    margin = 0.06 * ((high - low) or 1.0)
    return Frame(max(kls) * 1.03, low - margin, high + margin)


def ticks_of(most_kl: float) -> list[float]:
    """Round numbers that do not crowd, from the largest down, and 0."""
    found: list[float] = []
    for tick in sorted((tick for tick in ROUND if tick <= most_kl), reverse=True):
        at = sqrt(tick / most_kl)
        if at >= TICKS_APART and (not found or sqrt(found[-1] / most_kl) - at >= TICKS_APART):
            found.append(tick)
    return [0.0, *reversed(found)]
