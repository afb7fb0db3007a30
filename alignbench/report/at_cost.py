"""What a table tells of equal costs: each row's best gain for so many operations, or so many human labels.

    section(ends_and_snapshots)         # []: no two rows were measured at a common cost

A sweep's settings cost nearly the same, so operations are read between snapshots for the most part. Numbers are
`scoring.frontier.matched_values`'; the best setting is chosen on the prompts it is told on, so nothing is claimed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10
from typing import NamedTuple

import numpy as np

from alignbench.report.columns import NONE
from alignbench.report.escape import for_markdown
from alignbench.report.frontiers import cell, is_traced
from alignbench.scoring.frontier import Read, matched_values
from alignbench.scoring.record import Record
from alignbench.scoring.stats import CONFIDENCE
from alignbench.scoring.traces import Trace, traces

HEADING = "Gold at matched cost"
MOST_PLACES = 3  # of one axis
RULE = (
    "The best gain for no more of it, read linearly between two measured costs, beyond them not at all. Costs are of a "
    "row with every stage it rests on. The best is chosen on the prompts it is told on, which flatters rows of many "
    "points: nothing is claimed here."
)


class Column(NamedTuple):
    """One cost at which two rows or more were measured in every replicate."""

    title: str
    reads: dict[str, Read]  # by row


def section(records: Sequence[Record], confidence: float = CONFIDENCE) -> list[str]:
    """Lines of Markdown: a heading, a table of the rows that left the start, and the rule. `records`: a suite's ends
    and snapshots. UserError as `scoring.traces`."""
    columns = [*_columns(records, "flops"), *_columns(records, "labels_human")] if is_traced(records) else []
    if not columns:
        return []
    heads = ["Method", *(column.title for column in columns)]
    table = [heads, ["---", *("---:" for _ in heads[1:])]]
    for row in dict.fromkeys(row for column in columns for row in column.reads):
        read = (column.reads.get(row) for column in columns)
        table.append([for_markdown(row), *(NONE if each is None else cell(each, confidence) for each in read)])
    return [f"{HEADING}:", "", *(f"| {' | '.join(cells)} |" for cells in table), "", f"- {RULE}", ""]


def _columns(records: Sequence[Record], axis: str) -> Iterator[Column]:
    moved = {
        row: by_seed
        for row, by_seed in traces(records, axis).items()
        if any(any(point.values) for trace in by_seed.values() for point in trace.points)
    }
    if axis == "flops":
        places, title = _round_places(moved), lambda place: f"Gain for {place / 1e12:g} TFLOPs"
    else:
        places, title = _counts(moved), lambda place: f"Gain for {place:,.0f} human labels"
    read = {place: matched_values(records, axis, place) for place in places}
    kept = [place for place in places if sum(read[place][row].is_whole for row in moved) > 1]
    picked = np.linspace(0, len(kept) - 1, min(MOST_PLACES, len(kept))).round().astype(int)
    for place in (kept[i] for i in picked):
        yield Column(title(place), {row: read[place][row] for row in moved})


def _round_places(rows: dict[str, dict[int, Trace]]) -> list[float]:
    """1, 1.5, 2, 3, 5 and 7 times powers of ten, from the least cost to the greatest."""
    costs = [
        point.x for by_seed in rows.values() for trace in by_seed.values() for point in trace.points if point.x > 0
    ]
    if not costs:
        return []
    powers = range(floor(log10(min(costs))), floor(log10(max(costs))) + 1)
    found = (digit * 10.0**power for power in powers for digit in (1, 1.5, 2, 3, 5, 7))
    return [place for place in found if min(costs) <= place <= max(costs)]


def _counts(rows: dict[str, dict[int, Trace]]) -> list[float]:
    return sorted({point.x for by_seed in rows.values() for trace in by_seed.values() for point in trace.points})
