"""What a table tells of each proxy as a chooser: gold of the best of n of the start's samples, beside gold's own best.

    section(ends)         # []: no record has a curve

The sample the proxy likes best is what a policy that maximises it is drawn to: a curve that flattens or falls while the
gold's own rises is a reward that will be hacked, seen before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from alignbench.report.escape import for_markdown
from alignbench.scoring.record import Record

HEADING = "Best of n of the start's samples, gold over their mean"


def section(ends: Sequence[Record]) -> list[str]:
    """Lines of Markdown, a row for each proxy: rows of one proxy have one curve. Means over replicates."""
    by_row: dict[str, list[Record]] = {}
    for record in ends:
        if record.best_of:
            by_row.setdefault(record.label, []).append(record)
    rows_of: dict[tuple[object, ...], list[str]] = {}
    for label, records in by_row.items():
        rows_of.setdefault(tuple((record.seed, record.best_of) for record in records), []).append(label)
    if not rows_of:
        return []
    sizes = sorted({each.n for records in by_row.values() for record in records for each in record.best_of})
    lines = [
        ["Proxy of", *(f"best of {n}" for n in sizes), "the gold's own"],
        ["---", *("---:" for _ in sizes), "---:"],
    ]
    for labels in rows_of.values():
        gains = [f"{_mean(by_row[labels[0]], n, 'gain'):+z.2f}" for n in sizes]
        lines.append(
            [for_markdown(", ".join(labels)), *gains, f"{_mean(by_row[labels[0]], sizes[-1], 'ceiling'):+z.2f}"]
        )
    return [f"{HEADING}:", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _mean(records: Sequence[Record], n: int, side: str) -> float:
    return fmean(getattr(each, side) for record in records for each in record.best_of if each.n == n)
