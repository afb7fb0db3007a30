"""Agreement and aggregation as tables, lines, plain data and a file of labels. The names in them are a stranger's."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from alignbench.errors import printable
from alignbench.feedback.aggregate import BT_ITEMS_MAX, BT_STRENGTH, Consensus
from alignbench.feedback.votes import Votes
from alignbench.report.escape import distinct_for_csv
from alignbench.scoring.rated_texts import MIN_GAP, ROUNDS, TRUTH_MIN, DomainAgreement
from alignbench.scoring.stats import Interval
from alignbench.scoring.vote_summary import VoteSummary

CELL = 60  # characters of a stranger's name
ROWS = 20  # raters or players of a table
IN_WORDS = {"majority": "majority", "dawid_skene": "Dawid-Skene", "bradley_terry": "Bradley-Terry", "elo": "Elo"}


def domain_tables(domains: Sequence[DomainAgreement]) -> Iterator[Table]:
    """How far people agree, then what so many votes a pair are worth."""
    people = Table("domain", *(_right(name) for name in ("texts", "ratings", "alpha", "one rater", "pairs")))
    for one in domains:
        counts = (f"{one.texts:,}", f"{one.ratings:,}", escape(_interval(one.alpha)), escape(_interval(one.one_rater)))
        people.add_row(_cell(one.domain), *counts, f"{one.human_pairs:,}")
    yield people
    names = list(dict.fromkeys(worth.aggregation for one in domains for worth in one.worth))
    votes = Table("domain", _right("votes a pair"), *(_right(IN_WORDS[name]) for name in names),
                  _right("majority ties"), _right("pairs"))  # fmt: skip
    for one in domains:
        for k in dict.fromkeys(worth.raters for worth in one.worth):
            row = {worth.aggregation: worth for worth in one.worth if worth.raters == k}
            cells = (escape(_interval(row[name].accuracy)) for name in names)
            votes.add_row(_cell(one.domain), str(k), *cells, f"{row['majority'].ties:.1%}", f"{one.pairs:,}")
    yield votes


def domain_notes(domains: Sequence[DomainAgreement], most: int) -> Iterator[str]:
    """`most`: the largest number of votes a pair."""
    far = f"pairs whose means are {MIN_GAP} or more apart"
    yield "alpha: Krippendorff's at interval level; 95 % intervals everywhere, here over texts"
    yield f"one rater: how often one rater orders a pair as the mean of the others does, on {far}; a tie is half right"
    yield f"votes a pair: the first of {most} ratings of each text that the seed draws; the rest's mean is the truth"
    yield f"accuracy: on {far} by that truth, a tie half right; a text stands in up to {2 * ROUNDS} pairs, and all vote"
    yield f"Bradley-Terry: under a prior of strength {BT_STRENGTH:g} a text; Elo: votes in random order, K 4"
    yield "Dawid-Skene: left out, the raters are anonymous and it learns what each rater confuses"
    for one in domains:
        if one.left_out:
            few = f"{one.left_out:,} texts have fewer than {most + TRUTH_MIN} ratings and stand in no vote"
            yield f"{printable(one.domain, CELL)}: {few}"


def summary_notes(votes: Votes, found: VoteSummary, level: str) -> Iterator[str]:
    """What stands above the tables of a file."""
    many = [f"{len(votes.items):,} items", f"{len(votes.raters):,} raters", f"{len(votes.item):,} votes"]
    yield f"{', '.join(many)}, {len(votes.labels):,} labels at {level} level"
    if votes.repeated:
        yield f"{votes.repeated:,} rows repeat an earlier vote and are counted once"
    if math.isnan(found.alpha.mean):
        yield "alpha: not defined, for every item that two raters saw has the same label"
    else:
        yield f"alpha (Krippendorff): {_over_items(found.alpha)}"
    others = _over_items(found.one_rater)
    yield f"one rater agrees with the majority of the others: {others}; a tie of t labels counts 1/t"
    yield f"majority: {found.ties:,} of {len(votes.items):,} items tie"
    if found.dawid_skene is None:
        yield "Dawid-Skene: left out, too many labels for so many raters or items"
    else:
        ties = f"it decides {found.settled:,} of the ties"
        if not found.is_converged:
            ties += "; its EM did not converge"
        yield f"Dawid-Skene: differs from the majority on {found.differing:,} items that both decide; {ties}"
    for name, accuracy in found.accuracy.items():
        yield f"{IN_WORDS[name]} is right on {_interval(accuracy)} of {found.truths:,} items with a truth, Wilson 95 %"


def rater_table(found: VoteSummary) -> Table:
    head = "rater" if len(found.raters) <= ROWS else f"rater ({ROWS} worst of {len(found.raters):,})"
    names = ("votes", "compared", "agrees with others", "right by Dawid-Skene")
    table = Table(head, *(_right(name) for name in names))
    for row in found.raters[:ROWS]:
        table.add_row(
            _cell(row.rater), f"{row.votes:,}", f"{row.compared:,}", _number(row.agreement), _number(row.right)
        )
    return table


def player_table(found: VoteSummary) -> Table:
    head = "item" if len(found.players) <= ROWS else f"item ({ROWS} best of {len(found.players):,})"
    names = ("comparisons", "won, ties half", "Bradley-Terry", "Elo")
    table = Table(head, *(_right(name) for name in names))
    for row in found.players[:ROWS]:
        strengths = (_number(row.bradley_terry), f"{row.elo:.0f}")
        table.add_row(_cell(row.player), f"{row.comparisons:,}", _number(row.won), *strengths)
    return table


def player_notes(found: VoteSummary) -> Iterator[str]:
    if found.players[0].bradley_terry is None:
        yield f"Bradley-Terry: left out, more than {BT_ITEMS_MAX:,} items are compared"
    else:
        prior = f"a prior of strength {BT_STRENGTH:g} an item"
        yield f"Bradley-Terry: log-odds, under {prior}; Elo: votes in the file's order, K 4"
    if found.parts > 1:
        yield f"no comparison joins {found.parts:,} groups of items: scores of two groups say nothing of each other"


def labels_csv(votes: Votes, found: VoteSummary) -> str:
    """Columns item, majority, dawid_skene and votes; a tie is an empty cell. Names are made harmless. UserError where
    two of them would then be one."""
    items = distinct_for_csv(votes.items, "item")
    given = votes.labels if votes.comparisons is None else [*votes.comparisons.players, "tie"]
    names = {"": "", **distinct_for_csv(given, "label")}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["item", "majority", "dawid_skene", "votes"])
    sources = [_labels(votes, found.majority)]
    sources.append([""] * len(votes.items) if found.dawid_skene is None else _labels(votes, found.dawid_skene))
    for item, *labels, n in zip(votes.items, *sources, found.votes_of_items.tolist(), strict=True):
        writer.writerow([items[item], *(names[label] for label in labels), n])
    return file.getvalue()


def to_data(found: Any) -> Any:
    """NamedTuples as dictionaries and NaN as None, for JSON."""
    if hasattr(found, "_asdict"):
        return {name: to_data(value) for name, value in found._asdict().items()}
    if isinstance(found, dict):
        return {name: to_data(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [to_data(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def summary_data(votes: Votes, found: VoteSummary, level: str) -> dict[str, Any]:
    aggregated = {"ties": found.ties, "differing": None, "settled": None}
    if found.dawid_skene is not None:
        aggregated |= {"differing": found.differing, "settled": found.settled}
    counts = {"items": len(votes.items), "votes": len(votes.item), "labels": votes.labels, "repeated": votes.repeated}
    plain = {"alpha": found.alpha, "one_rater": found.one_rater, "raters": found.raters, "accuracy": found.accuracy}
    return to_data({"level": level, **counts, **plain, "truths": found.truths, "majority_and_dawid_skene": aggregated,
                    "players": found.players, "groups": found.parts})  # fmt: skip


def _labels(votes: Votes, consensus: Consensus) -> Iterable[str]:
    """Of each item; a comparison's is the name of who won. A tie of labels is empty."""
    names = [*votes.labels, ""]  # code -1 is a tie
    if votes.comparisons is None:
        return [names[code] for code in consensus.label.tolist()]
    sides = {"first": 0, "second": 1}
    codes = zip(consensus.label.tolist(), votes.comparisons.pairs, strict=True)
    return [pair[sides[names[code]]] if names[code] in sides else names[code] for code, pair in codes]


def _cell(text: str) -> str:
    return escape(printable(text, CELL))


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:z.3f}"  # no -0.000


def _over_items(found: Interval) -> str:
    why = "no interval, for one item alone has votes of two raters" if math.isnan(found.low) else "95 % over items"
    return f"{_interval(found)}, {why}"


def _interval(found: Interval) -> str:
    if math.isnan(found.low):
        return _number(found.mean)
    return f"{found.mean:z.3f} [{found.low:z.3f}, {found.high:z.3f}]"
