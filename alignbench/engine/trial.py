"""The live `Trial`: what a method sees while it trains. See `alignbench.api.Trial` for the contract."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from alignbench.api import (
    ActorCritic,
    Budget,
    OptimizerConfig,
    PreferenceBatch,
    RewardSource,
    Rollout,
    TokenBatch,
    Trial,
)
from alignbench.engine.checkpoint import Checkpoints, Saved, python_state
from alignbench.engine.logprobs import spread
from alignbench.engine.meter import Meter
from alignbench.engine.optim import Optimizer, checked
from alignbench.engine.resident import CRITIC, Resident
from alignbench.engine.resident import POLICY as POLICY  # for those who import it from here
from alignbench.engine.resume import History, keep, misfit, take_back
from alignbench.engine.sampling import sample_texts
from alignbench.engine.tokens import stacked
from alignbench.errors import UserError

_Stream = tuple[int, int, list[int]]  # rows there are, rows of a batch, rows that wait
PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected", "chosen_ended", "rejected_ended")


class LiveTrial(Trial):
    """A policy adapter on a resident model, its optimiser and its data."""

    def __init__(
        self,
        resident: Resident,
        config: OptimizerConfig,
        *,
        seed: int,
        max_steps: int,
        budget: Mapping[str, float] | None = None,
        max_new_tokens: int,
        temperature: float = 1.0,
        max_completion_tokens: int | None = None,
        prompts: Sequence[str],
        meter: Meter,
        workdir: Path,
        preferences: Sequence[dict[str, str]] | None = None,
        reward: RewardSource | None = None,
        progress: Callable[..., None] = lambda done, total, **numbers: None,
        checkpoints: Checkpoints = Checkpoints(None, 0),  # noqa: B008  # it is off, and keeps nothing
        stepped: Callable[[int], None] = lambda used: None,
        beside: Callable[[], Iterable[Resident]] = tuple,
    ) -> None:
        """`budget`: what the run may spend, by unit, as in the suite. `stepped` is called after each optimiser step,
        with their number; `beside` gives the models that rewards may run."""
        self._resident = resident
        self._config = config
        self._adapter = resident.add_adapter(POLICY, seed)
        self._extra: list[nn.Parameter] = []
        self._critic: list[nn.Parameter] = []
        self._modules: list[nn.Module] = []  # of the method's own, as they were added
        self._optimizer: Optimizer | None = None
        self._added = torch.zeros((), device=resident.device)  # losses that `add_loss` took since the last step
        self._reward = reward
        self._meter = meter
        self._progress = progress
        self._stepped = stepped
        self._beside = beside
        self._reference_gaps: dict[tuple[int, bool], float] = {}
        self.temperature = temperature
        self._max_new_tokens = max_new_tokens
        self._max_completion_tokens = max_completion_tokens or max_new_tokens
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._checkpoints = checkpoints
        self._streams: list[_Stream] = []  # those that are open, the outermost first
        self._resumed: list[_Stream] = []  # those that were open and are yet to be asked for again
        self._is_asked = False  # for a first batch
        self._texts_recur = False  # in the outermost stream
        self.history: History = []
        self._latest: dict[str, float] = {}  # each logged number as it was last
        self.state: dict[str, Any] = {}
        self.policy = resident.module
        self.tokenizer = resident.codec.tokenizer
        self.device = resident.device
        self.prompts = Dataset.from_dict({"prompt": list(prompts)})
        self.preferences = (
            None
            if preferences is None
            else Dataset.from_dict({name: [row.get(name) for row in preferences] for name in PREFERENCE_COLUMNS})
        )
        self._allowed = dict(budget or {})
        self._episodes = 0  # completions learned from so far: sampled ones, and two of each pair read
        self.budget = Budget(max_steps, self._share, lambda: bool(self._optimizer and self._optimizer.is_mid_step))
        self.rng = random.Random(seed)
        self.workdir = workdir

    # ---------------------------------------------------------------------------------------------------------- data

    def preference_batches(self) -> Iterator[PreferenceBatch]:
        if self.preferences is None:
            raise UserError("the method asked for preferences; add 'preferences' to its `needs` or to its recipe")
        for rows in self._shuffled(len(self.preferences), self._config.per_device_train_batch_size, texts_recur=True):
            self._episodes += 2 * len(rows)
            yield PreferenceBatch(rows, self._side(rows, "chosen"), self._side(rows, "rejected"))

    def _share(self) -> float:
        """Of the suite's `budget` that is spent, in whichever unit it is."""
        spent = {"flops": self._meter.flops, "seconds": self._meter.seconds, "episodes": self._episodes}
        return max((spent[unit] / amount for unit, amount in self._allowed.items()), default=0.0)

    def _side(self, rows: list[int], side: str) -> TokenBatch:
        assert self.preferences is not None
        picked = self.preferences[rows]
        # None: a text of the task's, not a sample that ended or was cut
        is_ended = [end is not False for end in picked.get(f"{side}_ended", [None] * len(rows))]
        return self._resident.codec.encode(
            picked["prompt"], picked[side], max_new_tokens=self._max_completion_tokens, is_ended=is_ended
        )

    def prompt_batches(self, size: int) -> Iterator[list[str]]:
        for rows in self._shuffled(len(self.prompts), size, texts_recur=False):
            yield self.prompts[rows]["prompt"]

    def _shuffled(self, count: int, size: int, texts_recur: bool) -> Iterator[list[int]]:
        """Row numbers, `size` at a time, epoch after epoch without a remainder lost, until the budget is spent."""
        if count == 0:
            raise UserError("there is nothing to train on: the recipe gave no rows; check the task's data and splits")
        is_outermost, self._is_asked = not self._is_asked, True
        if is_outermost:
            self._texts_recur = texts_recur
            self._resume()
        waiting = self._waiting(count, size)
        self._streams.append((count, size, waiting))
        try:
            while not self.budget.is_spent:
                while len(waiting) < size:
                    waiting += self.rng.sample(range(count), count)
                taken = waiting[:size]
                del waiting[:size]
                if is_outermost:
                    self._forget()
                yield taken
                if is_outermost and not self.budget.is_spent:
                    self._keep_if_due()
        finally:  # the method has let go of it
            self._streams = [stream for stream in self._streams if stream[2] is not waiting]

    def _waiting(self, count: int, size: int) -> list[int]:
        """Rows that a stream which was open at the checkpoint left: that of the first one asked for in the same way."""
        for stream in self._resumed:
            if (stream[0], stream[1]) == (count, size):
                self._resumed.remove(stream)
                return stream[2]
        return []

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> TokenBatch:
        return self._resident.codec.encode(prompts, completions, max_new_tokens=self._max_completion_tokens)

    # -------------------------------------------------------------------------------------------------------- resume

    def _forget(self) -> None:
        """Before a batch every model drops what it keeps of sequences seen, for a process that goes on here has seen
        none; but not the policy's where texts come again epoch after epoch: that is in the checkpoint."""
        for resident in (self._resident, *self._beside()):
            if not (resident is self._resident and self._texts_recur):
                resident.passes.forget()

    def _keep_if_due(self) -> None:
        """Between two batches of the outermost stream, where a method called anew can be put; never in mid-step."""
        if not self._checkpoints.is_due() or not (self._optimizer is None or self._optimizer.is_between_steps):
            return
        if json.loads(json.dumps(self.state)) != self.state:
            raise TypeError(f"trial.state holds JSON values alone (lists, no tuples; keys are text), got {self.state}")
        self._forget()
        gaps = [[row, mean, gap] for (row, mean), gap in self._reference_gaps.items()]
        keep(
            self._checkpoints, self._resident.passes, self._adapter + self._extra, self._optimizer, self.history,
            self._meter,
            {"trial.generator": self._generator.get_state(), **self._rest()},
            {"rng": self.rng.getstate(), "streams": self._streams, "used": self.budget.used, "gaps": gaps,
             "state": self.state, "episodes": self._episodes},
        )  # fmt: skip

    def _resume(self) -> None:
        """Take everything back to the last checkpoint, if there is one that fits what the method has built."""
        saved = self._checkpoints.found
        if saved is None:
            return
        weights, rest = self._adapter + self._extra, self._rest()
        reason = misfit(saved, weights)
        if rest.keys() != {name for name in saved.tensors if name.startswith("module.")}:
            reason = "the method built other modules"
        if reason is not None:
            self._checkpoints.refuse(reason)
            return
        optimizer = None if saved.values["optimizer"] is None else self._stepper()
        with torch.no_grad():
            for name, tensor in rest.items():
                tensor.copy_(saved.tensors[name])
        self.budget.used, self._episodes = saved.values["used"], saved.values["episodes"]
        self.state.clear()
        self.state.update(saved.values["state"])
        self._resumed = [(count, size, rows) for count, size, rows in saved.values["streams"]]
        self._reference_gaps = {(row, mean): gap for row, mean, gap in saved.values["gaps"]}
        take_back(saved, self._resident.passes, weights, optimizer, self.history, self._meter)
        self._take_back_generators(saved)
        self._checkpoints.let_go()

    def _take_back_generators(self, saved: Saved) -> None:
        self.rng.setstate(python_state(saved.values["rng"]))
        self._generator.set_state(saved.tensors["trial.generator"])

    def _rest(self) -> dict[str, Tensor]:
        """What the method's modules hold beside trained weights, such as a running mean."""
        trained = {id(weight) for weight in self._extra}
        return {
            f"module.{i}.{name}": tensor
            for i, module in enumerate(self._modules)
            for name, tensor in module.state_dict(keep_vars=True).items()
            if id(tensor) not in trained and isinstance(tensor, Tensor)
        }

    # -------------------------------------------------------------------------------------------------------- passes

    def sample(
        self, prompts: Sequence[str], *, temperature: float | None = None, max_new_tokens: int | None = None
    ) -> Rollout:
        limit = self._max_new_tokens if max_new_tokens is None else max_new_tokens
        with self._resident.using(POLICY):
            rollout = sample_texts(self._resident, prompts, limit, self._at(temperature), self._generator)
        self._meter.add(tokens_generated=int(rollout.tokens.is_response.sum()))
        self._episodes += len(prompts)
        return rollout

    def logprobs(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        self._count(tokens)
        return self._resident.logprobs(tokens, self._at(temperature))

    @torch.no_grad()
    def reference_logprobs(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        with self._resident.using(None):
            return self._resident.logprobs(tokens, self._at(temperature))

    def _at(self, temperature: float | None) -> float:
        return self.temperature if temperature is None else temperature

    def actor(
        self, tokens: TokenBatch, *, temperature: float | None = None, has_entropy_gradient: bool = True
    ) -> tuple[Tensor, Tensor]:
        self._count(tokens)
        return self._resident.logprobs_and_entropies(
            tokens, self._at(temperature), has_entropy_gradient=has_entropy_gradient
        )[:2]

    def actor_critic(
        self,
        tokens: TokenBatch,
        value_head: nn.Module,
        *,
        temperature: float | None = None,
        has_entropy_gradient: bool = True,
    ) -> ActorCritic:
        if self._critic:
            raise RuntimeError("actor_critic after add_critic: ask `actor` and `critic`, or leave the critic out")
        self._count(tokens)
        logprobs, entropies, states = self._resident.logprobs_and_entropies(
            tokens, self._at(temperature), has_entropy_gradient=has_entropy_gradient
        )
        return ActorCritic(logprobs, entropies, _values(value_head, states, tokens))

    def critic(self, tokens: TokenBatch, value_head: nn.Module) -> Tensor:
        if not self._critic:
            raise RuntimeError("critic before add_critic: add one, or ask `actor_critic`")
        self._count(tokens)
        with self._resident.using(CRITIC):
            return _values(value_head, self._resident.states_before(tokens), tokens)

    def logprob_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        return _gap(self.logprobs, pair, mean)

    def reference_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        if any((row, mean) not in self._reference_gaps for row in pair.rows):
            for row, gap in zip(pair.rows, _gap(self.reference_logprobs, pair, mean).tolist(), strict=True):
                self._reference_gaps[row, mean] = gap
        return torch.tensor([self._reference_gaps[row, mean] for row in pair.rows], device=self.device)

    @torch.no_grad()
    def reward(self, rollout: Rollout) -> Tensor:
        if self._reward is None:
            raise UserError("the method asked for a reward; add 'reward' to its `needs` or to its recipe")
        return self._reward.score(rollout.prompts, rollout.completions).to(self.device)

    def hidden_size(self) -> int:
        return self._resident.hidden_size

    # ---------------------------------------------------------------------------------------------------------- step

    def add_trainable(self, module: nn.Module) -> nn.Module:
        module.to(self.device)
        self._modules.append(module)
        self._train_too(module.parameters(), "add_trainable")
        return module

    def add_critic(self) -> None:
        self._critic = self._resident.add_adapter(CRITIC, self._seed)
        self._train_too(self._critic, "add_critic")
        self._resident.activate(POLICY)

    def _train_too(self, weights: Iterable[nn.Parameter], call: str) -> None:
        if self._optimizer is not None:
            raise RuntimeError(f"{call} comes before the first step: the optimiser is already made")
        self._extra += [weight for weight in weights if weight.requires_grad]

    def add_loss(self, loss: Tensor, *, count: float = 1) -> None:
        self._ready(count)
        checked(loss, {"added_loss": float(loss.detach())})
        self._stepper().add(loss, count)
        self._added = self._added + loss.detach()

    def step(self, loss: Tensor, *, count: float = 1, **metrics: float | Tensor) -> None:
        self._ready(count)
        self.log(loss=loss + self._added, **metrics)
        self._added = torch.zeros((), device=self.device)
        checked(loss, self.history[-1])
        if self._stepper().accumulate(loss, count):
            self.budget.used += 1
            self._stepped(self.budget.used)
            self._progress(self.budget.used, self.budget.max_steps, **self._latest)

    def _ready(self, count: float) -> None:
        if self.budget.steps_left <= 0:
            raise RuntimeError(
                f"the budget of {self.budget.max_steps} optimiser steps is spent; check it before stepping"
            )
        if count <= 0:
            raise ValueError(f"step(count={count}): a loss is the mean over at least one item")

    def _stepper(self) -> Optimizer:
        """The optimiser, with every weight it steps open to gradients."""
        if self._optimizer is None:
            rate = self._config.learning_rate
            self._optimizer = Optimizer([(self._adapter + self._extra, rate)], self._config, self.budget.max_steps)
        for weight in self._critic:
            weight.requires_grad_(True)  # PEFT switched it off with the adapter
        return self._optimizer

    def log(self, **metrics: float | Tensor) -> None:
        numbers = {name: float(_detached(value)) for name, value in metrics.items()}
        self.history.append({"step": self.budget.used, **numbers})
        self._latest |= numbers

    def _count(self, tokens: TokenBatch) -> None:
        if torch.is_grad_enabled():
            self._meter.add(tokens_trained=int(tokens.is_token.sum()))


def _values(head: nn.Module, states: Tensor, tokens: TokenBatch) -> Tensor:
    """(N, H) states before the response tokens -> (B, T) values."""
    return spread(head(states.float()).squeeze(-1), tokens.is_response)


def _gap(logprobs: Callable[[TokenBatch], Tensor], pair: PreferenceBatch, mean: bool) -> Tensor:
    """(B,) log p(chosen) - log p(rejected), nats, or nats per response token. Both sides pass in one batch, which runs
    the prompt they share once."""
    both = stacked(pair.chosen, pair.rejected)
    sums = logprobs(both).sum(-1)  # (2 B,)
    if mean:
        sums = sums / both.is_response.sum(-1)
    chosen, rejected = sums.chunk(2)
    return chosen - rejected


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
