"""Pairs of completions for people to judge without knowing whose they are, and the key that says it.

    drawn = draw(answers, against="sft", count=40, seed=0)
    drawn.questions, drawn.pairs  # what raters see, and whose texts those are

A pair is one completion of a row and one of the row it is held against, for the same held-out prompt of the same
replicate. Which of the two stands left is a coin's throw. All that is drawn hangs on the seed and on every text of all
rows: whoever has the seed and the sheet alone cannot draw it again. No prompt shows a text twice, for one that recurred
would be that of the row which every pair has. `audit_votes` reads the answers. No torch.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from alignbench.errors import UserError, printable
from alignbench.store import read_json

KEY = "key.json"
SHOWN = 60  # characters of a name that an error shows


class Answers(NamedTuple):
    """What one row wrote in one replicate. P prompts, N samples of each."""

    label: str
    seed: int  # the replicate
    prompts: Sequence[str]  # (P,)
    texts: Sequence[Sequence[str]]  # (P, N)
    chances: np.ndarray  # (P, N) probability that the row returns this sample; rows sum to 1
    gold: np.ndarray  # (P, N) gold reward, points


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pair(_Part):
    """One question, with whose text stands where."""

    item: str  # its name on the sheet
    prompt: str
    place: int  # of the prompt among the held-out ones, from 0
    replicate: int
    left: str  # row
    right: str
    gold_left: float  # points
    gold_right: float


Spread = tuple[float | None, float | None, float | None]  # mean, low and high end of its interval; None: not known


class Gold(_Part):
    """What the gold says of a row over all its prompts."""

    win_rate: Spread  # over the start
    gain: Spread  # over the start, points


class Key(_Part):
    format: Literal[1] = 1  # raised when an older reader would misread a newer key
    suite: str
    seed: int
    against: str  # the row that all others are held against
    sheet: str  # sha256 of the questions as `sheet_digest` has it
    page: str  # sha256 of sheet.html
    rows: Mapping[str, Gold]
    equal: Mapping[str, int]  # by row: pairs of equal texts, which were not asked
    shown: Mapping[str, int] = {}  # by row: pairs not asked because their prompt had shown every text that one side has
    pairs: tuple[Pair, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Key:
        """ValueError for what no draw writes: a key that was altered would credit answers to the wrong row."""
        seen = set[str]()
        for pair in self.pairs:
            item, sides = printable(pair.item, SHOWN), (pair.left, pair.right)
            if pair.item in seen:
                raise ValueError(f"item {item} is there twice")
            seen.add(pair.item)
            if not pair.item.startswith(f"{self.sheet[:8]}-"):
                raise ValueError(f"item {item} is not of sheet {printable(self.sheet[:8])}")
            if sides.count(self.against) != 1:
                raise ValueError(f"item {item} should have '{printable(self.against, SHOWN)}' on one side, and once")
            if self.row_of(pair) not in self.rows:
                raise ValueError(f"item {item} is of row '{printable(self.row_of(pair), SHOWN)}', which `rows` has not")
        return self

    def row_of(self, pair: Pair) -> str:
        """Which of the two the pair is of: the other is `against`."""
        return pair.right if pair.left == self.against else pair.left


class Question(NamedTuple):
    """What a rater sees."""

    item: str
    prompt: str
    left: str
    right: str


class Drawn(NamedTuple):
    sheet: str  # sha256 of the questions
    questions: list[Question]  # in the order in which they are asked
    pairs: list[Pair]  # of the same items
    equal: dict[str, int]  # as the key has them
    shown: dict[str, int]


class _Candidate(NamedTuple):
    place: int
    replicate: int
    prompt: str
    left: tuple[str, str, float]  # row, text, gold
    right: tuple[str, str, float]


def draw(answers: Sequence[Answers], against: str, count: int, seed: int) -> Drawn:
    """At most `count` pairs of the row `against` with each other row, as evenly as there are texts, and a prompt twice
    only where each has been asked once. Each prompt of a replicate is asked of a row once at most. Pairs whose texts
    read the same are counted and not asked, and so are those that would have to show a text again on its prompt.
    UserError if there is nothing to compare."""
    by_row: dict[str, dict[int, Answers]] = {}
    for one in answers:
        by_row.setdefault(one.label, {})[one.seed] = one
    rng = random.Random(_secret(answers, seed))
    deck = _Deck(by_row, against, rng)
    found: list[_Candidate] = []
    while len(found) < count and deck.rows:
        for row in [*deck.rows]:
            if len(found) < count and (pair := deck.next(row)) is not None:
                found.append(pair)
    if not found:
        raise UserError(f"no pair to ask: {sum(deck.equal.values())} were looked at, and the texts of each are equal")
    rng.shuffle(found)
    sheet = sheet_digest([(each.prompt, each.left[1], each.right[1]) for each in found])
    items = [f"{sheet[:8]}-{number:03d}" for number in range(1, len(found) + 1)]
    questions = [Question(item, one.prompt, one.left[1], one.right[1]) for item, one in zip(items, found, strict=True)]
    pairs = [_pair(item, one) for item, one in zip(items, found, strict=True)]
    return Drawn(sheet, questions, pairs, dict(deck.equal), dict(deck.shown))


def sheet_digest(texts: Sequence[tuple[str, str, str]]) -> str:
    """sha256 over (prompt, left, right) of each question, in the order in which they are asked."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def read_key(folder: Path) -> Key:
    """UserError if the folder has none, or one that is no key of ours."""
    path = folder / KEY
    try:
        found = read_json(path)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}; name the folder that `alignbench audit SUITE` wrote"
        raise UserError(problem) from None
    try:
        return Key.model_validate(found)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = "".join(f"{printable(str(part), SHOWN)}: " for part in detail["loc"])
        problem = f"{place}{printable(detail['msg'].removeprefix('Value error, '))}"
        raise UserError(f"{path}: {problem}; restore it from a copy, or draw another sheet") from None


