"""What every fit keeps in a checkpoint and takes back from it: weights, optimiser, states of sequences seen, history,
cost, generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignbench.engine.checkpoint import Checkpoints, Saved, set_global_generators
from alignbench.engine.meter import Meter
from alignbench.engine.optim import Optimizer
from alignbench.engine.passes import Passes

History = list[dict[str, float]]


def keep(
    checkpoints: Checkpoints, passes: Passes, weights: Sequence[Tensor], optimizer: Optimizer | None, history: History,
    meter: Meter, tensors: Mapping[str, Tensor] | None = None, values: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Save the state of a fit, with whatever else it has to remember."""
    stepped, schedule = ({}, None) if optimizer is None else optimizer.state()
    named = {f"weight.{i}": weight for i, weight in enumerate(weights)}
    facts = {"optimizer": schedule, "history": history, "meter": meter.state()}
    checkpoints.save({**named, **stepped, **passes.kept(), **(tensors or {})}, {**facts, **(values or {})})


def misfit(saved: Saved, weights: Sequence[Tensor]) -> str | None:
    """Why these weights are not those that were saved, or None if they are."""
    count = sum(name.startswith("weight.") for name in saved.tensors)
    if count != len(weights):
        return f"it holds {count} weights, and {len(weights)} are trained"
    shapes = [saved.tensors[f"weight.{i}"].shape for i in range(count)]
    return None if shapes == [w.shape for w in weights] else "its weights have other shapes"


def take_back(
    saved: Saved, passes: Passes, weights: Sequence[Tensor], optimizer: Optimizer | None, history: History, meter: Meter
) -> None:
    """Put a saved state in place, the global generators last: what makes a fit ready may draw from them."""
    with torch.no_grad():
        for i, weight in enumerate(weights):
            weight.copy_(saved.tensors[f"weight.{i}"])
    if optimizer is not None and saved.values["optimizer"] is not None:
        optimizer.restore(saved.tensors, saved.values["optimizer"])
    passes.restore(saved.tensors)
    history[:] = saved.values["history"]
    meter.resume(saved.values["meter"])
    set_global_generators(saved)


def resumed(checkpoints: Checkpoints, passes: Passes, optimizer: Optimizer, history: History, meter: Meter) -> int:
    """Take a fit back to its last checkpoint, if there is one. Returns the steps that are behind it."""
    saved = checkpoints.found
    if saved is None:
        return 0
    if (reason := misfit(saved, optimizer.trained)) is not None:
        checkpoints.refuse(reason)
        return 0
    take_back(saved, passes, optimizer.trained, optimizer, history, meter)
    checkpoints.let_go()
    return optimizer.steps
