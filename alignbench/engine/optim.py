"""The one optimisation step every method and every fitted stage takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.api import OptimizerConfig

Group = tuple[Sequence[nn.Parameter], float]  # parameters and their peak learning rate


class Optimizer:
    """AdamW with clipping, warm-up and schedule. Weights below float32 are stepped through float32 masters, because a
    bfloat16 weight of 1.0 cannot take an update smaller than 0.004."""

    def __init__(self, groups: Sequence[Group], config: OptimizerConfig, max_steps: int) -> None:
        self.config = config
        self.steps = 0
        self.trained: list[nn.Parameter] = [p for parameters, _ in groups for p in parameters]
        self._pending, self._items = 0, 0.0  # passes and items since the last step
        self._masters = {p: p.detach().float().clone() for p in self.trained if p.dtype != torch.float32}
        self._adamw = torch.optim.AdamW(
            [{"params": [self._masters.get(p, p) for p in parameters], "lr": rate} for parameters, rate in groups],
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adamw, _schedule(config, max_steps))

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient; the step divides nothing."""
        loss.backward()

    def add(self, loss: Tensor, count: float) -> None:
        """Backward for a part of the next pass's loss."""
        self.backward(loss if self.config.gradient_accumulation_steps == 1 else loss * count)

    def accumulate(self, loss: Tensor, count: float) -> bool:
        """Backward for a mean over `count` items; True when the step was taken, on the mean over the items of all its
        passes. A mean of the passes' means would weigh an item by its pass."""
        self.add(loss, count)
        if self.config.gradient_accumulation_steps == 1:
            self.step()
            return True
        self._pending, self._items = self._pending + 1, self._items + count
        if self._pending < self.config.gradient_accumulation_steps:
            return False
        for p in self.trained:
            if p.grad is not None:
                p.grad /= self._items
        self.step()
        return True

    def step(self) -> float:
        """Clip, step, schedule. Returns the gradient's norm before clipping."""
        self._pending, self._items = 0, 0.0
        for weight, master in self._masters.items():
            master.grad = None if weight.grad is None else weight.grad.float()
        stepped = [self._masters.get(p, p) for p in self.trained]
        norm = torch.nn.utils.clip_grad_norm_(stepped, self.config.max_grad_norm, error_if_nonfinite=True)
        self._adamw.step()
        self._schedule.step()
        with torch.no_grad():
            for weight, master in self._masters.items():
                weight.copy_(master)
        for p in self.trained:
            p.grad = None
        self.steps += 1
        return float(norm)

    @property
    def is_mid_step(self) -> bool:
        """Whether passes wait for others to make a step of."""
        return self._pending > 0

    @property
    def is_between_steps(self) -> bool:
        """Whether no pass waits for its step: a gradient half gathered is in no checkpoint."""
        return self._pending == 0 and all(p.grad is None for p in self.trained)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """AdamW's moments and the float32 masters by name, and JSON values. The weights are their owner's to save."""
        tensors = {f"master.{i}": self._masters[p] for i, p in enumerate(self.trained) if p in self._masters}
        for i, p in enumerate(self.trained):
            for name, value in self._adamw.state.get(self._masters.get(p, p), {}).items():
                tensors[f"adamw.{i}.{name}"] = value
        schedule = {k: v for k, v in self._schedule.state_dict().items() if k != "lr_lambdas"}  # made from the config
        rates = [group["lr"] for group in self._adamw.param_groups]
        return tensors, {"steps": self.steps, "rates": rates, "schedule": schedule}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        with torch.no_grad():
            for i, p in enumerate(self.trained):
                if p in self._masters:
                    self._masters[p].copy_(tensors[f"master.{i}"])
        for i, p in enumerate(self.trained):
            moments = {
                name: tensors[f"adamw.{i}.{name}"].to(p.device, copy=True)
                for name in ("step", "exp_avg", "exp_avg_sq")
                if f"adamw.{i}.{name}" in tensors
            }
            if moments:
                self._adamw.state[self._masters.get(p, p)] = moments
        for group, rate in zip(self._adamw.param_groups, values["rates"], strict=True):
            group["lr"] = rate
        lambdas = [None] * len(self._schedule.lr_lambdas)
        self._schedule.load_state_dict({**values["schedule"], "lr_lambdas": lambdas})
        self.steps = values["steps"]


def _schedule(config: OptimizerConfig, max_steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.lr_scheduler_type == "constant":
            return 1.0
        return max(0.0, (max_steps - step) / max(1, max_steps - config.warmup_steps))

    return factor


def checked(loss: Tensor, metrics: dict[str, float]) -> float:
    """The loss as a number. FloatingPointError that names the step's metrics if it is not finite."""
    value = float(loss.detach())
    if not math.isfinite(value):
        seen = ", ".join(f"{k}={v:.4g}" for k, v in metrics.items()) or "no metrics logged"
        raise FloatingPointError(f"the loss is {value}; {seen}")
    return value
