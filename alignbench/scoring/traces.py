"""What a method traces in one replicate: gold gain over KL or over a cost, as its knob turns and its training goes on.

    ends_and_snapshots = [*read_records(run / "records.jsonl"), *read_records(run / "snapshots.jsonl")]
    dpo = traces(ends_and_snapshots, KL)["dpo"][0]        # the suite's row, the seed of the replicate
    at(dpo, 4.0).gain, at(frontier(dpo), 4.0).gain        # the gold gain at 4 nats

There are two views, and nothing turns one into the other in silence. The *trace* is the polyline through every point,
so over-optimisation stays seen: gold that falls while KL grows. The *frontier* is the best gain for no more x: it never
falls, and as it picks the best of several noisy points it flatters, the more the more points a method has.
Its line between two points runs above those that they beat.

**Between two points** a policy's gain is read linearly in d = sqrt(KL), Gao et al.'s distance (2022, arXiv:2210.10760,
section 3). Near the start any smooth path gains in proportion to its step and pays KL in proportion to its square, so
gain is linear in d there. Read linearly in KL it would be far too low wherever a method's first point lies far out:
methods would be ranked by how densely they were measured. On the oracle's best-of-n, a point read from its neighbours
is 0.14 too low on average that way, and 0.05 in d. What speaks for the other way is that it can be had: answer by
either policy at random, and gain is linear while KL is at most linear. A cost is read linearly for that very reason:
flip a coin between two budgets. Nothing is read outside the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from alignbench.errors import UserError, nearest
from alignbench.scoring.record import Ledger, Record

KL = "kl_nats"  # nats from the start: exact for a policy, the analytic bound for a decoding rule of the start
AXES = (KL, *Ledger.model_fields)  # else a cost, that of the row with every stage it rests on


class Point(NamedTuple):
    """One scored policy of a trace."""

    x: float  # in the axis' unit
    gain: float  # in gold points: the mean of `values`
    values: tuple[float, ...]  # (P,) gain over the start, by held-out prompt
    where: str  # "dpo beta=0.1, step 16"


class Trace(NamedTuple):
    """A suite's row under one replicate."""

    row: str  # its label without the value of the sweep
    seed: int
    axis: str
    points: tuple[Point, ...]  # by x, then by gain
    gaps: tuple[str, ...]  # cells that have no point, each with the reason

    @property
    def is_more_than_the_start(self) -> bool:
        return self.axis != KL or len(self.points) > 1


class Reading(NamedTuple):
    """A trace read at one x: `values` (P,) and their mean `gain`, or None where it was not reached, and `why`."""

    values: tuple[float, ...] | None
    gain: float | None
    why: str = ""


# -------------------------------------------------------------------------------------------------- records to points


def traces(records: Iterable[Record], axis: str) -> dict[str, dict[int, Trace]]:
    """By row and seed, rows in first-seen order, every row under every seed that any of them has.

    `axis` is one of `AXES`. Over KL each trace opens with the start, whose KL and gain are 0 by definition; a policy
    that did not move is that start, whatever its samples scored. A cell that failed, or whose x was not measured, is
    a gap. UserError for an unknown axis, a cell that is there twice, or different numbers of prompts.
    """
    if axis not in AXES:
        raise UserError(f"no axis '{axis}' to trace over; {nearest(axis, AXES)}")
    everything = list(records)
    groups: dict[str, dict[int, list[Record]]] = {}
    for record in everything:
        groups.setdefault(row_of(record), {}).setdefault(record.seed, []).append(record)
    prompts = prompts_of(everything)
    seeds = sorted({record.seed for record in everything})
    return {
        row: {seed: _trace(row, seed, axis, by_seed.get(seed, []), prompts) for seed in seeds}
        for row, by_seed in groups.items()
    }


def row_of(record: Record) -> str:
    """The label of the suite's row, which a sweep lengthens by its value: "dpo beta=0.1" -> "dpo". Rows that were
    labelled so by hand are taken for a sweep too."""
    row, _, tail = record.label.rpartition(" ")
    name, _, value = tail.partition("=")
    if not row or record.knob is None or name != record.knob.name:
        return record.label
    try:
        return row if float(value) == record.knob.value else record.label
    except ValueError:
        return record.label


