"""What must not matter to a training run: padding, how a batch is cut into passes; and what must: every trained token.

Compared are the gradients of all trained weights at each optimiser step: AdamW hides a wrong scale, and a wrong
weighting of tokens moves a policy little in a few steps.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import torch
from pydantic import ValidationError

from alignbench.testing.configs import own_choices
from alignbench.testing.kit import NotApplicable, Unmet, check, trains
from alignbench.testing.startup import SHORT
from alignbench.testing.tape import Tape, rows_of
from alignbench.testing.trials import MethodLab, Ran

FIRST, LATER = 1e-4, 1e-2  # relative; rounding differences grow through AdamW from the second step on


@check(
    "method", "padding_changes_nothing", applies=trains, traps=(11, 16),
    requires="Three more columns of padding in every batch, whatever token fills them, leave gradients, logged numbers "
    "and the trained policy as they are.",
    cause="a mean, a sum, a whitening or a recursion over (B, T) values without `is_response`",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for choice in own_choices(lab.cls.Config):
        options = lab.calm(**SHORT, **choice)
        plain, said = lab.ran(options, steps=4), in_words(choice)
        for filler in (0, 1):  # the end token, which is the padding token here, and a letter
            same(plain, lab.ran(options, steps=4, filler=filler), f"with wider padding{said}")


@check(
    "method", "accumulation_changes_nothing", applies=trains, traps=(29,),
    requires="Eight passes of one item per optimiser step give the gradients of one pass of eight.",
    cause="a loss that is a mean over tokens, stepped without `count=` the number of its tokens",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for choice in own_choices(lab.cls.Config):
        cuts = [
            lab.calm(**choice, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size)
            for size in (8, 1)
        ]
        try:
            whole, parts = (lab.ran(options) for options in cuts if lab.cls.Config(**options))
        except ValidationError as refusal:
            raise NotApplicable(f"its Config refuses such batches: {refusal.errors()[0]['msg']}") from None
        if (one := sampled(whole)) != (eight := sampled(parts)):  # in groups, say, which a batch of one cannot hold
            raise NotApplicable(f"it samples {one} texts in the one run and {eight} in the other")
        compare_gradients(whole, parts, f"in eight passes of one{in_words(choice)}")


@check(
    "method", "every_trained_token_has_gradient", applies=trains, traps=(17, 20),
    requires="The first loss has a gradient to the log-probability of each response token of each sequence it was "
    "computed from, the last and the end-of-sequence token included.",
    cause="a mask shifted or cut by a column, of other rows than the values it is laid over, or not a mask at all",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for options in (lab.calm(), lab.calm(per_device_train_batch_size=5)):
        steps = lab.ran(options, steps=2).tape.steps
        if not steps or not steps[0]:
            raise NotApplicable("it reads log-probabilities by a way of its own")
        for one in steps[0]:
            if one.grad is None:
                raise Unmet("the loss does not depend on log-probabilities that were asked with gradient")
            without = one.tokens.is_response & (one.grad == 0)
            if without.any():
                row, column = without.nonzero()[0].tolist()
                raise Unmet(
                    f"{int(without.sum())} of {int(one.tokens.is_response.sum())} response tokens have none; the first "
                    f"is token {column} of sequence {row}"
                )


@check(
    "method", "better_texts_are_pushed_up", applies=trains, traps=(10, 12, 18, 19),
    requires="The first loss raises what scored better above what scored worse after the same prompt, and chosen above "
    "rejected, in 4 of 5 comparisons at least.",
    cause="a score that is lost or misplaced (past the last token); advantages whitened over the wrong axis or over a "
    "group of one; values of other rows, or in a mask's place",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    tape = lab.ran(steps=1, is_known=True).tape
    hits = pushes_in_order(tape)
    if not hits:
        raise NotApplicable("it trains on texts that carry neither a score nor a label")
    share = sum(hits) / len(hits)
    if share < 0.8:
        raise Unmet(f"{share:.0%} of {len(hits)} comparisons are in order")


# -------------------------------------------------------------------------------------------------------------- helpers


def sampled(ran: Ran) -> int:
    """How many texts the method drew in all."""
    return sum(len(one.kl_nats) for one in ran.tape.rounds)


def same(plain: Ran, other: Ran, how: str) -> None:
    """Unmet where two runs differ in a logged number, a gradient or the policy they end in."""
    for number, (a, b) in enumerate(zip(plain.history, other.history, strict=True)):
        for name in a:
            if abs(a[name] - b[name]) > 1e-4 * max(1.0, abs(a[name])):
                raise Unmet(f"logged row {number}: {name} is {a[name]:.6g}, and {b[name]:.6g} {how}")
    compare_gradients(plain, other, how)
    gap = float((plain.probe - other.probe).abs().max())
    if gap > 1e-4:
        raise Unmet(f"the trained policy's log-probabilities differ by up to {gap:.3g} nats {how}")


def in_words(choice: dict[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in choice.items())


def compare_gradients(plain: Ran, other: Ran, how: str) -> None:
    mine, theirs = plain.tape.gradients, other.tape.gradients
    if len(mine) != len(theirs):
        raise Unmet(f"{len(mine)} optimiser steps, and {len(theirs)} {how}")
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        gap = float(torch.linalg.norm(a - b) / torch.linalg.norm(a).clamp_min(1e-12))
        if gap > (FIRST if step == 0 else LATER):
            raise Unmet(f"the gradient of step {step} differs by {gap:.2g} of its norm {how}")


def pushes_in_order(tape: Tape) -> list[bool]:
    """For each two texts of the first loss that a score or a label tells apart: whether the better one is raised more.
    Of a scored text the last token counts, where the score is paid; of a labelled one all together."""
    scored: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)  # prompt -> (score, push)
    chosen: list[float] = []
    rejected: list[float] = []
    for one in tape.steps[0] if tape.steps else []:
        if one.grad is None:
            continue
        for row, real, response, grad in zip(rows_of(one.tokens), *one.tokens[1:], one.grad, strict=True):
            if row in tape.rewards:
                prompt = row[: int(real.sum() - response.sum())]
                scored[prompt].append((tape.rewards[row], -float(grad[response][-1])))
            elif (row in tape.chosen) != (row in tape.rejected):
                (chosen if row in tape.chosen else rejected).append(-float(grad[response].sum()))
    apart = [(a, b) for texts in scored.values() for a, b in combinations(texts, 2) if abs(a[0] - b[0]) > 1e-6]
    return [(a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in apart] + [up > down for up in chosen for down in rejected]
