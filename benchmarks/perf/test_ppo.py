"""A PPO update against TRL 1.12's trainer, which runs in an environment of its own (make_ppo_env.sh).

Both sample up to 48 tokens for each prompt, score them with a reward model of random head, and take as many optimiser
steps over as many epochs. Texts are the samplers' own, so that not losses but our mean entropy and their mean surprise
are compared, and how much was sampled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.perf.floor import Count, forward_seconds, generation_seconds, training_seconds
from benchmarks.perf.sides import ROOT, alternate
from benchmarks.perf.test_generation import NATS, NEW, WIDTH
from benchmarks.perf.works import row

PYTHON = Path(os.environ.get("PPO_ENV", ROOT / ".venv-ppo"), "bin", "python")
AIMS = {False: ">= 2.5 (4), memory <= 0.5", True: ">= 1.8 (2.5), memory <= 0.5"}  # has a critic of its own
CASES = {"4-epochs": (32, 4, 3), "1-epoch": (64, 1, 3)}  # episodes, epochs, rounds: a round of the peer is a minute


@pytest.mark.skipif(not PYTHON.exists(), reason="no environment of TRL 1.12: run benchmarks/perf/make_ppo_env.sh")
@pytest.mark.parametrize("case", CASES)
def test_ppo(
    case: str, benchmark: Any, base: dict[str, Any], data: Any, shape: Any, rates: Any, start: Any, add: Callable
) -> None:
    episodes, epochs, rounds = CASES[case]
    work = {
        **base, "work": "ppo", "episodes": episodes, "num_ppo_epochs": epochs, "kl_coef": 0.05, "rounds": rounds,
        "max_new_tokens": NEW, "warm": 0, "eos_text": data.eos_text,
    }  # fmt: skip
    rows = list(zip(data.pairs, data.ids, strict=True))[:episodes]
    prompts = [pair["prompt"] for pair, _ in rows]
    ours, critic = (start("ours", {**work, "prompts": prompts, "has_critic": has}) for has in (False, True))
    peer = start("trl_ppo", {**work, "prompts": [ids["prompt"] for _, ids in rows]}, python=str(PYTHON))
    us, with_critic, them = alternate(benchmark, ours, critic, peer, rounds=rounds)
    assert abs(us.losses[0] - them.losses[0]) < NATS
    assert us.tokens == pytest.approx(them.tokens, rel=0.1)
    answer = us.tokens / episodes
    ask = ([len(ids["prompt"]) for _, ids in rows], answer, epochs, shape, rates.this, WIDTH[base["dtype"]])
    title, done = f"PPO update, {episodes} episodes, epochs: {epochs}; value ", (episodes, episodes)
    for name, side, has in (("on the policy's trunk", us, False), ("with an adapter", with_critic, True)):
        add(row(title + name, "episodes/s", done, side, them, floor_seconds(*ask, has_critic=has), AIMS[has]))


def floor_seconds(
    prompts: list[int], answer: float, epochs: int, shape: Any, machine: Any, width: int, *, has_critic: bool
) -> float:
    """Rollouts; one pass of policy, reference and reward model each; training passes over all epochs. A critic's meet
    no vocabulary."""
    seen = sum(p * (p + 1) // 2 + round(answer * p + answer * (answer + 1) / 2) for p in prompts)
    batch = Count(round(sum(prompts) + answer * len(prompts)), seen, round(answer * len(prompts)))
    trunk = batch._replace(responses=0)
    passes = sum(forward_seconds(shape, c, machine) for c in (batch, batch, trunk, *[trunk] * has_critic))
    steps = sum(training_seconds(shape, c, machine) for c in (batch, *[trunk] * has_critic))
    return generation_seconds(shape, prompts, answer, NEW, machine, width) + passes + epochs * steps
