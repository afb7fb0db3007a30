"""What a reward source is worth as a judge of pairs: numbers of arrays alone, so that no model is needed.

    audit(asked, answers)                    # accuracy, place, length, calibration
    stability(base, other, asked)            # the same pairs under another wording
    corrected_win_rate(asked, answers, n)    # people's win rate of the longer text, from n labels and the judge

Pairs come in an order that knows nothing of the label. Each is asked in both orders, and `choice` is what the mean of
the two says: 1 the first text, 0 the second, 1/2 a tie. Judges prefer the first place (Zheng et al. 2023,
arXiv:2306.05685), longer texts (Dubois et al. 2024, arXiv:2404.04475) and, by the wording, other texts. A pair without
an answer in both orders is missing: it stands in no number but the count. Intervals are of 95 % and know that pairs
share texts (`agreement.dyadic_variance`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignbench.errors import UserError
from alignbench.scoring.agreement import interval_of_pairs, share_of_pairs
from alignbench.scoring.length_effect import WORDS, length_effect
from alignbench.scoring.prediction_powered import Ends, Powered, ppi_mean
from alignbench.scoring.reward_card import brier_scores, calibration_error, overconfidences
from alignbench.scoring.stats import Interval

LABELS_MIN = 10  # fewer are often all alike, and then say nothing of how far off they are


class Asked(NamedTuple):
    """The pairs."""

    human: np.ndarray  # (N,) 1: people chose the first text; 0: the second
    words: np.ndarray  # (N, 2) of the first and of the second text
    left: np.ndarray  # (N,) codes of the first texts
    right: np.ndarray  # (N,) of the second

    def take(self, which: np.ndarray) -> Asked:
        return Asked(*(values[which] for values in self))


class Answers(NamedTuple):
    """What the judge said; NaN: nothing."""

    forth: np.ndarray  # (N,) P(the first text beats the second), the first shown first
    back: np.ndarray  # (N,) P(the second beats the first), the second shown first

    @property
    def is_whole(self) -> np.ndarray:
        """(N,) whether both orders were answered."""
        return ~np.isnan(self.forth + self.back)

    @property
    def chance(self) -> np.ndarray:
        """(N,) P(the first text wins), the mean of both orders; exactly 1/2 where they are equal."""
        return 0.5 + (self.forth - self.back) / 2

    def take(self, which: np.ndarray) -> Answers:
        return Answers(self.forth[which], self.back[which])


class Length(NamedTuple):
    """On pairs whose texts differ in words."""

    pairs: int
    judge: Interval  # share in which the judge prefers the longer text
    people: Interval  # share in which people do
    excess: Interval  # of the judge over people, pair by pair
    log_odds: Interval | None  # of the judge's choice per ten words more, given people's; None: not identifiable
    why_not: str


class Audit(NamedTuple):
    asked: int  # pairs
    answered: int  # in both orders
    answered_once: int  # in one order alone
    accuracy: Interval  # share ordered as people did, both orders averaged, ties half
    accuracy_once: Interval  # the same for an answer in one order
    same_place: Interval  # pairs where both orders name the same place
    first_place_bias: Interval  # mean P(the text in the first place wins) over both orders, less 1/2
    win_rate_once: Interval  # mean P(first text wins) as shown in one order; texts are in a random order
    win_rate: Interval  # the same, both orders averaged: 1/2 whatever the place is worth
    length: Length | None  # None: fewer than two pairs differ in words
    ece: float  # expected calibration error of the averaged probability
    overconfidence: Interval  # mean confidence less accuracy
    brier: Interval  # a coin has 0.25


class Stability(NamedTuple):
    """One wording beside that of the audit, on pairs that both answered."""

    pairs: int
    stays: Interval  # share whose order is the same
    accuracy: Interval


class Corrected(NamedTuple):
    """How often the longer text of a pair wins, as people see it; equal lengths left out."""

    labelled: int
    judged_alone: int
    judge: float  # by the judge alone, on all pairs
    powered: Powered
    truth: Interval  # by people's labels on all pairs


def audit(asked: Asked, answers: Answers) -> Audit:
    """ValueError if fewer than two pairs are answered in both orders."""
    is_whole = answers.is_whole
    one = int((np.isnan(answers.forth) != np.isnan(answers.back)).sum())
    count = len(is_whole)
    asked, answers = asked.take(is_whole), answers.take(is_whole)
    if len(asked.human) < 2:
        raise ValueError(f"an audit needs two pairs that are answered in both orders, got {is_whole.sum()} of {count}")
    ends, chance = (asked.left, asked.right), answers.chance
    rightly = np.where(asked.human == 1, chance, 1 - chance)  # P(chosen)
    each = [as_people(answers.forth, asked.human), as_people(1 - answers.back, asked.human)]
    first_place = (answers.forth + answers.back) / 2 - 0.5
    is_same = (answers.forth - 0.5) * (answers.back - 0.5) > 0
    return Audit(
        asked=count,
        answered=len(asked.human),
        answered_once=one,
        accuracy=share_of_pairs(as_people(chance, asked.human), *ends),
        accuracy_once=share_of_pairs((each[0] + each[1]) / 2, *ends),
        same_place=share_of_pairs(is_same.astype(float), *ends),
        first_place_bias=interval_of_pairs(first_place, *ends, bounds=(-0.5, 0.5)),
        win_rate_once=interval_of_pairs(answers.forth, *ends),
        win_rate=interval_of_pairs(chance, *ends),
        length=_length(asked, chosen(chance)),
        ece=calibration_error(rightly),
        overconfidence=interval_of_pairs(overconfidences(rightly), *ends, bounds=(-0.5, 1)),
        brier=interval_of_pairs(brier_scores(rightly), *ends),
    )


def chosen(chance: np.ndarray) -> np.ndarray:
    """(N,) P(first wins) -> 1, 0, or 1/2 for a tie."""
    return (np.sign(chance - 0.5) + 1) / 2


def as_people(chance: np.ndarray, human: np.ndarray) -> np.ndarray:
    """(N,) 1 where the likelier text is people's, 1/2 for a tie."""
    return 1 - np.abs(chosen(chance) - human)


