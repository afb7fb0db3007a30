"""PPO's loop on a tiny model through the real trial: rollouts, minibatches, steps, and what it ends in."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from alignbench.api import Config, RewardSource, TokenBatch
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.trial import POLICY, LiveTrial
from alignbench.rl import clipped_policy_loss, clipped_value_loss, mean_over
from alignbench.scoring.evaluate import measure_kl
from alignbench.suite.spec import Lora
from alignbench_ppo import PPO, collect, optimise, shaped


class Characters(RewardSource):
    """Length, in characters: a reward any model can learn within a few steps."""

    name = "characters"

    def score(self, prompts, completions) -> Tensor:
        return torch.tensor([len(text) / 8 for text in completions])


class WatchedTrial(LiveTrial):
    """The real trial; it remembers which rows each pass with gradient read."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.read: list[tuple[int, ...]] = []

    def actor_critic(self, tokens, *rest, **options):
        self.see(tokens)
        return super().actor_critic(tokens, *rest, **options)

    def actor(self, tokens, **options):
        self.see(tokens)
        return super().actor(tokens, **options)

    def see(self, tokens):
        if torch.is_grad_enabled():
            self.read += [tuple(row) for row in tokens.ids.tolist()]


PROMPTS = [f"\n\nHuman: Question {i}?\n\nAssistant:" for i in range(24)]


@pytest.fixture
def trial_of(dialogue_model: Path, tmp_path: Path) -> Callable[..., WatchedTrial]:
    def make(
        config: PPO.Config, max_steps: int = 100, max_new_tokens: int = 8, temperature: float = 1.0
    ) -> WatchedTrial:
        device = torch.device("cpu")
        resident = Resident(dialogue_model, (), Lora(r=4, alpha=8), device, torch.float32)
        return WatchedTrial(
            resident, config, seed=5, max_steps=max_steps, max_new_tokens=max_new_tokens, prompts=PROMPTS,
            meter=Meter(device), workdir=tmp_path, reward=Characters(Config()), temperature=temperature,
        )  # fmt: skip

    return make


