"""What a table tells of the frontiers: gold gain at matched KL, the verdicts there, and every number as CSV.

    found = frontiers(ends_and_snapshots)       # None: no row has two settings or snapshots, so nothing is traced
    section(found), to_csv(found)

At a place the trace itself is read, over-optimisation and all; area and hypervolume are of the frontier. Where a
replicate did not reach a place there is no mean over the others. Numbers are `scoring.frontier`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alignbench.report import verdicts
from alignbench.report.columns import NONE
from alignbench.report.escape import for_csv, for_markdown
from alignbench.scoring.frontier import Range, Read, areas, common_range, hypervolumes, matched_values
from alignbench.scoring.record import Record
from alignbench.scoring.stats import CONFIDENCE
from alignbench.scoring.traces import KL, Trace, fault_of, row_of, traces, where_of

HEADING = "Gold at matched KL"
LEAST, MOST = 0.01, 10_000  # nats: a smaller place is too near the start to tell methods apart
FEWEST_PLACES, MOST_PLACES = 3, 4
MOST_GAPS = 8  # more are in frontier.csv alone
ROUND = [float(f"{digit}e{power}") for power in range(-2, 4) for digit in (1, 2, 5)] + [float(MOST)]
RULE = (
    "Places are round numbers (1, 2, 5 times a power of ten): from the largest that every row reached to the largest "
    f"that any reached, {MOST_PLACES} at most, and smaller ones to make {FEWEST_PLACES}"
)


class Frontiers(NamedTuple):
    """All that is told of the rows that have a trace, or should have one."""

    traces: dict[str, dict[int, Trace]]  # by row and seed
    points: tuple[str, ...]  # rows of one setting beside swept ones: they limit no range, and are not compared
    places: tuple[float, ...]  # nats, rising
    at: dict[float, dict[str, Read]]  # by place and row
    within: Range  # of area and hypervolume
    areas: dict[str, Read]  # gold points times nats
    volumes: dict[str, Read]  # the same unit, one value per replicate
    shared: float | None  # the largest place that every row reached
    said: verdicts.Claims  # there


def is_traced(records: Sequence[Record]) -> bool:
    """Whether any row was scored at two or more settings or snapshots."""
    return bool(swept(records))


def swept(records: Sequence[Record]) -> set[str]:
    """The rows that were scored at two or more settings or snapshots."""
    scored: dict[str, set[str]] = {}
    for record in records:
        if fault_of(record) is None:
            scored.setdefault(row_of(record), set()).add(where_of(record))
    return {row for row, places in scored.items() if len(places) > 1}


def frontiers(records: Sequence[Record], confidence: float = CONFIDENCE) -> Frontiers | None:
    """`records`: a suite's ends and snapshots. UserError as `scoring.traces`."""
    lines = traces(records, KL) if is_traced(records) else {}
    shown = {
        row: by_seed for row, by_seed in lines.items() if _is_line(by_seed) or any(t.gaps for t in by_seed.values())
    }
    largest = max((p.x for by_seed in shown.values() for trace in by_seed.values() for p in trace.points), default=0.0)
    if largest < LEAST:
        return None
    many = {row for row in swept(records) if row in shown and _is_line(shown[row])}
    points = tuple(row for row in shown if row not in many) if len(many) > 1 else ()
    within = common_range([record for record in records if row_of(record) not in points], KL)
    places = places_of(within.high, largest)
    at = {place: _rows(matched_values(records, KL, place), shown) for place in places}
    volumes, _ = hypervolumes(records, KL, within)
    shared = max((place for place in places if place <= within.high), default=None)
    judged = {row: read for row, read in at[shared].items() if row not in points} if shared else {}
    return Frontiers(
        shown,
        points,
        places,
        at,
        within,
        _rows(areas(records, KL, within), shown),
        {row: _read(volumes[row]) for row in shown},
        shared,
        _claims(records, judged, f"gain at {shared:g} nats", confidence) if shared else verdicts.Claims([]),
    )


def places_of(common: float, largest: float) -> tuple[float, ...]:
    """As `RULE` has it; `common`: the KL that every row reached."""
    reached = [place for place in ROUND if place <= largest]
    first = max(0, sum(place <= common for place in ROUND) - 1)
    between = reached[min(first, max(0, len(reached) - FEWEST_PLACES)) :]
    picked = np.linspace(0, len(between) - 1, min(MOST_PLACES, len(between))).round().astype(int)
    return tuple(between[i] for i in picked)


def _is_line(by_seed: dict[int, Trace]) -> bool:
    return any(trace.is_more_than_the_start for trace in by_seed.values())


def _rows(read: dict[str, Read], shown: dict[str, dict[int, Trace]]) -> dict[str, Read]:
    return {row: read[row] for row in shown}


def _read(volumes: dict[int, float | None]) -> Read:
    values: dict[int, tuple[float, ...]] = {seed: (volume,) for seed, volume in volumes.items() if volume is not None}
    return Read(values, {seed: "nothing measured" for seed in volumes if seed not in values}, ())


