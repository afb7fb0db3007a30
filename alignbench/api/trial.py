"""One training run, as its method sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.api.tensors import ActorCritic, PreferenceBatch, Rollout, TokenBatch

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    import random

    import torch
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Budget:
    """What one run may use: optimiser steps, and where the suite has a `budget`, no more than all of that."""

    def __init__(
        self, max_steps: int, share: Callable[[], float] = lambda: 0.0, is_mid_step: Callable[[], bool] = lambda: False
    ) -> None:
        self.max_steps = max_steps
        self.used = 0  # optimiser steps
        self._share = share  # of the suite's `budget`; 1: all of it
        self._is_mid_step = is_mid_step  # while passes are gathered for a step

    @property
    def steps_left(self) -> int:
        """To be asked before every step on data that is there: what was sampled is learned from, whatever it spent."""
        return self.max_steps - self.used

    @property
    def is_spent(self) -> bool:
        """To be asked before a batch or a rollout, which is then learned from whole."""
        return self.steps_left <= 0 or (self.share >= 1 and not self._is_mid_step())

    @property
    def share(self) -> float:
        """Spent of the suite's `budget`; 0 where it has none."""
        return self._share()


class Trial(ABC):
    """Everything one training run may touch. The gold reward and the held-out prompts are not among it."""

    policy: nn.Module  # the start point under a fresh LoRA adapter
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    prompts: Dataset  # column `prompt`
    # columns `prompt`, `chosen`, `rejected`, TRL's explicit-prompt format; and `chosen_ended`, `rejected_ended`: False
    # where the text is a sample cut at its limit, so that no end of sequence follows it
    preferences: Dataset | None
    temperature: float  # of the policy: what a call takes that names no other
    budget: Budget
    rng: random.Random  # the run's own; the global generators are left alone
    workdir: Path  # the only place for files; a resumed run finds all that a killed one left, later ones too
    # what `train` itself must remember, JSON values by name. A killed run is resumed by calling `train` anew: modules
    # are built and added again, and with the first batch all of the trial, this too, is as it was at a later one.
    # So read it once a batch has come, and keep no number that changes from batch to batch anywhere else.
    state: dict[str, Any]

    @abstractmethod
    def preference_batches(self) -> Iterator[PreferenceBatch]:
        """Shuffled batches, epoch by epoch, until the budget is spent. UserError if the recipe gave no preferences."""

    @abstractmethod
    def prompt_batches(self, size: int) -> Iterator[list[str]]:
        """Shuffled lists of `size` training prompts until the budget is spent."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> TokenBatch:
        """Tokens of prompt + completion + end of sequence. UserError if a prompt exceeds the model's window."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[str], *, temperature: float | None = None, max_new_tokens: int | None = None
    ) -> Rollout:
        """One completion per prompt by the current policy: whole distribution, no top-k or top-p, dropout off."""

    @abstractmethod
    def logprobs(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        """(B, T) float32 log-probabilities of the response tokens in nats, with gradient."""

    @abstractmethod
    def reference_logprobs(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        """(B, T) the same under the start point, without gradient."""

    @abstractmethod
    def actor(
        self, tokens: TokenBatch, *, temperature: float | None = None, has_entropy_gradient: bool = True
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and (B, T) entropies of the response tokens' distributions, nats, zero elsewhere. A
        loss without an entropy bonus can spare itself their gradient, which costs a product with the vocabulary."""

    @abstractmethod
    def actor_critic(
        self,
        tokens: TokenBatch,
        value_head: nn.Module,
        *,
        temperature: float | None = None,
        has_entropy_gradient: bool = True,
    ) -> ActorCritic:
        """The same, and in the same pass (B, T) state values: `value_head` of the policy's own hidden states."""

    @abstractmethod
    def critic(self, tokens: TokenBatch, value_head: nn.Module) -> Tensor:
        """(B, T) state values: `value_head` of the hidden states of the adapter that `add_critic` made."""

    @abstractmethod
    def logprob_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        """(B,) log p(chosen) - log p(rejected) in nats, with gradient; with `mean`, nats per response token."""

    @abstractmethod
    def reference_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        """(B,) the same under the start point; computed once per row and kept."""

    @abstractmethod
    def reward(self, rollout: Rollout) -> Tensor:
        """(B,) float32 scores by the recipe's reward, metered. UserError if the recipe gave none."""

    @abstractmethod
    def hidden_size(self) -> int:
        """Width of the hidden states a head reads."""

    @abstractmethod
    def add_trainable(self, module: nn.Module) -> nn.Module:
        """Train `module` beside the adapter; it is moved to the trial's device. Call it before the first step."""

    @abstractmethod
    def add_critic(self) -> None:
        """Train a second adapter, whose hidden states `critic` gives to a value head. Before the first step."""

    @abstractmethod
    def step(self, loss: Tensor, *, count: float = 1, **metrics: float | Tensor) -> None:
        """Backward; at each full accumulation clip, step, schedule and tick the budget. `loss` is a mean over `count`
        items (pairs, tokens): a step over several passes takes the mean over all their items. A loss that is not finite
        ends the run with an error that names the metrics."""

    @abstractmethod
    def add_loss(self, loss: Tensor, *, count: float = 1) -> None:
        """A part of the next `step`'s loss that shares no pass with the rest, with the same `count`: backward now, so
        that its pass need not be kept beside theirs."""

    @abstractmethod
    def log(self, **metrics: float | Tensor) -> None:
        """Record numbers at the current step without a backward pass."""