def where_of(record: Record) -> str:
    place = record.snapshot
    return record.label if place is None else f"{record.label}, {place.name} {place.value:g}"


def prompts_of(records: Sequence[Record]) -> int:
    """How many held-out prompts all records were scored on; 0: none was scored. UserError if they differ."""
    counts = {len(values) for record in records if (values := record.per_prompt.get("reward_gold_gain"))}
    if len(counts) > 1:
        raise UserError(
            f"the records were scored on different numbers of prompts, {sorted(counts)}, so nothing pairs them; "
            "give records of one suite"
        )
    return next(iter(counts), 0)


def _trace(row: str, seed: int, axis: str, records: Sequence[Record], prompts: int) -> Trace:
    points = [Point(0.0, 0.0, (0.0,) * prompts, "start")] if axis == KL and prompts else []
    gaps = [] if records else [f"{row} has no record of seed {seed}"]
    seen: set[str] = set()
    for record in records:
        where = where_of(record)
        if where in seen:
            raise UserError(f"'{where}' seed {seed} is there twice; give each record once")
        seen.add(where)
        x = _x(record, axis)
        if isinstance(x, str):
            gaps.append(f"{where}, seed {seed}: {x}")
        elif axis != KL or x > 0:
            values = tuple(record.per_prompt["reward_gold_gain"])
            points.append(Point(x, float(np.mean(values)), values, where))
    return Trace(
        row, seed, axis, tuple(sorted(points, key=lambda point: (point.x, point.gain, point.where))), tuple(gaps)
    )


def fault_of(record: Record) -> str | None:
    """Why a record has no gain to tell; None: it has one."""
    if record.status == "failed":
        return f"failed: {record.cause}"
    return None if record.per_prompt.get("reward_gold_gain") else "no gold gain by prompt"


def _x(record: Record, axis: str) -> float | str:
    """Where the record stands on the axis, or why it stands nowhere."""
    if fault := fault_of(record):
        return fault
    own, bound = record.metrics.get("kl_nats_exact"), record.metrics.get("kl_nats_bound")
    if axis == KL and bound is not None and own != 0:
        return "its bound counts from the policy it samples from, which is not the start"
    x = getattr(record.cost.total, axis) if axis != KL else own if bound is None else bound
    return f"{axis} not measured" if x is None else float(x)


# ------------------------------------------------------------------------------------------------------------ reading


def frontier(trace: Trace) -> Trace:
    """The best gain for no more x: the points that no other beats at once in x and gain, and the best of them once more
    at the trace's end, up to where it is known to be the best."""
    best: list[Point] = []
    for point in sorted(trace.points, key=lambda point: (point.x, -point.gain, point.where)):
        if not best or point.gain > best[-1].gain:
            best.append(point)
    if best and best[-1].x < trace.points[-1].x:
        best.append(best[-1]._replace(x=trace.points[-1].x))
    return trace._replace(points=tuple(best))


def at(trace: Trace, x: float) -> Reading:
    """The gain at x, prompt by prompt, between the nearest points on both sides; points at one x are their mean."""
    if not trace.points:
        return Reading(None, None, f"nothing measured ({'; '.join(trace.gaps)})")
    low, high = trace.points[0].x, trace.points[-1].x
    if not low <= x <= high:
        side = f"below the smallest, {low:g}" if x < low else f"beyond the largest, {high:g}"
        return Reading(None, None, f"not reached: {x:g} is {side}")
    left = max(point.x for point in trace.points if point.x <= x)
    right = min(point.x for point in trace.points if point.x >= x)
    share = (
        0.0
        if left == right
        else (scaled(trace, x) - scaled(trace, left)) / (scaled(trace, right) - scaled(trace, left))
    )
    values = (1 - share) * _mean_at(trace, left) + share * _mean_at(trace, right)
    return Reading(tuple(values.tolist()), float(values.mean()))


def scaled(trace: Trace, x: float) -> float:
    """What the gain is linear in between two points."""
    return sqrt(x) if trace.axis == KL else x


def _mean_at(trace: Trace, x: float) -> np.ndarray:  # (P,)
    return np.mean([point.values for point in trace.points if point.x == x], axis=0)
