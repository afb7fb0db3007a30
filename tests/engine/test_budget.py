"""A budget in another unit than steps ends a run with the batch that spends the last of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from alignbench.api import OptimizerConfig
from alignbench.engine.meter import Meter
from alignbench.engine.trial import LiveTrial
from alignbench.feedback.length import Length
from alignbench.suite.spec import Allowance
from alignbench_ppo import PPO

PROMPTS = ["the film is", "a", "the plot", "one"]
PAIRS = [{"prompt": p, "chosen": " good", "rejected": " bad and long"} for p in PROMPTS]
BATCH = 2


@pytest.fixture
def trial(resident: Any, tmp_path: Path) -> Any:
    def make(budget: dict[str, float] | None, *, max_steps: int = 20, **config: Any) -> LiveTrial:
        made = resident("llama")
        options = {"per_device_train_batch_size": BATCH, "lr_scheduler_type": "constant", **config}
        return LiveTrial(
            made, OptimizerConfig(**options), seed=0, max_steps=max_steps, max_new_tokens=4, prompts=PROMPTS,
            meter=Meter(made.device), workdir=tmp_path, preferences=PAIRS, reward=Length(Length.Config()),
            budget=budget,
        )  # fmt: skip

    return make


def train(trial: LiveTrial) -> None:
    """Steps on pairs until the stream ends."""
    for pair in trial.preference_batches():
        trial.step(-F.logsigmoid(trial.logprob_gap(pair) - trial.reference_gap(pair)).mean())


@pytest.mark.parametrize(("episodes", "steps"), [(1, 1), (4, 1), (5, 2), (12, 3)])
def test_completions_that_were_read_are_counted_two_a_pair(trial: Any, episodes: int, steps: int) -> None:
    made = trial({"episodes": episodes})
    train(made)
    assert made.budget.used == steps  # two pairs a step
    assert made.budget.share == 2 * BATCH * steps / episodes


def test_completions_that_were_sampled_are_counted_one_a_prompt(trial: Any) -> None:
    made = trial({"episodes": 6})
    shares = []
    for prompts in made.prompt_batches(3):
        rollout = made.sample(prompts)
        made.step(-made.logprobs(rollout.tokens).mean())
        shares.append(made.budget.share)
    assert shares == [0.5, 1.0]


def test_operations_end_a_run_with_the_step_that_passes_them(trial: Any) -> None:
    whole = trial(None, max_steps=4)
    train(whole)
    each = whole._meter.flops / 4
    made = trial({"flops": 2.5 * each})
    train(made)
    assert made.budget.used == 3
    assert made._meter.flops - each < 2.5 * each <= made._meter.flops


def test_seconds_end_a_run(trial: Any) -> None:
    made = trial({"seconds": 1e-6})
    assert made.budget.is_spent
    train(made)
    assert made.budget.used == 0


def test_steps_end_a_run_that_has_spent_less(trial: Any) -> None:
    made = trial({"episodes": 1000}, max_steps=2)
    train(made)
    assert (made.budget.used, made.budget.share) == (2, 0.008)


@pytest.mark.parametrize(("episodes", "steps"), [(8, 1), (20, 2), (32, 2), (33, 3)])
def test_a_step_of_several_passes_is_taken_whole(trial: Any, episodes: int, steps: int) -> None:
    """Four passes of two pairs make a step, of 16 completions."""
    made = trial({"episodes": episodes}, gradient_accumulation_steps=4)
    train(made)
    assert made.budget.used == steps
    assert made.budget.share == 16 * steps / episodes
    assert made.budget.is_spent


def test_the_rollouts_that_spend_the_last_are_learned_from(trial: Any) -> None:
    """Rounds of four episodes, two steps each: what was sampled is not thrown away."""
    made = trial({"episodes": 4})
    config = PPO.Config(rollout_batch_size=4, per_device_train_batch_size=2, num_ppo_epochs=1)
    PPO().train(made, config)
    assert (made.budget.used, made.budget.share) == (2, 1.0)
    made = trial({"episodes": 5})
    PPO().train(made, config)
    assert (made.budget.used, made.budget.share) == (4, 1.6)


def test_without_a_budget_bits_are_as_they_were(trial: Any) -> None:
    plain, roomy = trial(None, max_steps=3), trial({"episodes": 10**9}, max_steps=3)
    train(plain)
    train(roomy)
    for a, b in zip(plain._adapter, roomy._adapter, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("given", [{}, {"flops": 1e9, "seconds": 3}])
def test_a_budget_names_one_unit(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=f"should name one of flops, seconds, episodes, got {len(given)} of them"):
        Allowance(**given)
    assert Allowance(episodes=5).by_unit == {"episodes": 5.0}
