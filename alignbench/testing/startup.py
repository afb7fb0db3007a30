"""Identities of the first step, where policy and reference are one, and of every number logged about KL.

Metrics are known by the field's names for them: `kl_nats_k1` is the mean over episodes of the sum over tokens of
log p - log p_ref in nats, a `ratio` is a probability ratio, `clip_fraction` a share of clipped tokens.
"""

from __future__ import annotations

import math

import torch

from alignbench.api import AlignmentMethod
from alignbench.testing.configs import variations
from alignbench.testing.kit import NotApplicable, Unmet, check, trains
from alignbench.testing.trials import MethodLab

TOLERANCE = 1e-5  # nats, and shares


@check(
    "method", "first_loss_is_the_declared_one", applies=lambda cls: trains(cls) and declares_loss(cls), traps=(6,),
    requires="The first loss, where policy and reference are one, equals loss_at_start(config) to 1e-5.",
    cause="reference log-probabilities that are left out, of another model, or of another sum than the policy's",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for options in variations(lab.cls.Config):
        expected = lab.cls().loss_at_start(lab.cls.Config(**options))
        if expected is None:
            continue
        losses = [row["loss"] for row in lab.ran(lab.calm(**options), steps=1).history if "loss" in row]
        if not losses:
            raise Unmet("train() logged no loss in its first step")
        loss = losses[0]
        if not math.isclose(loss, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise Unmet(f"the first loss is {loss:.7g} instead of {expected:.7g} with {options or 'the defaults'}")


@check(
    "method", "kl_starts_at_0_and_ratio_at_1", applies=trains, traps=(4,),
    requires="The first logged kl_nats_* is 0, the first ratio* is 1 and the first clip_fraction is 0, to 1e-5. What "
    "clipping does in later epochs, where the ratio has moved, no check looks at.",
    cause="log-probabilities of sampled tokens that a second pass does not reproduce (positions, padding, temperature, "
    "dropout), or a metric that is not what its name says",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    expected = {}
    for row in lab.ran().history:
        for name, value in row.items():
            wanted = start_value(name)
            if wanted is not None and name not in expected:
                expected[name] = wanted
                if abs(value - wanted) > TOLERANCE:
                    raise Unmet(f"the first {name} is {value:.6g} instead of {wanted:g}")
    if not expected:
        raise NotApplicable("it logs no kl_nats_*, ratio* or clip_fraction")


@check(
    "method", "reported_kl_is_the_policys", applies=trains, traps=(5,),
    requires="Each logged kl_nats_k1 equals the sum of log p - log p_ref over the episodes sampled before it, taken by "
    "independent unpadded passes, to 1e-4 nats.",
    cause="a KL that is clipped, averaged over tokens, masked wrongly, or of another pass than the one trained on",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    options = lab.calm(learning_rate=0.02, **SHORT)
    ran, compared = lab.ran(options, steps=6), 0
    first = 0
    for row, rounds in zip(ran.history, ran.tape.rounds_before_log, strict=True):
        if "kl_nats_k1" not in row or rounds == first:
            continue
        kl = torch.cat([one.kl_nats for one in ran.tape.rounds[first:rounds]]).mean()
        first = rounds
        compared += 1
        if abs(row["kl_nats_k1"] - float(kl)) > 1e-4:
            raise Unmet(f"round {compared}: logged {row['kl_nats_k1']:.6g} nats, the policy's are {float(kl):.6g}")
    if not compared:
        raise NotApplicable("it samples nothing, or logs no kl_nats_k1")


@check(
    "method", "logprobs_are_asked_at_the_sampling_temperature", shapes=("llama",), applies=trains, traps=(3,),
    requires="Log-probabilities of sampled sequences are asked at the temperature they were sampled with.",
    cause="sample(temperature=T) without the same `temperature=T` in logprobs(), reference_logprobs() or "
    "actor_critic(); leave it out of all of them: the suite's `temperature` is then meant everywhere",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for temperature in (1.0, 0.7):
        asked = lab.ran(temperature=temperature).tape.asked
        if not asked:
            raise NotApplicable("it asks no log-probabilities of sampled sequences")
        for sampled, seen in asked:
            if sampled != seen:
                raise Unmet(f"sampled at {sampled:g}, asked at {seen:g}")


SHORT = {"rollout_batch_size": 16, "num_ppo_epochs": 1}  # several rounds in few steps, where a method has such options


def start_value(metric: str) -> float | None:
    """What a metric of this name is where policy and reference are one."""
    if metric.startswith("kl_nats") or metric == "clip_fraction":
        return 0.0
    return 1.0 if metric.startswith("ratio") else None


def declares_loss(cls: type[AlignmentMethod]) -> bool:
    return cls.loss_at_start is not AlignmentMethod.loss_at_start