def stability(base: Answers, other: Answers, asked: Asked) -> Stability | None:
    """The pairs under another wording. None: fewer than two have an answer under both."""
    both = base.is_whole & other.is_whole
    if both.sum() < 2:
        return None
    asked, one, two = asked.take(both), base.take(both).chance, other.take(both).chance
    ends = (asked.left, asked.right)
    stays = (chosen(one) == chosen(two)).astype(float)
    accuracy = share_of_pairs(as_people(two, asked.human), *ends)
    return Stability(int(both.sum()), share_of_pairs(stays, *ends), accuracy)


def corrected_win_rate(asked: Asked, answers: Answers, labelled: int | None = None) -> Corrected | None:
    """The first `labelled` pairs have people's label, the rest the judge's alone; None: a quarter has. The truth reads
    every label. None if too few pairs differ in length; UserError if more labels are asked for than leave a rest."""
    differs = answers.is_whole & (asked.words[:, 0] != asked.words[:, 1])
    asked, choice = asked.take(differs), chosen(answers.take(differs).chance)
    count = len(choice)
    if count < LABELS_MIN + 2:
        return None
    n = max(LABELS_MIN, count // 4) if labelled is None else labelled
    check_labelled(n, count)
    is_longer = asked.words[:, 0] > asked.words[:, 1]
    human, judged = of_longer(asked.human, is_longer), of_longer(choice, is_longer)
    ends = Ends(asked.left, asked.right)
    powered = ppi_mean(judged[:n], human[:n], judged[n:], ends)
    return Corrected(n, count - n, float(judged.mean()), powered, share_of_pairs(human, *ends))


def check_labelled(labelled: int, count: int) -> None:
    """UserError unless enough of `count` pairs, whose texts differ in length, are left to be judged alone."""
    if not LABELS_MIN <= labelled <= count - 2:
        allowed = f"name {LABELS_MIN} to {count - 2}" if count - 2 > LABELS_MIN else "raise --pairs, or leave it out"
        raise UserError(f"--labelled {labelled}: {count} answered pairs differ in length; {allowed}")


def of_longer(wins: np.ndarray, is_longer: np.ndarray) -> np.ndarray:
    """(N,) wins of the first texts -> wins of the longer ones."""
    return np.where(is_longer, wins, 1 - wins)


def _length(asked: Asked, choice: np.ndarray) -> Length | None:
    gap = (asked.words[:, 0] - asked.words[:, 1]).astype(float)
    differs = gap != 0
    if differs.sum() < 2:
        return None
    ends = (asked.left[differs], asked.right[differs])
    judge, people = (of_longer(wins[differs], gap[differs] > 0) for wins in (choice, asked.human))
    effect = length_effect(choice, asked.human, gap / WORDS, asked.left, asked.right)
    return Length(
        int(differs.sum()),
        share_of_pairs(judge, *ends),
        share_of_pairs(people, *ends),
        interval_of_pairs(judge - people, *ends, bounds=(-1, 1)),
        effect.log_odds,
        effect.why_not,
    )
