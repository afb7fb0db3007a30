"""What a table tells of tastes that rows have taken over: longer or shorter texts, the suite's words, per nat of KL.

    section(ends)         # []: no row has moved

Numbers are `scoring.taken_over`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.report.columns import NONE
from alignbench.report.escape import for_markdown
from alignbench.scoring.glossary import GLOSSARY
from alignbench.scoring.overoptimisation import Interval
from alignbench.scoring.record import Record
from alignbench.scoring.stats import CONFIDENCE
from alignbench.scoring.taken_over import LEAST_NATS, TASTES, TakenOver, taken_over

HEADING = "Taken over, against the start"


def section(ends: Sequence[Record], confidence: float = CONFIDENCE) -> list[str]:
    """Lines of Markdown. UserError as `summarise`."""
    found = {row: tastes for row, tastes in taken_over(ends, confidence).items() if any(t.per_nat for t in tastes)}
    if not found:
        return []
    shown = [taste for taste in TASTES if any(told.taste == taste for tastes in found.values() for told in tastes)]
    heads = [head for taste in shown for head in (f"{GLOSSARY[taste].heading}, {TASTES[taste]}", "a nat")]
    lines = [["Method", *heads], ["---", *("---:" for _ in heads)]]
    lines += [[for_markdown(row), *_cells({t.taste: t for t in tastes}, shown)] for row, tastes in found.items()]
    return [
        f"{HEADING}:", "", *(f"| {' | '.join(cells)} |" for cells in lines), "",
        f"- A change for each nat of KL that it took, of rows {LEAST_NATS:g} nats from the start or further.", "",
    ]  # fmt: skip


def _cells(told: dict[str, TakenOver], shown: Sequence[str]) -> list[str]:
    found = (told.get(taste) for taste in shown)
    pairs = ((None, None) if each is None else (each.change, each.per_nat) for each in found)
    return [_signed(value) for pair in pairs for value in pair]


def _signed(value: Interval | None) -> str:
    return NONE if value is None else f"{value.mean:+z.2f} [{value.low:z.2f}, {value.high:z.2f}]"