class _Deck:
    """Which prompts of which replicates each row has left, how often each prompt was asked, and what it has shown."""

    def __init__(self, by_row: Mapping[str, Mapping[int, Answers]], against: str, rng: random.Random) -> None:
        self.rivals, self.against, self.rng = by_row[against], against, rng
        self.of = {row: of for row, of in by_row.items() if row != against}
        self.left = {row: self._places(of) for row, of in self.of.items()}
        self.rows = [row for row in self.left if self.left[row]]
        rng.shuffle(self.rows)  # who gets one pair more where they do not come out even
        self.asked: Counter[tuple[str, ...]] = Counter()  # by row and prompt, and by prompt
        self.drawn: Counter[tuple[str, int]] = Counter()  # by row and replicate
        self.on_sheet: set[tuple[str, str]] = set()  # prompts and their texts
        self.equal: Counter[str] = Counter()
        self.shown: Counter[str] = Counter()

    def _places(self, of: Mapping[int, Answers]) -> list[tuple[int, int]]:
        """Replicates and places of prompts, in a drawn order."""
        both = [seed for seed in of if seed in self.rivals]
        places = [(seed, place) for seed in both for place in range(len(of[seed].prompts))]
        self.rng.shuffle(places)
        return places

    def next(self, row: str) -> _Candidate | None:
        """The row's next pair of two different texts, from what was asked least; None where it has no more."""
        while self.left[row]:
            seed, place = min(self.left[row], key=lambda at: self._rank(row, *at))
            self.left[row].remove((seed, place))
            one, other = self.of[row][seed], self.rivals[seed]
            ours, theirs = self._sample(one, place), self._sample(other, place)
            if ours is None or theirs is None:
                self.shown[row] += 1
                continue
            prompt = one.prompts[place]
            both = {(_read(prompt), _read(text)) for _, text, _ in (ours, theirs)}
            if len(both) == 1:
                self.equal[row] += 1
                continue
            self.on_sheet |= both
            self.asked.update([(row, prompt), (prompt,)])
            self.drawn[row, seed] += 1
            left, right = (ours, theirs) if self.rng.random() < 0.5 else (theirs, ours)
            return _Candidate(place, seed, prompt, left, right)
        self.rows.remove(row)
        return None

    def _rank(self, row: str, seed: int, place: int) -> tuple[int, int, int]:
        prompt = self.of[row][seed].prompts[place]
        return self.asked[row, prompt], self.asked[prompt,], self.drawn[row, seed]

    def _sample(self, one: Answers, place: int) -> tuple[str, str, float] | None:
        """By the row's own chances among the texts that the prompt has not shown: a row of uneven chances shows its
        likely texts first. None: the prompt has shown them all."""
        prompt, texts = _read(one.prompts[place]), one.texts[place]
        chances = [
            0.0 if (prompt, _read(text)) in self.on_sheet else chance
            for text, chance in zip(texts, one.chances[place].tolist(), strict=True)
        ]
        if not sum(chances) > 0:
            return None
        (sample,) = self.rng.choices(range(len(texts)), weights=chances)
        return one.label, texts[sample], float(one.gold[place, sample])


def _read(text: str) -> str:
    """What a reader sees of it: two texts that differ in their spaces or in hidden characters look the same."""
    return " ".join(printable(text, len(text)).split())


def _secret(answers: Sequence[Answers], seed: int) -> str:
    """What a sheet does not tell: it shows few of the texts that this hangs on."""
    texts = [[one.label, one.seed, *one.prompts, *(list(texts) for texts in one.texts)] for one in answers]
    return hashlib.sha256(json.dumps([seed, texts]).encode()).hexdigest()


def _pair(item: str, one: _Candidate) -> Pair:
    (left, _, gold_left), (right, _, gold_right) = one.left, one.right
    return Pair(
        item=item, prompt=one.prompt, place=one.place, replicate=one.replicate, left=left, right=right,
        gold_left=gold_left, gold_right=gold_right,
    )  # fmt: skip
