"""What people said of a blinded sheet, beside what the gold says: a table, lines, and the votes as a file."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from alignbench.errors import printable
from alignbench.report.columns import NONE
from alignbench.report.escape import distinct_for_csv, for_csv
from alignbench.report.summary import summarise
from alignbench.scoring.audit import Gold, Key, Spread
from alignbench.scoring.audit_votes import Read, Tally, Vote, agreement, credit_of, position, with_gold
from alignbench.scoring.record import Record
from alignbench.scoring.stats import Interval

CELL = 60  # characters of a row's label
VOTES = "votes.csv"
ENDS = ("", "_low", "_high")  # of a number and its interval in a summary


def gold_of_rows(records: Sequence[Record], confidence: float, resamples: int) -> dict[str, Gold]:
    """By label: what the table tells of its gold, over all prompts and replicates that ended well."""
    rows = summarise(records, confidence, resamples).to_dict("records")
    return {
        str(row["label"]): Gold(win_rate=_with_ends(row, "win_rate_gold"), gain=_with_ends(row, "reward_gold_gain"))
        for row in rows
    }


def _with_ends(row: Mapping[Any, Any], name: str) -> Spread:
    mean, low, high = (None if math.isnan(row[name + end]) else float(row[name + end]) for end in ENDS)
    return mean, low, high


def votes_csv(votes: Sequence[Vote], key: Key) -> str:
    """The long table that `alignbench agreement` reads, item, rater and label, with whose texts they were: columns row,
    against, replicate, prompt (its place) and won, 1, 0.5 or 0 for the row. UserError where two raters would be one."""
    raters = distinct_for_csv(dict.fromkeys(vote.rater for vote in votes), "rater")
    pairs = {pair.item: pair for pair in key.pairs}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["item", "rater", "label", "row", "against", "replicate", "prompt", "won"])
    for vote in votes:
        pair = pairs[vote.item]
        whose = for_csv(key.row_of(pair)), for_csv(key.against), pair.replicate, pair.place
        writer.writerow([vote.item, raters[vote.rater], vote.label, *whose, f"{credit_of(vote.label, pair, key):g}"])
    return file.getvalue()


def table(tallies: Sequence[Tally], key: Key) -> Table:
    """People beside gold, a line a row."""
    headings = ("answered", "prompts", "people: won", "gold: won of these", "gold: win rate", "gold: gain")
    found = Table(f"row, against {_cell(key.against)}", *(Column(name, justify="right") for name in headings))
    for one in tallies:
        gold = key.rows[one.row]
        found.add_row(
            _cell(one.row), f"{one.answered} of {one.asked}", str(one.prompts), escape(_interval(one.won)),
            NONE if one.gold_won is None else f"{one.gold_won:.2f}", _spread(gold.win_rate), _spread(gold.gain, "+"),
        )  # fmt: skip
    return found


def notes(read: Read, key: Key) -> Iterator[str]:
    """What stands around the table."""
    raters = {vote.rater for vote in read.votes}
    blank = f", {read.blank} left blank" if read.blank else ""
    yield f"{len(read.votes)} answers of {_count(len(raters), 'rater')} on {len(key.pairs)} pairs{blank}"
    yield (
        "people: won: share of pairs that went to the row, a tie half, a pair of several raters once by their mean; "
        "95 % over other prompts, these raters, Wilson's on as many pairs as say as much as these, which share prompts"
    )
    yield "gold: won of these: on the same pairs; win rate and gain: over the supervised start, as in the suite's table"
    if equal := sum(key.equal.values()):
        yield f"pairs of equal texts were not asked: {equal} met while drawing; the gold's win rate has them, half won"
    if shown := sum(key.shown.values()):
        yield f"{_count(shown, 'pair')} not asked: their prompt had shown a text of theirs, which would tell its side"
    same, decided = with_gold(read.votes, key)
    if same is not None:
        yield f"people and gold prefer the same text on {_interval(same)} of {decided} pairs that both decide"
    yield _on_agreement(read.votes, len(raters))
    yield _on_position(read.votes)


def drawn_notes(key: Key, count: int, left_out: Mapping[str, str]) -> Iterator[str]:
    """Of a sheet that was just drawn. `count`: how many pairs were wanted."""
    of_row = Counter(key.row_of(pair) for pair in key.pairs)
    asked = {row: of_row[row] for row in key.rows if row != key.against}
    found = sum(asked.values())
    few = f" ({count} asked for: there are no more)" if found < count else ""
    rows = ", ".join(f"{printable(row, CELL)} {pairs}" for row, pairs in asked.items())
    yield f"{_count(found, 'pair')}{few} against {printable(key.against, CELL)}: {rows}"
    whys = (
        ("whose texts are equal", key.equal),
        ("whose prompt has shown a text of theirs, which would tell its side", key.shown),
    )
    for why, passed in whys:
        if passed:
            of_rows = ", ".join(f"{printable(row, CELL)} {pairs}" for row, pairs in passed.items())
            yield f"pairs {why}, passed over: {of_rows}"
    for row, why in left_out.items():
        yield f"left out: {printable(row, 2 * CELL)}: {printable(why)}"


def _on_agreement(votes: Sequence[Vote], raters: int) -> str:
    alpha = agreement(votes)
    if alpha is None:
        return f"alpha: none, {'one rater' if raters == 1 else 'no two raters'} answered; it needs two on the same pair"
    if math.isnan(alpha.mean):
        return "alpha: not defined, for every pair that two raters answered has the same answer"
    why = "no interval, for two raters answered one pair alone" if math.isnan(alpha.low) else "95 % over pairs"
    return f"alpha (Krippendorff, nominal, left, right or tie): {_interval(alpha)}, {why}"


def _on_position(votes: Sequence[Vote]) -> str:
    found = position(votes)
    counts = f"{found.left} left, {found.right} right, {_count(found.ties, 'tie')}"
    if found.share is None:
        return f"position: {counts}"
    leans = not found.share.low <= 0.5 <= found.share.high
    word = "; one side is preferred for being that side" if leans else ""
    return f"position: {counts}; left is {_interval(found.share)} of those that choose, 0.5 by chance{word}"


def _interval(found: Interval | None) -> str:
    if found is None:
        return NONE
    ends = "" if math.isnan(found.low) else f" [{found.low:z.2f}, {found.high:z.2f}]"
    return f"{found.mean:z.2f}{ends}"


def _spread(values: Spread, sign: str = "") -> str:
    mean, low, high = values
    if mean is None:
        return NONE
    ends = "" if low is None or high is None else f" [{low:z.2f}, {high:z.2f}]"
    return escape(f"{mean:{sign}z.2f}{ends}")


def _cell(text: str) -> str:
    return escape(printable(text, CELL))


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
