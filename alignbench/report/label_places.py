"""Where the name of a line goes in a picture: at the line's end, on no other name, and on dots and lines where it must.

Text is measured by a fixed width per character, so a picture does not depend on the fonts of the machine that drew it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from math import dist
from typing import NamedTuple

FONT = 12  # px
LINE = FONT + 3  # px from one name to the next below it
GAP = 9  # px from a line's end to its name
STEPS = sorted(range(-12, 13), key=lambda step: (abs(step), step))  # half a line each
SAMPLE = 4  # px between the places at which a line is felt


class Point(NamedTuple):
    """In px, from the top left of the plot."""

    x: float
    y: float


class Box(NamedTuple):
    """A name, from its left end; `y` is its middle."""

    x: float
    y: float
    width: float

    def meets(self, other: Box) -> bool:
        apart = self.x >= other.x + other.width or other.x >= self.x + self.width
        return not apart and abs(self.y - other.y) < LINE

    def holds(self, point: Point) -> bool:
        return self.x - 2 <= point.x <= self.x + self.width + 2 and abs(self.y - point.y) < LINE / 2


def width_of(text: str) -> float:
    """px, rather too wide than too narrow."""
    return sum(FONT if unicodedata.east_asian_width(char) in "WF" else 0.6 * FONT for char in text)


def place(names: Sequence[str], lines: Sequence[Sequence[Point]], height: float) -> list[Box]:
    """One box per line, whose points are given from its start to its end. The far ends choose first; two names share a
    place only where there is no other."""
    felt = [point for line in lines for point in _along(line)]
    placed: dict[int, Box] = {}
    for i in sorted(range(len(lines)), key=lambda i: (-lines[i][-1].x, lines[i][-1].y, i)):
        end, width = lines[i][-1], width_of(names[i])
        boxes = [
            Box(x, end.y + step * LINE / 2, width)
            for step in STEPS
            for x in (end.x + GAP, end.x - width / 2, end.x - GAP - width)
            if x >= 0 and 0 <= end.y + step * LINE / 2 <= height and (abs(step) > 1 or x != end.x - width / 2)
        ]
        costs = [_cost(box, end, list(placed.values()), felt) for box in boxes]
        placed[i] = boxes[costs.index(min(costs))]
    return [placed[i] for i in range(len(lines))]


def _cost(box: Box, end: Point, placed: Sequence[Box], felt: Sequence[Point]) -> float:
    """Another name is worst, then what is hidden, then the way from the line's end."""
    return (
        1e6 * sum(box.meets(other) for other in placed)
        + 20 * sum(box.holds(point) for point in felt)
        + dist(end, nearest(box, end))
    )


def nearest(box: Box, end: Point) -> Point:
    """The point of a name that is next to its line's end."""
    return Point(min(max(end.x, box.x), box.x + box.width), box.y)


def _along(line: Sequence[Point]) -> list[Point]:
    found = list(line)
    for a, b in pairwise(line):
        count = int(dist(a, b) // SAMPLE)
        found += [Point(a.x + (b.x - a.x) * k / count, a.y + (b.y - a.y) * k / count) for k in range(1, count)]
    return found
