"""Bugs of the engine and of its reward model, which the harness's own checks must see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mutants.registry import Patch, mutant
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from alignbench.api import TokenBatch
from alignbench.engine import passes
from alignbench.engine.checkpoint import python_state
from alignbench.engine.fast.passes import FastPasses
from alignbench.engine.optim import Optimizer
from alignbench.engine.resident import Resident
from alignbench.engine.tokens import Codec
from alignbench.engine.trial import POLICY, LiveTrial
from alignbench.feedback import reward_model
from alignbench.feedback.reward_model import RewardModel
from alignbench.scoring import evaluate


@mutant(1, "harness", "logprobs_are_plain_transformers")
def positions_are_shifted_by_one(patch: Patch) -> None:
    patch.setattr(passes, "positions", lambda is_token: is_token.cumsum(-1))


@mutant(2, "harness", "dropout_is_off_in_rollouts")
def dropout_stays_on_in_rollouts(patch: Patch) -> None:
    using = Resident.using

    @contextmanager
    def leaving_it_on(self: Resident, name: str | None) -> Iterator[None]:
        was_training = self.base.training
        with using(self, name):
            self.base.train(was_training)
            yield

    patch.setattr(Resident, "using", leaving_it_on)


@mutant(3, "harness", "sampler_draws_from_the_logprobs")
def logprobs_ignore_the_temperature(patch: Patch) -> None:
    for way in (passes.Passes, FastPasses):
        read = way.nats

        def read_at_1(self: Any, states: Any, labels: Any, temperature: float, read: Any = read, **options: Any) -> Any:
            return read(self, states, labels, 1.0, **options)

        patch.setattr(way, "nats", read_at_1)


@mutant(7, "harness", "reference_is_the_supervised_start")
def the_start_is_an_adapter_that_the_reference_switches_off(patch: Patch) -> None:
    make, add = Resident.__init__, Resident.add_adapter

    def without_merging(self: Resident, folder: Any, starts: Any, *rest: Any, **named: Any) -> None:
        self.starts = []  # type: ignore[attr-defined]
        make(self, folder, [], *rest, **named)
        self.starts = list(starts)  # type: ignore[attr-defined]

    def onto_the_start(self: Resident, name: str, seed: int, layers: int | None = None) -> Any:
        parameters = add(self, name, seed, layers)
        for start in self.starts if name == POLICY else []:  # type: ignore[attr-defined]
            set_peft_model_state_dict(self._peft, load_file(start / "adapter_model.safetensors"), adapter_name=name)
        return parameters

    patch.setattr(Resident, "__init__", without_merging)
    patch.setattr(Resident, "add_adapter", onto_the_start)


@mutant(9, "harness", "a_score_of_zero_is_a_score")
def a_score_of_zero_is_replaced_by_a_default(patch: Patch) -> None:
    reward = LiveTrial.reward

    def or_default(self: LiveTrial, rollout: Any) -> Tensor:
        return torch.tensor([score or -1.0 for score in reward(self, rollout).tolist()])

    patch.setattr(LiveTrial, "reward", or_default)


@mutant(14, "harness", "padding_order_and_batch_size_change_nothing")
def positions_count_padding(patch: Patch) -> None:
    patch.setattr(passes, "positions", lambda is_token: torch.ones_like(is_token, dtype=torch.long).cumsum(-1) - 1)


@mutant(15, "harness", "reward_is_read_at_the_real_tokens")
def the_last_token_is_found_by_counting(patch: Patch) -> None:
    def by_count(hidden: Tensor, is_token: Tensor, pooling: str) -> Tensor:
        if pooling == "mean":
            return pool(hidden, is_token, pooling)
        return hidden[torch.arange(len(hidden)), is_token.sum(-1) - 1].float()

    pool = reward_model.pool
    _change_pool(patch, by_count)


@mutant(21, "harness", "golden_ids_and_masks")
def padding_is_told_by_its_id(patch: Patch) -> None:
    def by_id(self: Codec, batch: TokenBatch) -> TokenBatch:
        is_real = batch.ids != self.pad
        return batch._replace(is_token=batch.is_token & is_real, is_response=batch.is_response & is_real)

    _repack(patch, by_id)


@mutant(22, "harness", "golden_ids_and_masks")
def the_prompt_is_trained_on(patch: Patch) -> None:
    _repack(patch, lambda codec, batch: batch._replace(is_response=batch.is_token))


@mutant(23, "harness", "golden_ids_and_masks")
def the_last_column_is_cut(patch: Patch) -> None:
    _repack(patch, lambda codec, batch: TokenBatch(*(t[:, :-1] for t in batch)))


@mutant(24, "harness", "truncation_empties_no_sample")
def truncation_keeps_room_for_the_end(patch: Patch) -> None:
    encode = Codec.encode

    def short(self: Codec, prompts: Any, completions: Any, *, max_new_tokens: int, **rest: Any) -> TokenBatch:
        batch = encode(self, prompts, completions, max_new_tokens=max_new_tokens, **rest)
        kept = batch.is_response & (batch.is_response.cumsum(-1) < max_new_tokens)
        return batch._replace(is_response=kept, is_token=batch.is_token & (kept | ~batch.is_response))

    patch.setattr(Codec, "encode", short)


@mutant(25, "harness", "golden_ids_and_masks")
def the_prompt_begins_twice(patch: Patch) -> None:
    patch.setattr(Codec, "prompt", lambda self, text: [self.bos, *self.tokenizer.encode(f"<s> {text}")])


@mutant(26, "harness", "golden_ids_and_masks")
def the_completion_ends_twice(patch: Patch) -> None:
    patch.setattr(Codec, "completion", lambda self, text: [*self.plain(text), self.eos, self.eos])


@mutant(27, "harness", "golden_ids_and_masks")
def a_long_completion_loses_its_first_tokens(patch: Patch) -> None:
    encode, plain = Codec.encode, Codec.plain

    def from_the_left(self: Codec, prompts: Any, completions: Any, *, max_new_tokens: int, **rest: Any) -> TokenBatch:
        patch.setattr(Codec, "completion", lambda self, text: [*plain(self, text), self.eos][-max_new_tokens:])
        return encode(self, prompts, completions, max_new_tokens=max_new_tokens, **rest)

    patch.setattr(Codec, "encode", from_the_left)


@mutant(28, "harness", "reward_is_read_at_the_real_tokens")
def the_reward_is_read_before_the_end(patch: Patch) -> None:
    def one_before(hidden: Tensor, is_token: Tensor, pooling: str) -> Tensor:
        return pool(hidden.roll(1, 1) if pooling == "last" else hidden, is_token, pooling)

    pool = reward_model.pool
    _change_pool(patch, one_before)


@mutant(29, "harness", "accumulation_weighs_items")
def accumulation_averages_averages(patch: Patch) -> None:
    accumulate = Optimizer.accumulate
    patch.setattr(Optimizer, "accumulate", lambda self, loss, count: accumulate(self, loss, 1))


@mutant(30, "harness", "merging_changes_no_output")
def merging_rounds_the_weights(patch: Patch) -> None:
    make = Resident.__init__

    def rounded(self: Resident, folder: Any, starts: Any, *rest: Any, **named: Any) -> None:
        make(self, folder, starts, *rest, **named)
        if starts:
            self.base.to(torch.bfloat16).to(torch.float32)

    patch.setattr(Resident, "__init__", rounded)


@mutant(31, "harness", "same_seed_same_reward_model")
def the_reward_head_is_drawn_from_the_global_generator(patch: Patch) -> None:
    fresh = RewardModel.fresh

    def unseeded(*args: Any, **kwargs: Any) -> RewardModel:
        model = fresh(*args, **kwargs)
        nn.init.normal_(model.head.weight)
        return model

    patch.setattr(RewardModel, "fresh", unseeded)


@mutant(32, "harness", "reference_text_is_the_starts")
def the_policy_stays_on_where_the_start_is_sampled(patch: Patch) -> None:
    patch.setattr(Resident, "drop_adapters", lambda self: None)


@mutant(33, "harness", "reference_gap_is_that_of_step_0")
def the_reference_is_read_off_the_policy_when_first_asked(patch: Patch) -> None:
    read = LiveTrial.logprobs

    def late(self: LiveTrial, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
        return read(self, tokens, temperature=temperature).detach()

    patch.setattr(LiveTrial, "reference_logprobs", late)


@mutant(None, "ppo", "resume_is_bit_identical")
def the_samplers_generator_is_in_no_checkpoint(patch: Patch) -> None:
    patch.setattr(
        LiveTrial, "_take_back_generators",
        lambda self, saved: self.rng.setstate(python_state(saved.values["rng"])),
    )  # fmt: skip


@mutant(None, "ppo", "resume_is_bit_identical")
def the_trials_own_rng_is_in_no_checkpoint(patch: Patch) -> None:
    patch.setattr(
        LiveTrial, "_take_back_generators",
        lambda self, saved: self._generator.set_state(saved.tensors["trial.generator"]),
    )  # fmt: skip


@mutant(None, "dpo", "resume_is_bit_identical")
def adamws_moments_are_in_no_checkpoint(patch: Patch) -> None:
    restore = Optimizer.restore
    patch.setattr(
        Optimizer, "restore",
        lambda self, tensors, values: restore(
            self, {name: t for name, t in tensors.items() if not name.startswith("adamw.")}, values
        ),
    )  # fmt: skip


@mutant(None, "harness", "a_fresh_policy_is_the_start")
def a_fresh_adapter_is_not_the_identity(patch: Patch) -> None:
    add = Resident.add_adapter

    def noisy(self: Resident, *args: Any, **kwargs: Any) -> Any:
        parameters = add(self, *args, **kwargs)
        with torch.no_grad():
            for p in parameters:
                p.add_(1e-3)
        return parameters

    patch.setattr(Resident, "add_adapter", noisy)


@mutant(None, "harness", "kl_estimators_agree_with_enumeration")
def the_kl_is_clamped(patch: Patch) -> None:
    rows = evaluate._kl_rows
    patch.setattr(evaluate, "_kl_rows", lambda *args: evaluate.KL(*(x.clamp_min(0) for x in rows(*args))))


def _change_pool(patch: Patch, pool: Callable[..., Tensor]) -> None:
    patch.setattr(reward_model, "pool", pool)
    patch.setattr("alignbench.testing.harness.pool", pool)


def _repack(patch: Patch, change: Callable[[Codec, TokenBatch], TokenBatch]) -> None:
    make = Codec.padded
    patch.setattr(Codec, "padded", lambda self, heads, tails: change(self, make(self, heads, tails)))