def zero_head(trial: LiveTrial) -> nn.Module:
    head = nn.Linear(trial.hidden_size(), 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return trial.add_trainable(head)


def test_before_the_first_step_the_ratio_is_1_and_the_kl_0(trial_of) -> None:
    config = PPO.Config(per_device_train_batch_size=4)
    trial = trial_of(config, temperature=0.7)
    head = zero_head(trial)
    episodes, kl_nats = collect(trial, PROMPTS, head, config, 0.2)
    assert kl_nats == pytest.approx(0, abs=1e-6)
    for rows in torch.randperm(24).split(4):
        tokens = TokenBatch(*(t[rows] for t in episodes.tokens))
        new = trial.actor_critic(tokens, head, temperature=0.7)
        torch.testing.assert_close(new.logprobs, episodes.logprobs[rows], rtol=0, atol=1e-5)
    assert not episodes.values.any()


def test_the_first_minibatchs_policy_loss_is_minus_its_mean_advantage(trial_of) -> None:
    config = PPO.Config(per_device_train_batch_size=4, num_ppo_epochs=1)
    trial = trial_of(config, max_steps=1, temperature=0.7)
    head = zero_head(trial)
    episodes, _ = collect(trial, PROMPTS, head, config, 0.2)
    same = random.Random()
    same.setstate(trial.rng.getstate())
    part = torch.tensor(same.sample(range(24), 24))[:4]
    optimise(trial, episodes, head, config)
    seen = trial.history[-1]
    is_response = episodes.tokens.is_response[part]
    assert seen["policy_loss"] == pytest.approx(-float(mean_over(episodes.advantages[part], is_response)), abs=1e-5)
    half_square = 0.5 * float(mean_over(episodes.returns[part] ** 2, is_response))
    assert seen["value_loss"] == pytest.approx(half_square, rel=1e-4)  # the value is 0 everywhere
    assert seen["clip_fraction"] == 0


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_a_round_of_one_episode_of_one_token_trains_on_finite_numbers(trial_of, whiten_rewards: bool) -> None:
    config = PPO.Config(rollout_batch_size=1, num_ppo_epochs=2, whiten_rewards=whiten_rewards)
    trial = trial_of(config, max_steps=4, max_new_tokens=1)
    PPO().train(trial, config)
    assert trial.budget.used == 4
    assert all(math.isfinite(value) for row in trial.history for value in row.values())


def test_each_epoch_reads_each_episode_once_in_another_order(trial_of) -> None:
    config = PPO.Config(per_device_train_batch_size=5, num_ppo_epochs=3)
    trial = trial_of(config)
    head = zero_head(trial)
    episodes, _ = collect(trial, PROMPTS, head, config, 0.2)
    optimise(trial, episodes, head, config)
    wanted = Counter(tuple(row) for row in episodes.tokens.ids.tolist())
    epochs = [trial.read[i : i + 24] for i in range(0, len(trial.read), 24)]
    assert [Counter(epoch) for epoch in epochs] == [wanted] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert trial.budget.used == 3 * math.ceil(24 / 5)


def test_the_budget_ends_training_in_the_midst_of_an_epoch(trial_of) -> None:
    config = PPO.Config(per_device_train_batch_size=4, rollout_batch_size=24)
    trial = trial_of(config, max_steps=7)
    PPO().train(trial, config)
    assert (trial.budget.used, len(trial.read)) == (7, 28)


@pytest.mark.parametrize("has_critic", [False, True])
def test_the_value_loss_reaches_the_policys_adapter_only_without_a_critic(trial_of, has_critic: bool) -> None:
    config = PPO.Config(per_device_train_batch_size=8, critic_adapter=has_critic)
    trial = trial_of(config)
    head = zero_head(trial)
    nn.init.ones_(head.weight)
    if has_critic:
        trial.add_critic()
    tokens = trial.sample(PROMPTS[:8]).tokens
    before = {n: p.detach().clone() for n, p in trial.policy.named_parameters() if "lora_" in n}
    for _ in range(2):  # the first step moves B, which starts at zero, the second also A
        values = trial.critic(tokens, head) if has_critic else trial.actor_critic(tokens, head).values
        trial.step(values.sum())
    moved = {n.split(".")[-2] for n, p in trial.policy.named_parameters() if n in before and not p.equal(before[n])}
    assert moved == ({"critic"} if has_critic else {"policy"})


@pytest.mark.parametrize("ent_coef", [0.0, 0.01])
def test_the_entropy_bonus_pulls_on_the_adapter_and_without_one_entropies_carry_no_gradient(
    trial_of, monkeypatch, ent_coef: float
) -> None:
    """Against the same loss over entropies that always carry theirs."""
    config = PPO.Config(ent_coef=ent_coef, per_device_train_batch_size=24, num_ppo_epochs=1)
    trial = trial_of(config)
    head = zero_head(trial)
    episodes, _ = collect(trial, PROMPTS, head, config, 0.2)
    adapter = [p for n, p in trial.policy.named_parameters() if "lora_B" in n]
    critic, outputs, losses = trial.actor_critic, [], []

    def watched(*args, **options):
        outputs.append(critic(*args, **options))
        return outputs[-1]

    monkeypatch.setattr(trial, "actor_critic", watched)
    monkeypatch.setattr(trial, "step", lambda loss, **rest: losses.append(loss))
    optimise(trial, episodes, head, config)
    assert [out.entropies.requires_grad for out in outputs] == [ent_coef > 0]
    ours = torch.autograd.grad(losses[0], adapter)

    mask = episodes.tokens.is_response
    new = critic(episodes.tokens, head, has_entropy_gradient=True)
    ratio = (new.logprobs - episodes.logprobs).exp()
    loss = clipped_policy_loss(ratio, episodes.advantages, mask, config.cliprange)
    loss = loss + config.vf_coef * clipped_value_loss(new.values, episodes.values, episodes.returns, mask, 0.2)
    bonus = torch.autograd.grad(mean_over(new.entropies, mask), adapter, retain_graph=True)
    for gradient, without, pull in zip(ours, torch.autograd.grad(loss, adapter), bonus, strict=True):
        torch.testing.assert_close(gradient, without - ent_coef * pull, atol=1e-6, rtol=1e-4)
    assert max(float(pull.abs().max()) for pull in bonus) > 1e-2  # so that a bonus left out would show


def test_a_critic_starts_as_the_policy_does_and_changes_no_log_probability(trial_of) -> None:
    trial = trial_of(PPO.Config(critic_adapter=True))
    head = zero_head(trial)
    nn.init.ones_(head.weight)
    tokens = trial.sample(PROMPTS).tokens
    plain = trial.actor_critic(tokens, head)
    trial.add_critic()
    torch.testing.assert_close(trial.critic(tokens, head), plain.values)
    for ours, beside in zip(trial.actor(tokens), plain, strict=False):
        torch.testing.assert_close(ours, beside)


def test_a_critics_step_is_one_step_on_the_whole_loss(trial_of) -> None:
    """Its part is stepped on earlier, and clipped and logged with the rest."""
    config = PPO.Config(per_device_train_batch_size=24, num_ppo_epochs=1, critic_adapter=True, vf_coef=0.5)
    trial = trial_of(config)
    head = zero_head(trial)
    trial.add_critic()
    optimise(trial, collect(trial, PROMPTS, head, config, 0.2)[0], head, config)
    seen = trial.history[-1]
    whole = seen["policy_loss"] + 0.5 * seen["value_loss"] - config.ent_coef * seen["entropy_nats"]
    assert trial.budget.used == 1
    assert seen["loss"] == pytest.approx(whole, abs=1e-6)
    assert trial._added == 0


@pytest.mark.parametrize("max_grad_norm", [1e9, 1e-3])
def test_a_critics_step_has_the_gradient_of_the_whole_loss_clipped_as_one(trial_of, max_grad_norm: float) -> None:
    config = PPO.Config(
        per_device_train_batch_size=24, num_ppo_epochs=1, critic_adapter=True, vf_coef=0.5, max_grad_norm=max_grad_norm
    )
    trial = trial_of(config)
    head = zero_head(trial)
    nn.init.ones_(head.weight)  # a zero head would pass the critic's adapter nothing
    trial.add_critic()
    weights = trial._adapter + trial._extra
    episodes, _ = collect(trial, PROMPTS, head, config, 0.2)
    values, (logprobs, entropies) = trial.critic(episodes.tokens, head), trial.actor(episodes.tokens)
    mask = episodes.tokens.is_response
    ratio = (logprobs - episodes.logprobs).exp()
    policy = clipped_policy_loss(ratio, episodes.advantages, mask, config.cliprange)
    value = clipped_value_loss(values, episodes.values, episodes.returns, mask, config.cliprange_value)
    for weight in weights:
        weight.requires_grad_(True)
    whole = policy + 0.5 * value - config.ent_coef * mean_over(entropies, mask)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(whole, weights)])
    expected *= min(1.0, max_grad_norm / float(expected.norm()))

    seen: list[Tensor] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *args: seen.append(
            torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
        )
    )
    optimise(trial, episodes, head, config)
    handle.remove()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected, atol=1e-6 * float(expected.norm()), rtol=1e-3)


