"""A user's votes, as integer codes: `item, rater, label`, or comparisons `left, right, winner, rater`.

An optional `truth` column has an item's true label, in one of its rows or in all. A comparison may name the question it
was made on as `item`; without one, a pair is a question of its own. Its label is which of the two won, in an order of
the two that a hash draws, so that nothing hangs on which stood left or comes first in the alphabet.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignbench.errors import UserError, nearest, printable
from alignbench.feedback.vote_rows import SHOWN, VotesFile

SINGLE, PAIRED = ["item", "rater", "label"], ["left", "right", "winner", "rater"]
WORDS = {"left", "right", "tie"}
NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
)  # `float` also takes 1_000 and digits of any script


class Comparisons(NamedTuple):
    """The votes again, as who met whom. V votes in the order of the file."""

    players: list[str]  # what was compared
    left: np.ndarray  # (V,) codes of players
    right: np.ndarray  # (V,)
    left_share: np.ndarray  # (V,) 1, 0.5 or 0
    pairs: list[tuple[str, ...]]  # of each item: its first and its second player


class Votes(NamedTuple):
    item: np.ndarray  # (V,) codes, as the next two
    rater: np.ndarray
    label: np.ndarray
    items: list[str]  # names of the codes, as the next two
    raters: list[str]
    labels: list[str]  # ascending at a numeric level
    values: np.ndarray  # (L,) what the labels count as; their codes at nominal level
    truth: np.ndarray | None  # (I,) code of the true label; -1: one that nobody voted for, -2: not given
    repeated: int  # rows that say again what an earlier one said, and are counted once
    comparisons: Comparisons | None


def read_votes(path: Path, level: str = "nominal") -> Votes:
    """UserError, in one line with the file's line, for whatever is wrong. `level`: nominal, ordinal or interval."""
    file = VotesFile(path)
    columns = file.columns()
    is_paired = "label" not in columns and bool({"left", "right", "winner"} & set(columns))
    required = PAIRED if is_paired else SINGLE
    if missing := [name for name in required if name not in columns]:
        near = nearest(missing[0], (printable(name, SHOWN) for name in columns[:50]))
        wanted = f"{', '.join(SINGLE)} or {', '.join(PAIRED)} are wanted"
        file.refuse(f"no column '{missing[0]}' ({near}); {wanted}", 1)
    if is_paired and level != "nominal":
        raise UserError(f"--level {level}: comparisons are nominal; leave the option out")
    gathered = _Gathered(file, level)
    for line, cells in file.rows(required, ["truth", "item"] if is_paired else ["truth"]):
        gathered.add_comparison(line, *cells) if is_paired else gathered.add(line, (cells[0],), *cells[1:])
    return gathered.votes(is_paired)


