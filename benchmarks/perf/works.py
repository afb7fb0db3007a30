"""What the works share: batches as the trainers meet them, rows of the table."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any, TypeVar

from benchmarks.perf.floor import Count, count
from benchmarks.perf.sides import Reading
from benchmarks.perf.table import Row

T = TypeVar("T")
BOTH = ("chosen", "rejected")


def in_order_of(seed: int, rows: Sequence[T], epoch: int = 1) -> list[T]:
    """The rows as the engine meets them in that epoch: it shuffles with Python's own generator."""
    rng, order = random.Random(seed), list(range(len(rows)))
    for _ in range(epoch):
        order = rng.sample(range(len(rows)), len(rows))
    return [rows[i] for i in order]


def counts(
    ids: Sequence[Any], size: int, steps: int, sides: Sequence[str], has_vocabulary: bool = True
) -> list[list[Count]]:
    """What the steps of each timed round ask for; the first round is not timed."""
    batches = [
        count([(row["prompt"], len(row[side])) for row in ids[i : i + size] for side in sides], has_vocabulary)
        for i in range(0, len(ids), size)
    ]
    return in_rounds(batches[steps:], steps)


def in_rounds(values: Sequence[T], steps: int) -> list[list[T]]:
    return [list(values[i : i + steps]) for i in range(0, len(values), steps)]


def row(
    work: str, unit: str, amounts: tuple[float, float], ours: Reading, peer: Reading, floor_seconds: float | None,
    aim: str = "",
) -> Row:  # fmt: skip
    """Rates of the medians; `amounts`: what a round of ours and of the peer's gets done."""
    done, theirs = amounts
    return Row(
        work, unit, done / ours.seconds, theirs / peer.seconds,
        (done / ours.cpu_seconds) / (theirs / peer.cpu_seconds), aim, (ours.peak_bytes, peer.peak_bytes),
        floor_seconds, ours.seconds, (statistics.mean(ours.losses), statistics.mean(peer.losses)),
    )  # fmt: skip


def token_row(work: str, ours: Reading, peer: Reading, floor_seconds: float, aim: str) -> Row:
    return row(work, "tokens/s", (ours.tokens, peer.tokens), ours, peer, floor_seconds, aim)