def test_a_critic_and_the_trunks_values_are_not_asked_for_together(trial_of) -> None:
    trial = trial_of(PPO.Config())
    head, tokens = zero_head(trial), trial.sample(PROMPTS[:2]).tokens
    with pytest.raises(RuntimeError, match="critic before add_critic"):
        trial.critic(tokens, head)
    trial.add_critic()
    with pytest.raises(RuntimeError, match="actor_critic after add_critic"):
        trial.actor_critic(tokens, head)


@pytest.mark.parametrize("has_critic", [False, True])
def test_a_step_over_three_passes_is_the_step_over_all_episodes_at_once(trial_of, has_critic: bool) -> None:
    """Also where the critic's part of each pass is stepped on before the policy's."""
    ends = []
    for size, passes in ((24, 1), (8, 3)):
        config = PPO.Config(
            per_device_train_batch_size=size, gradient_accumulation_steps=passes, num_ppo_epochs=1, learning_rate=0.01,
            critic_adapter=has_critic, vf_coef=0.5, rollout_batch_size=24,
        )  # fmt: skip
        trial = trial_of(config, max_steps=1)
        PPO().train(trial, config)
        assert trial.budget.used == 1
        adapters = {name: p for name, p in trial.policy.named_parameters() if "lora_B" in name}
        ends.append(torch.cat([p.detach().flatten() for _, p in sorted(adapters.items())]))
    assert ends[0].abs().sum() > 0
    torch.testing.assert_close(*ends, atol=2e-5, rtol=1e-3)


def test_a_missing_end_lowers_the_score_of_unended_episodes_alone(trial_of) -> None:
    """With lam = gamma = 1, no KL and a value of 0, the return of every token is its episode's score."""
    returns, ended = [], []
    for penalty in (None, 3.0):
        config = PPO.Config(kl_coef=0, lam=1, missing_eos_penalty=penalty)
        trial = trial_of(config, max_new_tokens=60)
        episodes, _ = collect(trial, PROMPTS, zero_head(trial), config, 0.0)
        is_response = episodes.tokens.is_response
        last = torch.where(is_response, episodes.tokens.ids, -1)
        ended.append((last == trial.tokenizer.eos_token_id).any(1))
        returns.append(episodes.returns.sum(1) / is_response.sum(1))
    assert torch.equal(ended[0], ended[1])
    assert 0 < int(ended[0].sum()) < 24
    torch.testing.assert_close(returns[0] - returns[1], 3.0 * (~ended[0]).float(), atol=1e-4, rtol=0)


