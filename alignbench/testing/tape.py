"""What a training run does, seen from outside: the live trial's own calls, recorded while it runs.

Nothing is replaced: each wrapper calls the real function and notes what went in and what came out. The optimiser steps
are seen through torch's own hooks, so that a method that owns its loop is seen too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from alignbench.api import TokenBatch
from alignbench.engine.resident import Resident
from alignbench.engine.trial import LiveTrial

Row = tuple[int, ...]


@dataclass
class Pass:
    """One batch of log-probabilities with gradient, and what the loss made of it."""

    tokens: TokenBatch
    logprobs: Tensor  # (B, T)
    grad: Tensor | None = None  # (B, T) d loss / d log-probability


@dataclass
class Round:
    """One batch of completions, with the KL an independent pass gives them."""

    temperature: float
    kl_nats: Tensor  # (B,) sum of log p - log p_ref over the response, nats


@dataclass
class Tape:
    """Everything a check may look at after the run."""

    rounds: list[Round] = field(default_factory=list)
    rounds_before_log: list[int] = field(default_factory=list)  # how many rounds there were at each row of the history
    asked: list[tuple[float, float]] = field(default_factory=list)  # temperature sampled at, temperature asked at
    steps: list[list[Pass]] = field(default_factory=list)  # by call of `Trial.step`
    gradients: list[Tensor] = field(default_factory=list)  # all trained weights', flat, by optimiser step
    used: set[str] = field(default_factory=set)  # of NEEDS
    rewards: dict[Row, float] = field(default_factory=dict)  # of sampled sequences
    chosen: set[Row] = field(default_factory=set)
    rejected: set[Row] = field(default_factory=set)


@contextmanager
def recording(trial: LiveTrial, resident: Resident, tape: Tape) -> Iterator[None]:
    """Note on `tape` what happens to `trial` inside the block."""
    sampled: dict[Row, float] = {}  # sequence -> temperature it was sampled at
    waiting: list[Pass] = []

    def after_sample(rollout: Any, *args: Any, temperature: float | None = None, **kwargs: Any) -> Any:
        temperature = trial.temperature if temperature is None else temperature
        sampled.update(dict.fromkeys(rows_of(rollout.tokens), temperature))
        kl = plain_logprobs(trial.policy, rollout.tokens, temperature)
        with trial.policy.disable_adapter():  # type: ignore[operator]  # PEFT's, on the module a method sees
            kl = kl - plain_logprobs(trial.policy, rollout.tokens, temperature)
        tape.rounds.append(Round(temperature, kl.sum(-1)))
        return rollout

    def after_logprobs(out: Any, batch: TokenBatch, temperature: float = 1.0, **kwargs: Any) -> Any:
        tape.asked += [(sampled[row], temperature) for row in rows_of(batch) if row in sampled]
        logprobs = out if isinstance(out, Tensor) else out[0]
        if logprobs.requires_grad:
            logprobs.retain_grad()
            waiting.append(Pass(batch, logprobs))
        return out

    def after_step(out: Any, *args: Any, **kwargs: Any) -> Any:
        for one in waiting:
            one.grad = one.logprobs.grad
        tape.steps.append(waiting.copy())
        waiting.clear()
        return out

    def after_log(out: Any, *args: Any, **kwargs: Any) -> Any:
        tape.rounds_before_log.append(len(tape.rounds))
        return out

    def after_reward(out: Tensor, rollout: Any) -> Tensor:
        tape.used.add("reward")
        tape.rewards.update(zip(rows_of(rollout.tokens), out.tolist(), strict=True))
        return out

    def after_prompts(out: Any, *args: Any) -> Any:
        tape.used.add("prompts")
        return out

    def after_preferences(batches: Any) -> Iterator[Any]:
        tape.used.add("preferences")
        for pair in batches:
            tape.chosen.update(rows_of(pair.chosen))
            tape.rejected.update(rows_of(pair.rejected))
            yield pair

    def before_optimizer(optimizer: torch.optim.Optimizer, *args: Any) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        parts = [torch.zeros(p.numel()) if p.grad is None else p.grad.detach().flatten().clone() for p in weights]
        tape.gradients.append(torch.cat(parts))

    with ExitStack() as stack:
        for owner, name, then in (
            (trial, "sample", after_sample), (trial, "step", after_step), (trial, "log", after_log),
            (trial, "reward", after_reward), (trial, "prompt_batches", after_prompts),
            (trial, "preference_batches", after_preferences),
            (resident, "logprobs", after_logprobs), (resident, "logprobs_and_entropies", after_logprobs),
        ):  # fmt: skip
            stack.enter_context(wrapped(owner, name, then))
        handle = register_optimizer_step_pre_hook(before_optimizer)
        stack.callback(handle.remove)
        yield


@contextmanager
def turned_round(trial: LiveTrial) -> Iterator[None]:
    """Inside the block chosen and rejected have changed places, and the reward its sign."""
    with ExitStack() as stack:
        stack.enter_context(wrapped(trial, "reward", lambda out, *args: -out))
        if trial.preferences is not None:
            straight = trial.preferences
            stack.callback(setattr, trial, "preferences", straight)
            names = {"chosen": "rejected", "rejected": "chosen", "chosen_ended": "rejected_ended"}
            names["rejected_ended"] = "chosen_ended"
            trial.preferences = Dataset.from_list(
                [{**row, **{new: row[old] for old, new in names.items()}} for row in straight]
            )
        yield


@contextmanager
def wrapped(owner: Any, name: str, then: Callable[..., Any]) -> Iterator[None]:
    """`owner.name` returns what `then(what it returned, *its arguments)` returns."""
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return then(original(*args, **kwargs), *args, **kwargs)

    before = vars(owner).get(name)  # another wrapper, or nothing where the class's own shows
    setattr(owner, name, call)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def rows_of(tokens: TokenBatch) -> list[Row]:
    """Each row's real tokens."""
    return [tuple(ids[real].tolist()) for ids, real in zip(tokens.ids, tokens.is_token, strict=True)]


@torch.no_grad()
def plain_logprobs(model: nn.Module, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
    """(B, T) log-probabilities of the response tokens by the model's own forward pass, unpadded; zero elsewhere. The
    reference that uses nothing of the engine."""
    was_training = model.training
    model.eval()
    out = torch.zeros(tokens.ids.shape)
    lengths = tokens.is_token.sum(-1)
    for length in lengths.unique().tolist():  # rows of one length need no padding
        rows = (lengths == length).nonzero().squeeze(1)
        ids = tokens.ids[rows][tokens.is_token[rows]].view(len(rows), length)
        is_response = tokens.is_response[rows][tokens.is_token[rows]].view(len(rows), length)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float() / temperature
        logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        places = torch.zeros(len(rows), tokens.ids.shape[1])
        places[tokens.is_response[rows]] = logprobs[is_response[:, 1:]]
        out[rows] = places
    model.train(was_training)
    return out


def widened(tokens: TokenBatch, columns: int, filler: int) -> TokenBatch:
    """The same sequences with `columns` more of padding on the right, filled with a token."""
    pad = torch.nn.functional.pad
    return TokenBatch(
        pad(tokens.ids, (0, columns), value=filler), pad(tokens.is_token, (0, columns)),
        pad(tokens.is_response, (0, columns)),
    )  # fmt: skip
