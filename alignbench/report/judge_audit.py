"""An audit of a judge as tables, lines and plain data. Guidelines and names in them are a stranger's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from alignbench.errors import printable
from alignbench.report.agreement import to_data as to_data
from alignbench.scoring.length_effect import WORDS
from alignbench.scoring.stats import Interval

if TYPE_CHECKING:  # they import torch
    from alignbench.scoring.judge_answers import Found
    from alignbench.scoring.judge_audit import Audit, Corrected

CELL = 60  # characters of a name
GUIDELINE = 160  # characters of a guideline


def tables(found: Found) -> Iterator[Table]:
    yield audit_table(found)
    if found.wordings is not None:
        yield wording_table(found)
    if found.corrected is not None:
        yield corrected_table(found.corrected)


def audit_table(found: Found) -> Table:
    """The judge, the control that names the longer text, and people, where they have the number too."""
    heads = (found.judge, "longest answer (control)", "people")
    table = Table(f"of {found.audit.asked:,} human pairs", *(Column(_cell(head), justify="right") for head in heads))
    both = [_told(one) for one in (found.audit, found.control)]
    people = dict.fromkeys(both[0], "")
    people["orders as people did, both orders averaged"] = _number(found.human_accuracy)
    people["the longer text wins"] = _interval(None if found.audit.length is None else found.audit.length.people)
    for name in both[0]:
        table.add_row(name, *(escape(told[name]) for told in (*both, people)))
    return table


def wording_table(found: Found) -> Table:
    table = Table("asked with the guideline", *(Column(name, justify="right") for name in ("order stays", "accuracy")))
    for wording in found.wordings or ():
        numbers = (None, None) if wording.found is None else (wording.found.stays, wording.found.accuracy)
        table.add_row(_cell(wording.guideline, GUIDELINE), *(escape(_interval(number)) for number in numbers))
    return table


def corrected_table(found: Corrected) -> Table:
    table = Table("people's win rate of the longer text", Column("estimate", justify="right"))
    rows = {
        f"the judge alone, {found.labelled + found.judged_alone:,} pairs": f"{found.judge:.3f}",
        f"people alone, {found.labelled:,} labels": _interval(found.powered.people_alone),
        f"prediction-powered, {found.labelled:,} labels and {found.judged_alone:,} judged alone":
            _interval(found.powered.interval),
        f"all {found.labelled + found.judged_alone:,} labels": _interval(found.truth),
    }  # fmt: skip
    for name, number in rows.items():
        table.add_row(name, escape(number))
    return table


def notes(found: Found) -> Iterator[str]:
    audit = found.audit
    yield "intervals: 95 %, of pairs that share texts; texts stand in an order that knows nothing of the label"
    if missing := audit.asked - audit.answered:
        yield f"{missing:,} pairs without an answer in both orders ({audit.answered_once:,} have one) are in no number"
    ceiling = "not known" if found.human_accuracy is None else f"{found.human_accuracy:.3f}, over all held-out pairs"
    yield f"people: one rater beside the mean of the others, the ceiling: {ceiling}"
    yield "places: + likes what it is shown first; by place alone the win rate over both orders is 0.500"
    length = audit.length
    if length is None:
        yield "length: fewer than two pairs differ in words"
    elif length.log_odds is None:
        yield f"log-odds by length: not identifiable, for {length.why_not}"
    else:
        yield f"log-odds by length: what {WORDS} words more add to its choice, given people's choice"
    yield from _of_wordings(found)
    yield from _of_correction(found)


def _of_wordings(found: Found) -> Iterator[str]:
    if found.wordings is None:
        yield f"rewording: {printable(found.judge, CELL)} has no wording"
    else:
        yield "order stays: share of pairs that the source's `prefer` orders as it did in the first table"


def _of_correction(found: Found) -> Iterator[str]:
    if found.corrected is None:
        yield "prediction-powered: left out, too few answered pairs differ in words"
        return
    powered = found.corrected.powered
    wide = [one.high - one.low for one in (powered.interval, powered.people_alone)]
    gain = f"; its interval is {100 * wide[0] / wide[1]:.0f} % as wide as people's alone" if wide[1] > 0 else ""
    yield f"prediction-powered (arXiv:2311.01453): the judge counts with lambda {powered.weight:.2f}{gain}"


def _told(audit: Audit) -> dict[str, str]:
    length = audit.length
    return {
        "answered in both orders": f"{audit.answered:,} of {audit.asked:,}",
        "orders as people did, both orders averaged": _interval(audit.accuracy),
        "orders as people did, asked once": _interval(audit.accuracy_once),
        "names the same place in both orders": _interval(audit.same_place),
        "bias to the first place": _signed(audit.first_place_bias),
        "win rate of what is shown first, asked once": _interval(audit.win_rate_once),
        "win rate of the same, both orders averaged": _interval(audit.win_rate),
        "the longer text wins": _interval(None if length is None else length.judge),
        "the same, less people's": _signed(None if length is None else length.excess),
        f"log-odds by length, {WORDS} words": _signed(None if length is None else length.log_odds),
        "expected calibration error": f"{audit.ece:.3f}",
        "overconfidence": _signed(audit.overconfidence),
        "Brier score (a coin: 0.250)": _interval(audit.brier),
    }


def _cell(text: str, limit: int = CELL) -> str:
    return escape(printable(text, limit))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Interval | None) -> str:
    if found is None or math.isnan(found.low):
        return _number(None if found is None else found.mean)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _signed(found: Interval | None) -> str:
    if found is None:
        return "-"
    mean, low, high = (round(end, 3) + 0.0 for end in found)  # no -0.000
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
