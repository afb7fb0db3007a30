"""What the spy saw of a run that was killed and went on: how many optimiser steps were taken twice, and for how long.

A step is known by its stage and its number. Of a killed attempt those are lost that the next attempt takes again; they
are worth the time from the last checkpoint kept (or the first sign of the fit) to the attempt's last step. A checkpoint
can only be kept between two batches, so one checkpoint's worth is `checkpoint_seconds` and the longest time between two
such places in that attempt. What lies before the first step, and stages that fit nothing, are outside this measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Lost(NamedTuple):
    """What one kill cost."""

    steps: int
    seconds: float
    allowed_seconds: float
    is_in_place: bool  # the next attempt began where the last checkpoint was kept, or later

    @property
    def is_within(self) -> bool:
        return self.is_in_place and self.seconds <= self.allowed_seconds


@dataclass
class Attempt:
    """One process at one stage: its events with their times."""

    events: list[tuple[float, str, int]] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [number for _, what, number in self.events if what == "step"]

    def lost(self, resumed: Attempt, every: float) -> Lost:
        began, last = self.events[0][0], self.steps[0] - 1
        stepped, end = last, began
        for time, what, number in self.events:
            if what == "step":
                stepped, end = number, time
            elif what == "kept":
                began, last = time, stepped
        places = [self.events[0][0], *(t for t, what, _ in self.events if what == "may"), self.events[-1][0]]
        longest = max(after - before for before, after in pairwise(places))
        again = sum(number >= resumed.steps[0] for number in self.steps)
        return Lost(again, max(0.0, end - began) if again else 0.0, every + longest, resumed.steps[0] > last)


def losses(spy: Path, every: float) -> list[Lost]:
    """One for each attempt at a fit that another went on from. `every`: the suite's checkpoint_seconds."""
    at: dict[str, Attempt] = {}  # by process
    of_stage: dict[str, list[Attempt]] = {}
    for line in spy.read_text().splitlines():
        time, process, what, value = line.split()
        if what == "begin":
            at[process] = Attempt()
            of_stage.setdefault(value, []).append(at[process])
        elif what != "end":
            at[process].events.append((float(time), what, int(value)))
    fits = [[one for one in attempts if one.steps] for attempts in of_stage.values()]
    return [one.lost(after, every) for attempts in fits for one, after in pairwise(attempts)]
