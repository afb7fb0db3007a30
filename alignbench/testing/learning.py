"""Learning checks of a method: it ends near the optimum of its own objective, which on the oracle task is a table.

The optimum of E[r] - beta KL(policy || start) is pi* proportional to pi_start exp(r / beta). Every completion can be
listed there, so nothing measured here is an estimate.
"""

from __future__ import annotations

from typing import Any

from alignbench.api import AlignmentMethod
from alignbench.scoring import closed_form
from alignbench.testing.kit import NotApplicable, Unmet, check, trains
from alignbench.testing.trials import MethodLab, Ran

GATE = 0.06  # total variation; the start is 0.27 to 0.39 from the optimum, shipped methods end at 0.01 to 0.03
STEPS = 60
LONGER = 150  # for gradients of high variance
# Options by the field's names for them, each where the method has it: large batches, one pass over each, advantages
# without bias, no bonus.
PLAIN = {
    "learning_rate": 5e-3, "per_device_train_batch_size": 234, "rollout_batch_size": 120, "num_ppo_epochs": 1,
    "lam": 1.0, "ent_coef": 0.0,
}  # fmt: skip
WORLD: dict[str, Any] = {
    "lora": {"r": 8, "alpha": 16}, "is_known": True, "comparisons": {"source": "human", "pairs": 2340},
    "reward_model": {"learning_rate": 0.003, "per_device_train_batch_size": 117},
}  # fmt: skip


def moves(cls: type[AlignmentMethod]) -> bool:
    return trains(cls) and cls.kl_knob is not None


def learns(cls: type[AlignmentMethod]) -> bool:
    return trains(cls) and not cls.is_control


@check(
    "method", "ends_near_its_optimum", speed="learning", applies=trains, traps=(13,),
    requires=f"After {STEPS} steps the total variation to the optimum of its objective is below {GATE}; a method that "
    f"has come half the way by then may take {LONGER}.",
    cause="a gradient that is not the objective's: of the KL term above all, then of scores, values and masks",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    beta = lab.cls().beta(lab.cls.Config(**options(lab)))
    if beta is None:
        raise NotApplicable("it declares no beta: its optimum has no closed form")
    for steps in (STEPS, LONGER):
        before, after = distances(learned(lab, steps=steps), beta)
        if after < GATE:
            return
        if not after < before / 2:
            break
    raise Unmet(f"the total variation is {after:.3f} after {steps} steps, from {before:.3f} at the start")


@check(
    "method", "turned_labels_turn_the_policy", speed="learning", shapes=("llama",), applies=learns,
    requires="Training raises the expected reward, and lowers it with chosen and rejected, or the sign, exchanged.",
    cause="a sign, an absolute value, or a signal that does not depend on labels and rewards",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    straight, turned = learned(lab).listing.gain, learned(lab, is_turned=True).listing.gain
    if not straight > 0 > turned:
        raise Unmet(f"the expected reward changed by {straight:+.3f}, and by {turned:+.3f} with labels turned round")


@check(
    "method", "a_larger_knob_ends_nearer", speed="learning", shapes=("llama",), applies=moves, traps=(8,),
    requires="Eight times the `kl_knob` ends at two thirds of the KL from the start at most.",
    cause="a KL term with the wrong sign, or a knob that is divided by where it should multiply",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    knob, value = str(lab.cls.kl_knob), options(lab)[str(lab.cls.kl_knob)]
    far, near = (learned(lab, **{knob: value * factor}).listing.kl_nats for factor in (0.5, 4.0))
    if not near < 2 / 3 * far:
        raise Unmet(f"{near:.3f} nats at {knob} = {value * 4:g}, {far:.3f} at {value / 2:g}")


def options(lab: MethodLab) -> dict[str, Any]:
    """The method's options: the plain ones, and a KL strength of 1, at which rewards of about 2 points move a policy
    well and leave it a policy."""
    knob = {} if lab.cls.kl_knob is None else {lab.cls.kl_knob: 1.0}
    return lab.known({**PLAIN, **knob})


def distances(ran: Ran, beta: float) -> tuple[float, float]:
    """Total variation of the start, and of the policy, to the optimum: mean over prompts."""
    policy, start, rewards = ran.listing
    best = closed_form.optimum(start, rewards, beta)
    before, after = (float(closed_form.total_variation(log_p, best).mean()) for log_p in (start, policy))
    return before, after


def learned(lab: MethodLab, *, is_turned: bool = False, steps: int = STEPS, **changes: Any) -> Ran:
    return lab.ran({**options(lab), **changes}, steps=steps, is_turned=is_turned, is_taped=False, **WORLD)
