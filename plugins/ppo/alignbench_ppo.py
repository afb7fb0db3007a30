"""RLHF with PPO: supervised start, human comparisons, a Bradley-Terry reward model, token-level PPO against it.

Ziegler et al. 2019 (arXiv:1909.08593) and Ouyang et al. 2022 (arXiv:2203.02155) for the recipe, Schulman et al. 2017
(arXiv:1707.06347) for the clipped objective, Schulman et al. 2016 (arXiv:1506.02438) for the advantages. Option names
are TRL's.

One departure from the four-model original: policy, reference, value and reward share one set of base weights. The value
is a zero-initialised linear head, in float32, on the policy's own hidden states, or with `critic_adapter` on those of a
second adapter, which costs a pass more and leaves the policy's trunk to the policy.

    alignbench run quickstart

`ppo_iterated` is the same in several rounds, with the reward model fitted anew before each to what the last policy says
too (iterated online RLHF, Bai et al. 2022, arXiv:2204.05862).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

import alignbench
from alignbench import AlignmentMethod, Inputs, MethodConfig, RecipeBuilder, Rollout, Stage, TokenBatch, Trial
from alignbench.rl import adapted, clipped_policy_loss, clipped_value_loss, gae, k1, mean_over, token_rewards, whiten

if TYPE_CHECKING:
    from torch import Tensor


class PPO(AlignmentMethod):
    name = "ppo"
    summary = "RLHF: reward model on human comparisons, then PPO"
    needs = frozenset({"prompts", "reward"})
    kl_knob = "kl_coef"

    class Config(MethodConfig):
        max_grad_norm: PositiveFloat = 0.5
        rollout_batch_size: PositiveInt = 64  # episodes sampled between two rounds of optimisation
        num_ppo_epochs: PositiveInt = 4  # passes over each round's episodes
        kl_coef: NonNegativeFloat = 0.2  # reward lost per nat of log p - log p_ref; larger stays nearer the reference
        kl_controller: Literal["fixed", "adaptive"] = "fixed"  # adaptive: Ziegler et al. section 2.2
        kl_target: PositiveFloat = 6.0  # nats per episode the adaptive controller steers to
        kl_horizon: PositiveInt = 10_000  # episodes over which it does
        gamma: float = Field(1.0, gt=0, le=1)
        lam: float = Field(0.95, ge=0, le=1)
        cliprange: PositiveFloat = 0.2  # of the probability ratio
        cliprange_value: PositiveFloat = 0.2  # of the value's change
        vf_coef: NonNegativeFloat = 0.1
        critic_adapter: bool = False  # values from an adapter of their own instead of the policy's hidden states
        ent_coef: NonNegativeFloat = 0.01
        whiten_rewards: bool = False  # scale the rewards before the advantages, keeping their mean
        missing_eos_penalty: NonNegativeFloat | None = None  # taken off the score of an episode that did not end itself
        length_penalty: NonNegativeFloat = 0.0  # taken off the score per token of the response
        score_clip: PositiveFloat | None = None  # scores beyond this many points, either way, count as so many
        target_kl: PositiveFloat | None = (
            None  # nats per episode at which training ends: a round that has more is not used
        )

    def beta(self, config: Config) -> float | None:
        """`kl_coef`, unless the objective is another one: a moving coefficient, a bonus, a penalty, a clipped score, a
        discount."""
        is_plain = config.kl_controller == "fixed" and not config.ent_coef
        is_as_scored = not (config.missing_eos_penalty or config.length_penalty or config.score_clip)
        is_whole = config.gamma == 1 and not config.whiten_rewards
        return config.kl_coef if is_plain and is_as_scored and is_whole else None

    def train(self, trial: Trial, config: Config) -> None:
        from torch import nn

        head = nn.Linear(trial.hidden_size(), 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        value_head = trial.add_trainable(head)
        if config.critic_adapter:
            trial.add_critic()
        trial.state["kl_coef"] = config.kl_coef
        for prompts in trial.prompt_batches(config.rollout_batch_size):
            kl_coef = trial.state["kl_coef"]  # read here: a resumed run has it back with its first batch
            episodes, kl_nats = collect(trial, prompts, value_head, config, kl_coef)
            if config.target_kl is not None and kl_nats > config.target_kl:
                return
            optimise(trial, episodes, value_head, config)
            if config.kl_controller == "adaptive":
                trial.state["kl_coef"] = adapted(kl_coef, kl_nats, config.kl_target, len(prompts), config.kl_horizon)


class Episodes(NamedTuple):
    """A round of rollouts with all that stays fixed while it is optimised. Per token unless said otherwise."""

    tokens: TokenBatch
    logprobs: Tensor  # (B, T) nats, of the policy that sampled
    values: Tensor  # (B, T)
    advantages: Tensor  # (B, T) whitened
    returns: Tensor  # (B, T)

    def some(self, rows: Tensor) -> Episodes:
        return Episodes(TokenBatch(*(t[rows] for t in self.tokens)), *(values[rows] for values in self[1:]))


def collect(
    trial: Trial, prompts: list[str], value_head: Any, config: PPO.Config, kl_coef: float
) -> tuple[Episodes, float]:
    """Sample one episode per prompt and value each token of it. Also the mean KL of an episode, nats (k1 estimator)."""
    import torch

    rollout = trial.sample(prompts)
    is_response = rollout.tokens.is_response
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for rows in _slices(len(prompts), 4 * config.per_device_train_batch_size):
            tokens = TokenBatch(*(t[rows] for t in rollout.tokens))
            if config.critic_adapter:
                old = trial.logprobs(tokens)
                old_values = trial.critic(tokens, value_head)
            else:
                old, _, old_values = trial.actor_critic(tokens, value_head)
            parts.append((old, old_values, trial.reference_logprobs(tokens)))
    logprobs, values, reference = (torch.cat(column) for column in zip(*parts, strict=True))
    scores = trial.reward(rollout)
    rewards = token_rewards(shaped(scores, rollout, config), logprobs, reference, is_response, kl_coef)
    if config.whiten_rewards:
        rewards = whiten(rewards, is_response, keep_mean=True)
    advantages, returns = gae(rewards, values, is_response, config.gamma, config.lam)
    kl_nats = float(k1(logprobs, reference).sum(1).mean())
    trial.log(reward=scores.mean(), kl_nats_k1=kl_nats, kl_coef=kl_coef, eos_rate=rollout.is_ended.float().mean())
    return Episodes(rollout.tokens, logprobs, values, whiten(advantages, is_response), returns), kl_nats


def shaped(scores: Tensor, rollout: Rollout, config: PPO.Config) -> Tensor:
    """(B,) scores -> (B,) what an episode is rewarded with: clipped, less its penalties."""
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    if config.missing_eos_penalty is not None:
        scores = scores - config.missing_eos_penalty * (~rollout.is_ended).float()
    return scores - config.length_penalty * rollout.tokens.is_response.sum(-1)


def optimise(trial: Trial, episodes: Episodes, value_head: Any, config: PPO.Config) -> None:
    """`num_ppo_epochs` passes over the episodes in shuffled minibatches, or until no step is left."""
    import torch

    count = len(episodes.logprobs)
    for _ in range(config.num_ppo_epochs):
        order = torch.tensor(trial.rng.sample(range(count), count), device=trial.device)
        for rows in _slices(count, config.per_device_train_batch_size):
            if not trial.budget.steps_left:
                return
            _step(trial, episodes.some(order[rows]), value_head, config)


def _step(trial: Trial, part: Episodes, value_head: Any, config: PPO.Config) -> None:
    """One optimiser step on some episodes."""
    tokens, mask = part.tokens, part.tokens.is_response
    items = int(mask.sum())
    has_entropy_gradient = config.ent_coef != 0
    loss: Tensor | float = 0.0
    if config.critic_adapter:  # its pass is over, back and forth, before the policy's begins
        value_loss = _value_loss(trial.critic(tokens, value_head), part, config)
        trial.add_loss(config.vf_coef * value_loss, count=items)
        logprobs, entropies = trial.actor(tokens, has_entropy_gradient=has_entropy_gradient)
    else:
        logprobs, entropies, values = trial.actor_critic(tokens, value_head, has_entropy_gradient=has_entropy_gradient)
        value_loss = _value_loss(values, part, config)
        loss = config.vf_coef * value_loss
    ratio = (logprobs - part.logprobs).exp()
    policy_loss = clipped_policy_loss(ratio, part.advantages, mask, config.cliprange)
    entropy = mean_over(entropies, mask)
    trial.step(
        loss + policy_loss - config.ent_coef * entropy, count=items,
        policy_loss=policy_loss, value_loss=value_loss, entropy_nats=entropy,
        clip_fraction=mean_over(((ratio - 1).abs() > config.cliprange).float(), mask),
    )  # fmt: skip


def _value_loss(values: Tensor, part: Episodes, config: PPO.Config) -> Tensor:
    return clipped_value_loss(values, part.values, part.returns, part.tokens.is_response, config.cliprange_value)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


class IteratedPPO(PPO):
    name = "ppo_iterated"
    summary = "RLHF in rounds: before each, the reward model is refreshed on the last policy's samples"

    class Config(PPO.Config):
        num_rounds: PositiveInt = 2  # trainings, each from the supervised start; with 1 it is `ppo`

    def recipe(self, config: Config, build: RecipeBuilder) -> Inputs:
        """Every round's policy answers the label prompts, and those answers are compared like the start's."""
        start, policies = build.sft(), list[Stage]()
        plain = PPO.Config(**{name: value for name, value in config if name in PPO.Config.model_fields})
        while True:
            inputs = Inputs(start, reward=build.reward_model(start, build.comparisons(start, policies)))
            if len(policies) + 1 == config.num_rounds:
                return inputs
            policies.append(build.trained("ppo", plain, inputs))


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return [PPO, IteratedPPO]