def test_scores_are_clipped_and_then_lose_their_penalties(trial_of) -> None:
    """With lam = gamma = 1, no KL and a value of 0, the return of every token is its episode's reward."""
    config = PPO.Config(kl_coef=0, lam=1, score_clip=1.5, length_penalty=0.25)
    trial = trial_of(config)
    episodes, _ = collect(trial, PROMPTS, zero_head(trial), config, 0.0)
    lengths = episodes.tokens.is_response.sum(1)
    plain = trial_of(PPO.Config(kl_coef=0, lam=1))
    scores = plain.reward(plain.sample(PROMPTS))
    assert (scores > 1.5).any()
    assert (scores < 1.5).any()
    expected = scores.clamp(-1.5, 1.5) - 0.25 * lengths
    torch.testing.assert_close(episodes.returns.sum(1) / lengths, expected, atol=1e-4, rtol=0)
    below = shaped(torch.tensor([-9.0]), plain.sample(PROMPTS[:1]), PPO.Config(score_clip=2.0))
    assert below.tolist() == [-2.0]


def test_training_ends_at_the_first_round_beyond_the_target_kl(trial_of) -> None:
    config = {
        "kl_coef": 0.0, "learning_rate": 5e-3, "rollout_batch_size": 24, "per_device_train_batch_size": 24,
        "num_ppo_epochs": 2,
    }  # fmt: skip
    whole = trial_of(PPO.Config(**config), max_steps=20)
    PPO().train(whole, PPO.Config(**config))
    seen = [row["kl_nats_k1"] for row in whole.history if "kl_nats_k1" in row]
    first = next(i for i, kl in enumerate(seen) if kl > 0.05)
    assert 0 < first < len(seen) - 1
    stopped = trial_of(PPO.Config(**config, target_kl=0.05), max_steps=20)
    PPO().train(stopped, PPO.Config(**config, target_kl=0.05))
    assert stopped.budget.used == 2 * first
    assert [row["kl_nats_k1"] for row in stopped.history if "kl_nats_k1" in row] == seen[: first + 1]


def test_an_adaptive_coefficient_falls_below_the_target_and_a_fixed_one_stays(trial_of) -> None:
    coefficients = {}
    for controller in ("fixed", "adaptive"):
        config = PPO.Config(
            kl_controller=controller, kl_horizon=240, rollout_batch_size=24, per_device_train_batch_size=24,
            num_ppo_epochs=1, learning_rate=1e-5,
        )  # fmt: skip
        trial = trial_of(config, max_steps=3)
        PPO().train(trial, config)
        coefficients[controller] = [row["kl_coef"] for row in trial.history if "kl_coef" in row]
    assert coefficients["fixed"] == [0.2] * 3
    assert coefficients["adaptive"] == pytest.approx([0.2, 0.2 * 0.98, 0.2 * 0.98**2])


def test_without_a_kl_term_the_reward_rises_and_a_large_one_holds_the_policy_near_the_reference(trial_of) -> None:
    ends = []
    for kl_coef in (0.0, 1.0):
        config = PPO.Config(
            kl_coef=kl_coef, ent_coef=0, cliprange=0.5, rollout_batch_size=48, per_device_train_batch_size=24,
            learning_rate=5e-3,
        )  # fmt: skip
        trial = trial_of(config, max_steps=160)
        before = float(trial.reward(trial.sample(PROMPTS * 24)).mean())
        PPO().train(trial, config)
        rollout = trial.sample(PROMPTS * 24)
        kl = measure_kl(trial._resident, POLICY, trial._resident, rollout.tokens).exact
        ends.append((float(kl.mean()), float(trial.reward(rollout).mean()) - before))
    (far, much), (near, little) = ends
    assert far > 3 * near > 0
    assert much > little + 0.1
    assert much > 0.2


@pytest.mark.parametrize(
    "other",
    [
        {"ent_coef": 0.01},
        {"kl_controller": "adaptive"},
        {"missing_eos_penalty": 1.0},
        {"length_penalty": 0.1},
        {"score_clip": 1.0},
        {"gamma": 0.9},
        {"whiten_rewards": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_closed_form_is_claimed_for_the_plain_objective_alone(other):
    plain = {"kl_coef": 0.3, "ent_coef": 0.0}
    assert PPO().beta(PPO.Config(**plain)) == 0.3
    assert PPO().beta(PPO.Config(**{**plain, **other})) is None
