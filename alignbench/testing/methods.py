"""Contract checks of a method: what the harness relies on whenever it runs one."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from alignbench.api import NEEDS, MethodConfig
from alignbench.engine.device import isolated
from alignbench.stages.train import open_trial
from alignbench.stages.work import HarnessWork
from alignbench.testing.configs import noting_reads, variations
from alignbench.testing.kit import NotApplicable, Unmet, check, trains
from alignbench.testing.stops import Resuming, Stopped, Stopping
from alignbench.testing.trials import MethodLab, adapter_of
from alignbench.testing.writes import watching_writes

LLAMA = ("llama",)
RESUME_STEPS = (4, 16, 64)  # budgets tried until one holds two batches


@check(
    "method", "declared_needs_are_what_it_uses", shapes=LLAMA, applies=trains,
    requires=f"`needs` names what train() asks the trial for, of {', '.join(sorted(NEEDS))}.",
    cause="a name missing from the class's `needs`; the default recipe makes nothing that is not named there",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    if surplus := lab.ran().tape.used - lab.cls.needs:
        raise Unmet(f"train() used {', '.join(sorted(surplus))}; needs = {sorted(lab.cls.needs)}")


@check(
    "method", "config_survives_yaml", shapes=LLAMA,
    requires="A Config written to YAML and read back equals itself, for every choice it offers.",
    cause="a field of a type that YAML does not have, or a validator that changes what it accepts",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for options in variations(lab.cls.Config):
        config = lab.cls.Config(**options)
        written = yaml.safe_dump(config.model_dump(mode="json"))
        back = lab.cls.Config(**yaml.safe_load(written))
        if back != config:
            raise Unmet(f"{config!r} came back as {back!r}")


@check(
    "method", "every_config_field_is_read", shapes=LLAMA,
    requires="recipe(), train(), decoding() and the optimiser together read every field, over all choices offered.",
    cause="an option that does nothing; remove it, or read it",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    read: set[str] = set()

    twin = lab.with_config(noting_reads(lab.cls.Config, read))
    for options in variations(lab.cls.Config):
        if trains(lab.cls):
            twin.run(options, steps=1)
        else:
            twin.plan(options)
    fields = set(lab.cls.Config.model_fields)
    if not trains(lab.cls):
        fields -= set(MethodConfig.model_fields)  # options of an optimiser that never runs
    if unread := fields - read:
        raise Unmet(f"never read: {', '.join(sorted(unread))}")


@check(
    "method", "zero_budget_changes_nothing", applies=trains,
    requires="With a budget of 0 steps the policy's weights stay bit-identical, and its KL is exactly 0.",
    cause="an optimiser step, or an in-place change of weights, outside the budget",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    ran = lab.ran(steps=0)
    if moved := changed(ran.weights_at_start, ran.weights):
        raise Unmet(f"{len(moved)} of {len(ran.weights)} weight tensors changed, {moved[0]} first")
    if ran.kl_nats != 0:
        raise Unmet(f"the KL is {ran.kl_nats:.3g} nats")


@check(
    "method", "training_moves_the_policy", shapes=LLAMA, applies=trains,
    requires="With a budget of a few steps the policy's weights change.",
    cause="a loss without gradient to the policy, or a loop that never steps",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    ran = lab.ran()
    if not changed(ran.weights_at_start, ran.weights):
        raise Unmet(f"no weight changed in {ran.steps_used} steps")


@check(
    "method", "budget_is_never_exceeded", shapes=LLAMA, applies=trains,
    requires="The steps of all optimisers of torch together, and those counted by the budget, are no more than it "
    "allows; weights that train() changes by hand are not counted.",
    cause="a loop that does not ask `trial.budget.is_spent`, or an optimiser of the method's own that is not counted",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    for steps in (1, 3):
        ran = lab.ran(steps=steps)
        if len(ran.tape.gradients) > steps or ran.steps_used > steps:
            raise Unmet(f"{len(ran.tape.gradients)} optimiser steps in a budget of {steps} ({ran.steps_used} counted)")


@check(
    "method", "same_seed_same_bits", shapes=LLAMA, applies=trains,
    requires="Two runs with one seed end bit-identical, and another seed ends elsewhere.",
    cause="a draw from something that the seed does not set: time, a set's order, an unseeded generator; or a seed of "
    "the method's own that overrides the run's",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    first, again, other = lab.ran(), lab.run(lab.calm()), lab.ran(seed=1)
    if moved := changed(first.weights, again.weights):
        raise Unmet(f"two runs with seed 0 differ in {len(moved)} weight tensors, {moved[0]} first")
    if not changed(first.weights, other.weights) or torch.equal(first.tape.gradients[0], other.tape.gradients[0]):
        raise Unmet("seeds 0 and 1 gave the same run")


@check(
    "method", "resume_is_bit_identical", shapes=LLAMA, applies=trains,
    requires="A run stopped between two batches and resumed from its checkpoint by a new process ends with the bits, "
    "the history and the counts of one that was not stopped.",
    cause="a number, a generator or an optimiser of the method's own that is not in `trial.state`, or a `trial.state` "
    "that is read before the first batch",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    options = lab.calm(rollout_batch_size=8, num_ppo_epochs=1, kl_controller="adaptive", kl_horizon=10)
    for steps in RESUME_STEPS:
        with tempfile.TemporaryDirectory() as folder:
            seen = [_resumed_at(lab, options, steps, at, Path(folder, str(at))) for at in (1, 2)]
        if ends := [end for end in seen if end is not None]:
            break
    else:
        raise NotApplicable(f"it asks for no second batch in {RESUME_STEPS[-1]} steps: it could only begin anew")
    whole = _ended(lab, options, steps)
    for place, end in enumerate(ends, start=1):
        if moved := changed(whole.weights, end.weights):
            raise Unmet(f"resumed at its checkpoint {place}, {len(moved)} weight tensors differ, {moved[0]} first")
        if end.history != whole.history:
            raise Unmet(f"resumed at its checkpoint {place}, the history is another one")
        if end.counts != whole.counts:
            raise Unmet(f"resumed at its checkpoint {place}, it counts {end.counts} instead of {whole.counts}")


@check(
    "method", "surroundings_are_restored", shapes=LLAMA, applies=trains,
    requires="After the run the global generators, default dtype, grad mode, working directory and thread count are as "
    "before.",
    cause="a global setting that train() changes; all but the generators it must restore itself",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    generators = _generators()
    with lab.working(lab.calm()) as work:
        before = _settings()
        with isolated(work.seed):
            _train(work)
            inside = _settings()
        after = _settings()
    for name, value in before.items():
        for when, settings in (("train()", inside), ("the stage", after)):
            if settings[name] != value:
                raise Unmet(f"{name} was {value} and is {settings[name]} after {when}")
    if _generators() != generators:
        raise Unmet("a global random generator is in another state after the run")


@check(
    "method", "files_stay_in_workdir", shapes=LLAMA, applies=trains,
    requires="train() writes no file outside `trial.workdir`, be it by Python's own calls, safetensors or torch.save.",
    cause="a path relative to the working directory; build it from `trial.workdir`",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    outside: list[str] = []
    with lab.opened(lab.calm()) as (trial, method, config, _, _), tempfile.TemporaryDirectory() as empty:
        home = Path.cwd()
        os.chdir(empty)
        try:
            with watching_writes(outside):
                method.train(trial, config)
            left = [str(path.relative_to(empty)) for path in Path(empty).rglob("*")]
        finally:
            os.chdir(home)
        inside = trial.workdir.resolve()
        written = [path for path in outside if inside not in Path(empty, path).resolve().parents]
    if written or left:
        raise Unmet(f"written outside: {', '.join(dict.fromkeys([*left, *written]))}")


@check(
    "method", "only_added_weights_change", applies=trains,
    requires="Base and start weights keep their digest, and the reference gives the same log-probabilities, while the "
    "policy moves.",
    cause="an optimiser over `trial.policy.parameters()` without `requires_grad`, a merge, or weights trained in place",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    ran = lab.ran()
    if ran.frozen[0] != ran.frozen[1]:
        raise Unmet("weights below the adapter changed")
    if not torch.equal(*ran.reference):
        gap = (ran.reference[0] - ran.reference[1]).abs().max()
        raise Unmet(f"the reference's log-probabilities moved by up to {gap:.3g} nats")
    if ran.kl_nats == 0:
        raise Unmet("the policy's KL from the reference is 0 after training: the two are one")


# -------------------------------------------------------------------------------------------------------------- helpers


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that differ in any bit, and of those that only one side has."""
    return [n for n in {**before, **after} if n not in before or n not in after or not torch.equal(before[n], after[n])]


class End(NamedTuple):
    """What a run that may have been stopped is compared by."""

    weights: dict[str, torch.Tensor]
    history: str  # as text: in numbers, a NaN is not itself
    counts: dict[str, int]


def _resumed_at(lab: MethodLab, options: Mapping[str, Any], steps: int, at: int, scratch: Path) -> End | None:
    """The end of a run stopped at its `at`-th checkpoint and resumed; None if it has fewer."""
    try:
        _ended(lab, options, steps, scratch=scratch, checkpoints=lambda folder: Stopping(folder, at))
    except Stopped:
        return _ended(lab, options, steps, scratch=scratch, checkpoints=Resuming)
    return None


def _ended(lab: MethodLab, options: Mapping[str, Any], steps: int, **where: Any) -> End:
    with lab.opened(options, steps=steps, **where) as (trial, method, config, resident, work):
        method.train(trial, config)
        return End(adapter_of(resident), json.dumps(trial.history), dict(work.meter.counts))


def _train(work: HarnessWork) -> None:
    with ExitStack() as stack:
        run = open_trial(work, stack)
        run.method.train(run.trial, run.config)


def _generators() -> list[Any]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "working directory": str(Path.cwd()),
        "thread count": torch.get_num_threads(),
    }
