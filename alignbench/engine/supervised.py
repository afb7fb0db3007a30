"""Supervised fine-tuning with the prompt masked out of the loss (stage 1 of Ouyang et al. 2022, arXiv:2203.02155).

The loss is the mean over response tokens of the whole optimiser step, not a mean of batch means, so that 1 x 8 and
8 x 1 accumulation give the same step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from alignbench.api import Demonstration, TokenBatch
from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.meter import Meter
from alignbench.engine.optim import Optimizer, checked
from alignbench.engine.resident import Resident
from alignbench.engine.resume import History, keep, resumed
from alignbench.errors import UserError
from alignbench.suite.spec import Training


def fit_supervised(
    resident: Resident,
    demonstrations: Sequence[Demonstration],
    config: Training,
    *,
    seed: int,
    max_new_tokens: int,
    meter: Meter,
    adapter: str = "sft",
    progress: Callable[..., None] = lambda done, total, **numbers: None,
    checkpoints: Checkpoints = Checkpoints(None, 0),  # noqa: B008  # it is off, and keeps nothing
) -> list[dict[str, float]]:
    """Train adapter `adapter` for `config.max_steps`. Returns the loss per step, nats per response token."""
    if not demonstrations:
        raise UserError("the supervised start has no demonstrations; check the task's data")
    weights = resident.add_adapter(adapter, seed, config.layers)
    optimizer = Optimizer([(weights, config.learning_rate)], config, config.max_steps)
    rng, waiting = random.Random(seed), list[int]()
    history: History = []
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    resident.module.train(resident.lora.dropout > 0)  # dropout is for here and for the reward model's fit, as in TRL
    begun = resumed(checkpoints, resident.passes, optimizer, history, meter)
    for step in range(config.max_steps):
        while len(waiting) < per_step:
            waiting += rng.sample(range(len(demonstrations)), len(demonstrations))
        rows, waiting = waiting[:per_step], waiting[per_step:]
        if step < begun:  # drawn again, so that the order goes on as it was
            continue
        if step > begun and checkpoints.is_due():
            keep(checkpoints, resident.passes, weights, optimizer, history, meter)
        taken = [demonstrations[row] for row in rows]
        batches = [
            resident.codec.encode([d.prompt for d in part], [d.completion for d in part], max_new_tokens=max_new_tokens)
            for part in _parts(taken, config.per_device_train_batch_size)
        ]
        loss = supervised_step(resident, batches, optimizer)
        history.append({"step": step, "loss": loss})
        meter.add(tokens_trained=sum(int(b.is_token.sum()) for b in batches))
        progress(step + 1, config.max_steps, loss=loss)
    resident.module.eval()
    return history


def supervised_step(resident: Resident, batches: Sequence[TokenBatch], optimizer: Optimizer) -> float:
    """One optimiser step over several batches. Returns the mean loss per response token of all of them."""
    count = sum(int(b.is_response.sum()) for b in batches)
    total = 0.0
    for batch in batches:
        loss = supervised_loss(resident, batch) / count
        total += checked(loss, {})
        optimizer.backward(loss)
    optimizer.step()
    return total


def supervised_loss(resident: Resident, batch: TokenBatch) -> torch.Tensor:
    """Summed negative log-likelihood of the response tokens, nats; the prompt's labels are ignored (-100 elsewhere)."""
    return -resident.logprobs(batch).sum()


def _parts(items: Sequence[Demonstration], size: int) -> list[Sequence[Demonstration]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
