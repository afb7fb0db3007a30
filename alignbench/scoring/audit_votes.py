"""Answers to a blinded sheet, taken back: checked against its key, and how often people preferred each row.

    votes = read_votes_of([Path("answers.csv")], key)
    tallies(votes, key)

A pair counts once, as the mean of what its raters said: 1 for the row, 0 against it, a tie one half. Pairs that share a
prompt are no independent trials, so the interval is `share_of_clusters` over prompts. It speaks of other prompts, not
of other raters. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignbench.errors import nearest, printable
from alignbench.feedback.vote_rows import SHOWN, VotesFile
from alignbench.scoring.agreement import alpha_interval, count_votes, share_of_clusters
from alignbench.scoring.audit import Key, Pair
from alignbench.scoring.stats import Interval

LABELS = ("left", "right", "tie")
ITEM = re.compile(r"([0-9a-f]{8})-[0-9]{3,}")


class Vote(NamedTuple):
    item: str
    rater: str
    label: str  # one of LABELS


class Read(NamedTuple):
    votes: list[Vote]
    blank: int  # rows without an answer


class Tally(NamedTuple):
    """One row beside the one it is held against."""

    row: str
    asked: int  # pairs on the sheet
    answered: int  # pairs that anybody answered
    prompts: int  # that those are of
    won: Interval | None  # share that people gave to the row; None: nothing answered
    gold_won: float | None  # what the gold gave it on the very same pairs


class Position(NamedTuple):
    """Whether people had a hand for one side."""

    left: int  # votes
    right: int
    ties: int
    share: Interval | None  # of left among left and right; None: only ties


def read_answers(paths: Iterable[Path], key: Key) -> Read:
    """Columns item, `label` or `answer`, and `rater`, without which the file's name is who answered; CSV or JSON lines.
    An empty answer is none. UserError, in one line with the file's line, for whatever is wrong."""
    known, said_in = {pair.item for pair in key.pairs}, dict[tuple[str, str], str]()
    votes, blank = list[Vote](), 0
    for path in paths:
        file = VotesFile(path)
        columns = file.columns()
        given = [name for name in ("label", "answer") if name in columns]
        if len(given) > 1:
            file.refuse("has the columns label and answer, and either may be what was answered; remove one", 1)
        if "item" not in columns or not given:
            file.refuse("should have the columns item and answer, or item, rater and label, with commas between", 1)
        for line, (item, said, rater) in file.rows(["item"], [*given, "rater"]):
            rater = rater or path.stem
            _check_item(file, line, item, known, key)
            if not said:
                blank += 1
                continue
            if said.casefold() not in LABELS:
                allowed = f"left, right, tie or nothing is an answer, got '{printable(said, SHOWN)}'"
                file.refuse(f"{allowed}; mend it", line)
            if before := said_in.get((item, rater)):
                remedy = "keep one of the two, or name each rater in a column `rater` or by the file's name"
                file.refuse(f"'{printable(rater, SHOWN)}' answered {item} in {before} already; {remedy}", line)
            said_in[item, rater] = f"{printable(str(path), 400)}:{line}"
            votes.append(Vote(item, rater, said.casefold()))
    if not votes:
        file.refuse("has no answer; fill its column, or give the file that sheet.html saved")
    return Read(votes, blank)


def _check_item(file: VotesFile, line: int, item: str, known: set[str], key: Key) -> None:
    if item in known:
        return
    named, ours = ITEM.fullmatch(item), key.sheet[:8]
    if named and named[1] != ours:
        problem = f"{item} is of another sheet, and the key is of {ours}; name the --out folder of that sheet"
        file.refuse(problem, line)
    file.refuse(f"no item '{printable(item, SHOWN)}' on this sheet; {nearest(item, sorted(known)[:1000])}", line)


def tallies(votes: Sequence[Vote], key: Key) -> list[Tally]:
    """Of each row of the sheet, in the order of the key's `rows`."""
    credit = credits(votes, key)
    return [_tally(row, credit, key) for row in key.rows if row != key.against]


def credits(votes: Sequence[Vote], key: Key) -> dict[str, float]:
    """By answered item: what its raters gave to the row, 0 to 1, a tie one half."""
    pairs = {pair.item: pair for pair in key.pairs}
    given: dict[str, list[float]] = {}
    for vote in votes:
        given.setdefault(vote.item, []).append(credit_of(vote.label, pairs[vote.item], key))
    return {item: sum(values) / len(values) for item, values in given.items()}


def credit_of(label: str, pair: Pair, key: Key) -> float:
    """1 where the row won, 0 where what it is held against did, 0.5 for a tie."""
    if label == "tie":
        return 0.5
    return float({"left": pair.left, "right": pair.right}[label] != key.against)


def gold_credit(pair: Pair, key: Key) -> float:
    """The same by the gold."""
    if pair.gold_left == pair.gold_right:
        return 0.5
    return credit_of("left" if pair.gold_left > pair.gold_right else "right", pair, key)


def _tally(row: str, credit: dict[str, float], key: Key) -> Tally:
    asked = [pair for pair in key.pairs if key.row_of(pair) == row]
    answered = [pair for pair in asked if pair.item in credit]
    if not answered:
        return Tally(row, len(asked), 0, 0, None, None)
    prompts = [pair.prompt for pair in answered]
    won = share_of_clusters([credit[pair.item] for pair in answered], prompts)
    gold = sum(gold_credit(pair, key) for pair in answered) / len(answered)
    return Tally(row, len(asked), len(answered), len(set(prompts)), won, gold)


def agreement(votes: Sequence[Vote]) -> Interval | None:
    """Krippendorff's alpha of left, right and tie, nominal, with its interval over pairs. None unless two raters
    answered one pair; NaN where nothing varies."""
    items = {item: code for code, item in enumerate(dict.fromkeys(vote.item for vote in votes))}
    item = np.array([items[vote.item] for vote in votes])
    label = np.array([LABELS.index(vote.label) for vote in votes])
    if np.bincount(item).max() < 2:
        return None
    counts = count_votes(item, label, len(items), len(LABELS))
    return alpha_interval(counts, np.arange(float(len(LABELS))), "nominal")


def position(votes: Sequence[Vote]) -> Position:
    """Sides were drawn at random, so half of the answers should be left. Votes on one pair are of one cluster."""
    left, right, ties = (sum(vote.label == label for vote in votes) for label in LABELS)
    decided = [vote for vote in votes if vote.label != "tie"]
    share = None
    if decided:
        share = share_of_clusters([float(vote.label == "left") for vote in decided], [vote.item for vote in decided])
    return Position(left, right, ties, share)


def with_gold(votes: Sequence[Vote], key: Key) -> tuple[Interval | None, int]:
    """Of the pairs on which both people and the gold prefer one text: how often it is the same, and how many such pairs
    there are. None where there is none."""
    credit = credits(votes, key)
    both = [(pair, credit[pair.item], gold_credit(pair, key)) for pair in key.pairs if pair.item in credit]
    decided = [(pair, float((said > 0.5) == (gold > 0.5))) for pair, said, gold in both if 0.5 not in (said, gold)]
    if not decided:
        return None, 0
    return share_of_clusters([same for _, same in decided], [pair.prompt for pair, _ in decided]), len(decided)
