"""A PPO update beside TRL 1.16's RLOO and GRPO updates, which need no value: context, and no aim.

Each samples up to 48 tokens, four times for each prompt, scores them with a reward model of random head, asks the
reference for them and takes as many optimiser steps over them once. Entropy and length of the samples are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.perf.sides import alternate
from benchmarks.perf.test_generation import NATS, NEW
from benchmarks.perf.works import row

PROMPTS, GROUP, ROUNDS = 8, 4, 3
EPISODES = PROMPTS * GROUP


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_online(kind: str, benchmark: Any, base: dict[str, Any], data: Any, start: Any, add: Callable) -> None:
    work = {
        **base, "work": "ppo", "episodes": EPISODES, "num_ppo_epochs": 1, "kl_coef": 0.05, "rounds": ROUNDS,
        "max_new_tokens": NEW, "warm": 0, "has_critic": False,
    }  # fmt: skip
    prompts = [pair["prompt"] for pair in data.pairs[:PROMPTS]]
    ours = start("ours", {**work, "prompts": prompts * GROUP})
    peer = start("trl_online", {**work, "prompts": prompts, "kind": kind, "group": GROUP})
    us, them = alternate(benchmark, ours, peer, rounds=ROUNDS)
    assert abs(us.losses[0] - them.losses[0]) < NATS
    assert us.tokens == pytest.approx(them.tokens, rel=0.1)
    title = f"PPO update, {EPISODES} episodes ({PROMPTS} prompts x {GROUP}), epochs: 1; beside TRL's {kind.upper()}"
    add(row(title, "episodes/s", (EPISODES, EPISODES), us, them, floor_seconds=None))