class _Gathered:
    """Votes as they are read, a million of them in seconds: integers in flat lists, and a label understood once."""

    def __init__(self, file: VotesFile, level: str) -> None:
        self.file, self.level = file, level
        self.items: dict[tuple[str, ...], int] = {}  # (item,), or (question, first, second)
        self.raters: dict[str, int] = {}
        self.labels: dict[str, int] = {}  # as written -> code
        self.keys: dict[str | float, int] = {}  # as understood -> code
        self.spelled: list[str] = []  # a code's label as it was written first
        self.places: dict[int, int] = {}  # item and rater in one number -> place in the next four
        self.item: list[int] = []
        self.rater: list[int] = []
        self.label: list[int] = []
        self.line: list[int] = []
        self.truths: dict[int, tuple[str | float, int]] = {}
        self.repeated = 0
        self.players: dict[str, int] = {}
        self.left: list[int] = []
        self.right: list[int] = []
        self.left_share: list[float] = []

    def add(self, line: int, item: tuple[str, ...], rater: str, label: str, truth: str) -> bool:
        """False for a vote that repeats an earlier one."""
        code = self.labels.get(label, -1)
        if code < 0:
            code = self.labels[label] = self.keys.setdefault(self._key("label", label, line), len(self.keys))
            if code == len(self.spelled):
                self.spelled.append(label)
        item_code = self.items.setdefault(item, len(self.items))
        rater_code = self.raters.setdefault(rater, len(self.raters))
        if truth:
            self._add_truth(item_code, self._key("truth", truth, line), line)
        place = self.places.setdefault(item_code << 32 | rater_code, len(self.line))
        if place == len(self.line):
            self.item.append(item_code)
            self.rater.append(rater_code)
            self.label.append(code)
            self.line.append(line)
            return True
        if self.label[place] != code:
            who, what = printable(rater, SHOWN), printable(_name(item), SHOWN)
            problem = f"rater '{who}' labelled item '{what}' otherwise in line {self.line[place]}; keep one of the two"
            self.file.refuse(problem, line)
        self.repeated += 1
        return False

    def add_comparison(
        self, line: int, left: str, right: str, winner: str, rater: str, truth: str, question: str
    ) -> None:
        if left == right:
            self.file.refuse(f"'{printable(left, SHOWN)}' is compared with itself; remove the row", line)
        if left in WORDS or right in WORDS:
            self.file.refuse("an item called left, right or tie makes `winner` ambiguous; rename it", line)
        first, second = (left, right) if left < right else (right, left)
        if hashlib.sha256(f"{question}\0{first}\0{second}".encode("utf-8", "surrogatepass")).digest()[0] & 1:
            first, second = second, first
        won = self._winner("winner", winner, left, right, line)
        label = "tie" if not won else "first" if won == first else "second"
        true = self._winner("truth", truth, left, right, line) if truth else None
        truth = "" if true is None else "tie" if not true else "first" if true == first else "second"
        if self.add(line, (question, first, second), rater, label, truth):
            self.left.append(self.players.setdefault(left, len(self.players)))
            self.right.append(self.players.setdefault(right, len(self.players)))
            self.left_share.append(0.5 if not won else 1.0 if won == left else 0.0)

    def _winner(self, name: str, said: str, left: str, right: str, line: int) -> str:
        """The name of the one that won; "" for a tie."""
        if said in ("left", left):
            return left
        if said in ("right", right):
            return right
        if said != "tie":
            allowed = f"left, right, tie or one of the two names, got '{printable(said, SHOWN)}'"
            self.file.refuse(f"{name} should be {allowed}", line)
        return ""

    def _add_truth(self, item: int, truth: str | float, line: int) -> None:
        known = self.truths.setdefault(item, (truth, line))
        if known[0] != truth:
            self.file.refuse(f"another truth for this item stands in line {known[1]}; keep one of the two", line)

    def _key(self, name: str, label: str, line: int) -> str | float:
        """The label itself, or its number: 1 and 1.0 are one label at a numeric level."""
        if self.level == "nominal":
            if label.casefold() in ("nan", "null"):
                self.file.refuse(f"{name} is '{label}', a missing vote; leave the row out, or write it otherwise", line)
            return label
        number = float(label) if NUMBER.fullmatch(label) else math.nan
        if not math.isfinite(number):
            remedy = f"--level {self.level} wants finite numbers; mend it or use --level nominal"
            self.file.refuse(f"{name} is '{printable(label, SHOWN)}'; {remedy}", line)
        return number

    def votes(self, is_paired: bool) -> Votes:
        if not self.line:
            self.file.refuse("has a header and no vote; it should have a line for each")
        item, rater = np.array(self.item), np.array(self.rater)
        if np.bincount(item).max() < 2:
            self.file.refuse("no item has votes of two raters, so nothing can agree; add votes on the same items")
        keys, order = list(self.keys), list(range(len(self.keys)))
        if self.level != "nominal":
            order.sort(key=keys.__getitem__)
        renumbered = np.empty(len(order), dtype=int)
        renumbered[order] = np.arange(len(order))
        truth = None
        if self.truths:
            truth = np.full(len(self.items), -2)
            for place, (key, _) in self.truths.items():
                truth[place] = renumbered[self.keys[key]] if key in self.keys else -1
        values = np.arange(len(order)) if self.level == "nominal" else np.array([keys[code] for code in order])
        comparisons = None
        if is_paired:
            sides = np.array(self.left), np.array(self.right), np.array(self.left_share)
            comparisons = Comparisons(list(self.players), *sides, [key[1:] for key in self.items])
        return Votes(
            item=item, rater=rater, label=renumbered[np.array(self.label)],
            items=[_name(key) for key in self.items], raters=list(self.raters),
            labels=[self.spelled[code] for code in order],
            values=values.astype(float), truth=truth, repeated=self.repeated, comparisons=comparisons,
        )  # fmt: skip


def _name(item: tuple[str, ...]) -> str:
    if len(item) == 1:
        return item[0]
    question, first, second = item
    return f"{question}: {first} / {second}" if question else f"{first} / {second}"
