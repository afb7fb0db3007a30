"""Sentences with single human ratings, and the splits, pairs and ceilings made of them.

The data are the movie-review sentences of Hutto & Gilbert (ICWSM 2014), rated by some 17 people each from -4 to 4.
Every split follows from a seed and the texts alone: not from the order of the file, and not from Python's version.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from alignbench.api import Demonstration, Pair
from alignbench.errors import UserError

REST_WORDS_MIN = 4  # a shorter remainder is no demonstration of how a sentence goes on


class Sentence(NamedTuple):
    text: str
    ratings: tuple[int, ...]  # one per rater, -4 to 4; raters are anonymous and differ between sentences

    @property
    def mean(self) -> float:
        return fmean(self.ratings)


class SplitSizes(NamedTuple):
    rating: int  # sentences
    held_out: int  # sentences
    train: int  # prompts, as the next two
    label: int
    eval: int


class Splits(NamedTuple):
    """No text is in two of them; no prompt opens two sentences of this split or one of the rating split."""

    rating: list[Sentence]  # fits the gold rater; human training pairs and demonstrations
    held_out: list[Sentence]  # validity of the gold, reward-model accuracy
    train: list[str]
    label: list[str]
    eval: list[str]


def load_sentences(path: Path) -> list[Sentence]:
    """Read a file of the asset `movie-ratings` or `other-ratings`."""
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [Sentence(row["text"], tuple(row["ratings"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is missing or not a file of ratings: run `alignbench fetch`") from None


def in_order(sentences: Iterable[Sentence], seed: int) -> list[Sentence]:
    """Each text once, in the order of its hash under the seed."""
    return sorted(_without_duplicates(sentences), key=lambda sentence: _rank(seed, sentence.text))


def split(sentences: Iterable[Sentence], seed: int, sizes: SplitSizes, prompt_words: int = 5) -> Splits:
    """Cut the sentences, in the order of their hash, into a rating, a held-out and a prompt part."""
    order = in_order(sentences, seed)
    held_out, rest = order[: sizes.held_out], order[sizes.held_out :]
    rating, rest = rest[: sizes.rating], rest[sizes.rating :]

    seen = {_opening(sentence.text, prompt_words).casefold() for sentence in rating}
    openings = []
    for sentence in rest:
        opening = _opening(sentence.text, prompt_words)
        if _is_long_enough(sentence.text, prompt_words) and opening.casefold() not in seen:
            seen.add(opening.casefold())
            openings.append(opening)

    wanted = sizes.eval + sizes.label + sizes.train
    if len(rating) < sizes.rating or len(openings) < wanted:
        raise UserError(
            f"{len(order)} different sentences are too few for {sizes.held_out} held-out ones, {sizes.rating} rating "
            f"ones and {wanted} prompts of {prompt_words} words ({len(openings)} are left): lower a split's size"
        )
    train_start = sizes.eval + sizes.label  # evaluation first: more training prompts leave it as it was
    return Splits(
        rating=rating,
        held_out=held_out,
        train=openings[train_start:wanted],
        label=openings[sizes.eval : train_start],
        eval=openings[: sizes.eval],
    )


def demonstrations(rating: Sequence[Sentence], prompt_words: int = 5) -> list[Demonstration]:
    """Openings and how they went on, from the rating split, so that no prompt of another split is seen."""
    openings = [(_opening(s.text, prompt_words), s.text) for s in rating if _is_long_enough(s.text, prompt_words)]
    return [Demonstration(opening, text[len(opening) :]) for opening, text in openings]


def human_pairs(sentences: Sequence[Sentence], count: int, seed: int, min_gap: float = 0.3) -> list[Pair]:
    """`count` different random pairs of sentences whose mean ratings are at least `min_gap` apart."""
    ascending = sorted(sentences, key=lambda sentence: (sentence.mean, sentence.text))
    means = [sentence.mean for sentence in ascending]
    partners_from = [bisect_left(means, mean + min_gap) for mean in means]  # the first one far enough above
    ends = list(accumulate(len(means) - first for first in partners_from))  # numbers all eligible pairs
    total = ends[-1] if ends else 0
    if min_gap <= 0 or count > total:
        raise UserError(f"{count} pairs with a gap of at least {min_gap} asked for, there are {total}: lower either")
    pairs = []
    for number in random.Random(seed).sample(range(total), count):
        low = bisect_left(ends, number + 1)
        high = len(means) - (ends[low] - number)
        pairs.append(Pair(prompt="", chosen=ascending[high].text, rejected=ascending[low].text))
    return pairs


def human_accuracy(sentences: Iterable[Sentence], pairs: Sequence[Pair]) -> float:
    """How often one rater orders a pair as the mean of the other raters does, ties half: the ceiling of a model.

    The expectation over all draws of one rating per sentence, so it needs no seed. The rater is left out of the mean
    that he is compared with.
    """
    by_text = {sentence.text: sentence.ratings for sentence in sentences}
    if not pairs:
        raise UserError("human_accuracy needs at least one pair")
    return fmean(_agreement(by_text[pair.chosen], by_text[pair.rejected]) for pair in pairs)


def rating_dispersion(sentences: Iterable[Sentence]) -> float:
    """Pooled standard deviation of single ratings about their sentence's mean, unbiased."""
    kept = [sentence for sentence in sentences if len(sentence.ratings) > 1]
    freedom = sum(len(sentence.ratings) - 1 for sentence in kept)
    if not freedom:
        raise UserError("rating_dispersion needs a sentence with two ratings")
    return math.sqrt(sum((rating - sentence.mean) ** 2 for sentence in kept for rating in sentence.ratings) / freedom)


def _agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """Mean over all pairs of one rating each; the others' means are compared as exact fractions."""
    score = 0.0
    for one in first:
        for two in second:
            others = (sum(first) - one) * (len(second) - 1) - (sum(second) - two) * (len(first) - 1)
            product = (one - two) * others
            score += 1.0 if product > 0 else 0.5 if product == 0 else 0.0
    return score / (len(first) * len(second))


def _without_duplicates(sentences: Iterable[Sentence]) -> list[Sentence]:
    """One sentence per casefolded text, the same one whatever the order."""
    kept: dict[str, Sentence] = {}
    for sentence in sorted(sentences):
        kept.setdefault(sentence.text.casefold(), sentence)
    return list(kept.values())


def _rank(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()


def _opening(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def _is_long_enough(text: str, prompt_words: int) -> bool:
    return len(text.split()) >= prompt_words + REST_WORDS_MIN
