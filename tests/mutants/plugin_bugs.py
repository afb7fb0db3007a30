"""Bugs of methods and of reward sources, planted in shipped ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mutants.registry import Patch, mutant
from torch import Tensor, nn

from alignbench.api import TokenBatch
from alignbench.engine.trial import LiveTrial
from alignbench.feedback.judge import Judge
from alignbench.feedback.length import Length
from alignbench.rl import adapted
from alignbench.stages import work
from alignbench_ppo import PPO, collect, optimise


@mutant(3, "ppo", "logprobs_are_asked_at_the_sampling_temperature")
def trainer_leaves_the_temperature_out(patch: Patch) -> None:
    critic = LiveTrial.actor_critic
    patch.setattr(
        LiveTrial, "actor_critic", lambda self, tokens, head, **options: critic(self, tokens, head, temperature=1.0)
    )


@mutant(4, "ppo", "kl_starts_at_0_and_ratio_at_1")
def the_logged_kl_is_the_mean_of_minus_the_ratio(patch: Patch) -> None:
    _log_kl_as(patch, lambda kl: -torch.tensor(kl).exp())


@mutant(5, "ppo", "reported_kl_is_the_policys")
def the_reported_kl_is_half_the_trained_one(patch: Patch) -> None:
    _log_kl_as(patch, lambda kl: kl / 2)


@mutant(6, "dpo", "first_loss_is_the_declared_one")
def reference_logprobs_are_computed_and_not_used(patch: Patch) -> None:
    gap = LiveTrial.reference_gap
    patch.setattr(LiveTrial, "reference_gap", lambda self, pair, mean=False: 0 * gap(self, pair, mean=mean))


@mutant(8, "ppo", "a_larger_knob_ends_nearer")
def kl_is_rewarded(patch: Patch) -> None:
    _change(patch, "token_rewards", lambda make, s, p, q, mask, kl_coef: make(s, p, q, mask, -kl_coef))


@mutant(10, "ppo", "better_texts_are_pushed_up")
def the_score_is_paid_one_place_past_the_end(patch: Patch) -> None:
    def late(make: Any, scores: Tensor, p: Tensor, q: Tensor, is_response: Tensor, kl_coef: float) -> Tensor:
        rewards = make(torch.zeros_like(scores), p, q, is_response, kl_coef)
        wide = torch.nn.functional.pad(rewards, (0, 1))
        last = is_response.shape[1] - 1 - is_response.flip(1).int().argmax(1)
        return wide.scatter_add(1, last[:, None] + 1, scores[:, None])[:, :-1]

    _change(patch, "token_rewards", late)


@mutant(11, "ppo", "padding_changes_nothing")
def values_after_the_end_are_bootstrapped_from(patch: Patch) -> None:
    def everywhere(self: LiveTrial, tokens: TokenBatch, head: nn.Module, **options: Any) -> Any:
        out = critic(self, tokens, head, **options)
        return out._replace(values=head(self._resident.hidden(tokens).float()).squeeze(-1))

    def unmasked(make: Any, rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Any:
        advantages, _ = make(rewards, values, torch.ones_like(mask), gamma, lam)
        return advantages * mask, (advantages + values) * mask

    critic = LiveTrial.actor_critic
    patch.setattr(LiveTrial, "actor_critic", everywhere)
    _change(patch, "gae", unmasked)


@mutant(12, "ppo", "better_texts_are_pushed_up")
def every_score_is_compared_with_a_group_of_itself(patch: Patch) -> None:
    _change(patch, "token_rewards", lambda make, s, p, q, mask, kl_coef: make(s - s, p, q, mask, kl_coef))


@mutant(13, "ppo", "ends_near_its_optimum")
def the_kl_penalty_is_an_absolute_value(patch: Patch) -> None:
    """|log p - log q| in place of log p - log q: a token that lost probability is penalised for it."""
    _change(patch, "token_rewards", lambda make, s, p, q, mask, kl_coef: make(s, (p - q).abs(), 0 * q, mask, kl_coef))


@mutant(16, "ppo", "padding_changes_nothing")
def advantages_are_whitened_over_padding(patch: Patch) -> None:
    _change(patch, "whiten", lambda make, values, mask, keep_mean=False: make(values, torch.ones_like(mask)) * mask)


@mutant(17, "ppo", "every_trained_token_has_gradient")
def values_are_reordered_and_the_mask_is_not(patch: Patch) -> None:
    _change(patch, "clipped_policy_loss", lambda make, ratio, a, mask, clip: make(ratio, a, mask.roll(1, 0), clip))


@mutant(18, "ppo", "better_texts_are_pushed_up")
def the_mask_argument_is_given_the_advantages(patch: Patch) -> None:
    _change(patch, "clipped_policy_loss", lambda make, ratio, a, mask, clip: make(ratio, a, a, clip))


@mutant(19, "ppo", "better_texts_are_pushed_up")
def advantages_are_whitened_within_each_row(patch: Patch) -> None:
    def by_row(make: Any, values: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
        count = mask.sum(1, keepdim=True)
        mean = (values * mask).sum(1, keepdim=True) / count
        variance = ((values - mean) ** 2 * mask).sum(1, keepdim=True) / count
        return (values - mean) * (variance + 1e-8).rsqrt() * mask

    _change(patch, "whiten", by_row)


@mutant(20, "ppo", "every_trained_token_has_gradient")
def advantages_end_one_token_before_the_mask(patch: Patch) -> None:
    def short(make: Any, values: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
        return make(values, mask) * torch.nn.functional.pad(mask[:, 1:], (0, 1))

    _change(patch, "whiten", short)


@mutant(29, "ppo", "accumulation_changes_nothing")
def a_method_does_not_say_how_many_tokens_it_averaged(patch: Patch) -> None:
    step = LiveTrial.step
    patch.setattr(LiveTrial, "step", lambda self, loss, count=1, **metrics: step(self, loss, count=1, **metrics))


@mutant(None, "ppo", "resume_is_bit_identical")
def the_adapted_coefficient_is_a_local_variable(patch: Patch) -> None:
    def train(self: PPO, trial: Any, config: Any) -> None:
        head = nn.Linear(trial.hidden_size(), 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        value_head, kl_coef = trial.add_trainable(head), config.kl_coef
        for prompts in trial.prompt_batches(config.rollout_batch_size):
            episodes, kl_nats = collect(trial, prompts, value_head, config, kl_coef)
            optimise(trial, episodes, value_head, config)
            kl_coef = adapted(kl_coef, kl_nats, config.kl_target, len(prompts), config.kl_horizon)

    patch.setattr(PPO, "train", train)


@mutant(None, "ppo", "turned_labels_turn_the_policy")
def a_score_loses_its_sign(patch: Patch) -> None:
    _change(patch, "token_rewards", lambda make, s, *rest: make(s.abs(), *rest))


@mutant(None, "ppo", "gold_and_held_out_prompts_are_out_of_reach")
def a_trial_hands_out_its_reward_source(patch: Patch) -> None:
    make = LiveTrial.__init__

    def open_handed(self: LiveTrial, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.source = self._reward  # type: ignore[attr-defined]

    patch.setattr(LiveTrial, "__init__", open_handed)


@mutant(None, "constitutional", "own_stages_see_training_data_alone")
def a_method_s_stage_is_handed_the_whole_task(patch: Patch) -> None:
    patch.setattr(work, "TrainingView", lambda task, seed: task)


@mutant(None, "constitutional", "own_stages_see_training_data_alone")
def a_stages_work_shows_its_plan(patch: Patch) -> None:
    make = work.LiveWork.__init__

    def open_handed(self: work.LiveWork, plan: Any, *args: Any, **kwargs: Any) -> None:
        make(self, plan, *args, **kwargs)
        self.plan = plan  # type: ignore[attr-defined]

    patch.setattr(work.LiveWork, "__init__", open_handed)


@mutant(None, "length", "a_batch_equals_its_singles")
def a_reward_depends_on_its_batch(patch: Patch) -> None:
    score = Length.score
    patch.setattr(Length, "score", lambda self, p, c: (s := score(self, p, c)) - s.mean())


@mutant(None, "judge", "prefer_is_antisymmetric")
def a_judge_likes_the_first_place(patch: Patch) -> None:
    prefer = Judge.prefer
    patch.setattr(Judge, "prefer", lambda self, p, a, b: (prefer(self, p, a, b) + 0.1).clamp_max(1))


@mutant(None, "judge", "every_call_is_metered")
def a_judge_counts_no_tokens(patch: Patch) -> None:
    patch.setattr(Judge, "tokens_judged", property(lambda self: 0, lambda self, count: None))


@mutant(None, "panel", "same_seed_same_scores")
def raters_noise_comes_from_the_global_generator(patch: Patch) -> None:
    patch.setattr("alignbench.feedback.panel._standard_normal", lambda text: float(hash((text, object()))) / 2**63)


@mutant(None, "panel", "order_does_not_matter")
def raters_noise_runs_on(patch: Patch) -> None:
    draws = iter(range(10**9))
    patch.setattr("alignbench.feedback.panel._standard_normal", lambda text: float(next(draws)))


@mutant(None, "length", "scores_are_finite_float32")
def a_score_divides_by_a_length(patch: Patch) -> None:
    patch.setattr(
        Length, "score", lambda self, p, c: torch.tensor([1 / max(0, len(t)) if t else float("inf") for t in c])
    )


def _change(patch: Patch, name: str, changed: Callable[..., Any]) -> None:
    """`alignbench_ppo.name(...)` becomes `changed(the real one, ...)`."""
    import alignbench_ppo

    real = getattr(alignbench_ppo, name)
    patch.setattr(alignbench_ppo, name, lambda *args, **kwargs: changed(real, *args, **kwargs))


def _log_kl_as(patch: Patch, other: Callable[[float], Any]) -> None:
    log = LiveTrial.log

    def changed(self: LiveTrial, **metrics: Any) -> None:
        log(self, **{k: other(float(v)) if k == "kl_nats_k1" else v for k, v in metrics.items()})

    patch.setattr(LiveTrial, "log", changed)
