"""Put a task's human pairs to a reward source, in an order that knows nothing of the label, and audit the answers.

    audited(Judged(source, distribution, room), drawn(pairs, count, seed), human_accuracy)

The source is called without the guard of training (`feedback.checked`), which takes no NaN: here that is an answer that
did not come. What it raises is a PluginError. Beside it stands the control, a judge that names the longer text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from alignbench.api import Config, Pair, RewardSource, Rubric, SourceRoom
from alignbench.errors import OWN, PluginError, UserError, blamed
from alignbench.feedback.length import Length
from alignbench.scoring.judge_audit import (
    Answers,
    Asked,
    Audit,
    Corrected,
    Stability,
    audit,
    check_labelled,
    corrected_win_rate,
    stability,
)
from alignbench.scoring.reward_card import text_codes


class Questions(NamedTuple):
    prompts: list[str]
    first: list[str]
    second: list[str]
    asked: Asked


class Judged(NamedTuple):
    """A source that is not prepared yet."""

    source: RewardSource
    config: Config
    distribution: str  # whose it is
    room: SourceRoom

    def blamed(self, step: str) -> AbstractContextManager[None]:
        return blamed(self.source.name, self.distribution, step)


class Wording(NamedTuple):
    guideline: str
    found: Stability | None  # None: it has too few answers


class Found(NamedTuple):
    judge: str
    human_accuracy: float | None  # of one rater, over all held-out pairs: the ceiling
    audit: Audit
    control: Audit  # of the length of a text
    wordings: list[Wording] | None  # None: the source has no wording
    corrected: Corrected | None  # None: too few pairs differ in length


def audited(
    judged: Judged, questions: Questions, human_accuracy: float | None, labelled: int | None = None,
    wordings: Sequence[str] | None = None,
) -> Found:  # fmt: skip
    """`labelled` as in `corrected_win_rate`; `wordings`: other guidelines, by default those of `rewordings`.
    UserError if fewer than two pairs are answered."""
    source, distribution = judged.source, judged.distribution
    if labelled is not None:  # before the model is asked anything; what it leaves unanswered may still be too much
        check_labelled(labelled, int((questions.asked.words[:, 0] != questions.asked.words[:, 1]).sum()))
    with judged.blamed("prepare()"):
        source.prepare(judged.room)
    answers = in_both_orders(source, questions, distribution)
    if answers.is_whole.sum() < 2:
        told = f"answered {int(answers.is_whole.sum())} of {len(questions.first)} pairs in both orders"
        raise UserError(f"source '{source.name}' {told}: nothing to audit; raise --pairs or mend the source")
    corrected = corrected_win_rate(questions.asked, answers, labelled)
    control = in_both_orders(Length(Length.Config()), questions, OWN)
    asked, others = questions.asked, []
    for guideline in wordings or rewordings(judged.room.rubric):
        with judged.blamed("its Config"):
            config = reworded(judged.config, guideline)
        if config is not None:
            others.append(Wording(guideline, stability(answers, _in_words_of(judged, config, questions), asked)))
    return Found(source.name, human_accuracy, audit(asked, answers), audit(asked, control), others or None, corrected)


def drawn(pairs: Sequence[Pair], count: int, seed: int) -> Questions:
    """`count` of the pairs in random order, each with its texts in random order."""
    rng = random.Random(f"judge {seed}")
    taken = rng.sample(list(pairs), count)
    is_turned = [rng.random() < 0.5 for _ in taken]
    shown = [Pair(p.prompt, p.rejected, p.chosen) if turned else p for p, turned in zip(taken, is_turned, strict=True)]
    words = np.array([[len(p.chosen.split()), len(p.rejected.split())] for p in shown])
    asked = Asked(1 - np.array(is_turned, dtype=float), words, *text_codes(shown))
    return Questions([p.prompt for p in shown], [p.chosen for p in shown], [p.rejected for p in shown], asked)


@torch.no_grad()
def in_both_orders(source: RewardSource, questions: Questions, distribution: str) -> Answers:
    """By `prefer_once`. PluginError if what comes back is no probability; NaN is no answer."""
    prompts, first, second, _ = questions

    def once(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        return _shares(lambda: source.prefer_once(prompts, a, b), len(prompts), "prefer_once", source, distribution)

    return Answers(once(first, second), once(second, first))


@torch.no_grad()
def in_one_order(source: RewardSource, questions: Questions, distribution: str) -> Answers:
    """By `prefer`, which is to be the same in both orders: for half the price."""
    prompts, first, second, _ = questions
    share = _shares(lambda: source.prefer(prompts, first, second), len(prompts), "prefer", source, distribution)
    return Answers(share, 1 - share)


def reworded(config: Config, guideline: str) -> Config | None:
    """The options with this guideline alone. None: they have no `guidelines` that may be it."""
    if "guidelines" not in type(config).model_fields:
        return None
    try:
        return type(config).model_validate({**dict(config), "guidelines": (guideline,)})
    except ValidationError:
        return None


def _in_words_of(judged: Judged, config: Config, questions: Questions) -> Answers:
    with judged.blamed("__init__()"):
        other = type(judged.source)(config)
    with judged.blamed("prepare()"):
        other.prepare(judged.room)
    return in_one_order(other, questions, judged.distribution)


def rewordings(rubric: Rubric) -> tuple[str, ...]:
    """The task's guideline in other words, all of them the rubric's own."""
    subject, quality, best, worst = rubric.subject.lower(), rubric.quality, rubric.best, rubric.worst
    return (
        f"Give each {subject} one label. {quality}: {best} or {worst}.",
        f"Here is a {subject}. Read it closely, then answer with {best} or {worst} under the heading {quality}.",
        f"You are an expert reader. For every {subject} below, fill in its {quality}, either {worst} or {best}.",
    )


def _shares(call: Callable[[], Tensor], count: int, name: str, source: RewardSource, distribution: str) -> np.ndarray:
    """(B,) float64, 0 to 1 or NaN."""
    with blamed(source.name, distribution, f"{name}()"):
        values = call()
        if seen := _unlike(values, count):
            problem = f"{name}() of {count} pairs returned {seen}; return a float32 tensor of shape ({count},)"
            raise PluginError(source.name, distribution, problem)
        shares = values.detach().double().cpu().numpy()  # may raise too, of a tensor without values
    answered = shares[~np.isnan(shares)]
    if ((answered < 0) | (answered > 1)).any():
        ends = f"{answered.min():.3g} to {answered.max():.3g}"
        raise PluginError(source.name, distribution, f"{name}() returned {ends}; allowed: 0 to 1, or NaN for no answer")
    return shares


def _unlike(values: object, count: int) -> str | None:
    """What is returned instead of `count` real numbers."""
    if not isinstance(values, Tensor):
        return f"a {type(values).__name__}"
    if values.layout is not torch.strided or values.is_complex():
        return f"a tensor of {values.dtype}, {values.layout}"
    return None if tuple(values.shape) == (count,) else f"shape {tuple(values.shape)}"