def _claims(records: Sequence[Record], at: dict[str, Read], on: str, confidence: float) -> verdicts.Claims:
    """Of whole rows alone: a row would gain from leaving out the replicates in which it fell short."""
    rows = {row: read.values for row, read in at.items() if read.is_whole}
    return verdicts.judged(rows, verdicts.delta_of(records), confidence, on=on)


# ---------------------------------------------------------------------------------------------------------- documents


def section(found: Frontiers, confidence: float = CONFIDENCE) -> list[str]:
    """Lines of Markdown: a heading, the table, and below it what was claimed, chosen and left out."""
    heads = ["Method", *(f"Gain at {place:g} nats" for place in found.places), "Area", "Hypervolume"]
    table = [heads, ["---", *("---:" for _ in heads[1:])]]
    for row, by_seed in found.traces.items():
        reads = [*(found.at[place][row] for place in found.places), found.areas[row], found.volumes[row]]
        cells = [cell(read, confidence) if _is_line(by_seed) else NONE for read in reads]
        table.append([for_markdown(row), *cells])
    notes = [*_claimed(found, confidence), *_chosen(found), *_gaps(found)]
    return [
        f"{HEADING}:", "",
        *(f"| {' | '.join(cells)} |" for cells in table), "",
        *(f"- {for_markdown(note)}" for note in notes), "",
    ]  # fmt: skip


def cell(read: Read, confidence: float) -> str:
    """The mean with its interval, or in how many replicates it was reached."""
    if read.mean is None:
        return read.reached if read.values else "not reached"
    found = read.estimate(confidence)
    return f"{read.mean:+z.2f}" + ("" if found is None else f" [{found.low:z.2f}, {found.high:z.2f}]")


def _claimed(found: Frontiers, confidence: float) -> Iterator[str]:
    if not found.said.verdicts or found.shared is None:
        return  # why, stands with the verdicts on the rows' ends
    yield from verdicts.lines(found.said, confidence)
    for row, read in found.at[found.shared].items():
        if not read.is_whole and row not in found.points:
            yield f"{row} is not compared: {found.shared:g} nats were {read.reached} replicates"


def _chosen(found: Frontiers) -> Iterator[str]:
    yield f"{RULE}."
    yield "Between two points gain is read linearly in the square root of KL, beyond them not at all."
    low, high, last = found.within
    yield (
        "Area: under the best gain for no more KL, in points times nats, over the range that all rows cover: from "
        f"{low:g} to {high:.3g} nats, where {last} ends."
    )
    yield f"Hypervolume: what measured points alone cover of it, from the reference point {high:.3g} nats, gain 0."
    if found.points:
        yield (
            f"Of one setting, and so points and no frontiers: {', '.join(found.points)}. They limit no range, and are "
            "not compared here."
        )
    yield "Both take the best points by the prompts they are told on, which flatters rows of many points."


def _gaps(found: Frontiers) -> list[str]:
    gaps = [f"No point: {gap}" for by_seed in found.traces.values() for trace in by_seed.values() for gap in trace.gaps]
    left = len(gaps) - MOST_GAPS
    return [*gaps[:MOST_GAPS], *([f"{left} more points that are not there are in frontier.csv"] if left > 0 else [])]


COLUMNS = ("row", "quantity", "kl_nats", "seed", "value", "low", "high", "where", "missing")


def to_csv(found: Frontiers, confidence: float = CONFIDENCE) -> str:
    """Every point, and every gain, area and hypervolume: per replicate, and their mean where no seed is named."""
    lines = [line for row in found.traces for line in (*_points(found.traces[row]), *_numbers(found, row, confidence))]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    return frame.astype({"seed": "Int64"}).to_csv(index=False, lineterminator="\n")


def _points(by_seed: dict[int, Trace]) -> Iterator[tuple[object, ...]]:
    for seed, trace in by_seed.items():
        for x, gain, _, where in trace.points:
            yield for_csv(trace.row), "point", x, seed, gain, None, None, for_csv(where), None
        for gap in trace.gaps:
            yield for_csv(trace.row), "point", None, seed, None, None, None, None, for_csv(gap)


def _numbers(found: Frontiers, row: str, confidence: float) -> Iterator[tuple[object, ...]]:
    high = found.within.high
    reads = [("gain", place, found.at[place][row]) for place in found.places]
    for quantity, x, read in (*reads, ("area", high, found.areas[row]), ("hypervolume", high, found.volumes[row])):
        whole = read.estimate(confidence)
        ends = (None, None) if whole is None else (whole.low, whole.high)
        yield for_csv(row), quantity, x, None, read.mean, *ends, None, None if read.is_whole else read.reached
        for seed in sorted((*read.values, *read.missed)):
            value = float(np.mean(read.values[seed])) if seed in read.values else None
            yield for_csv(row), quantity, x, seed, value, None, None, None, for_csv(read.missed.get(seed, "")) or None
