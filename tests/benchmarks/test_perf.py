"""The speed table's own arithmetic, and that its works are there to run. No speed is tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.perf.floor import Count, Machine, Shape, backward, count, forward, generation_seconds
from benchmarks.perf.table import Row, render
from benchmarks.perf.works import counts, in_order_of

ROOT = Path(__file__).parents[2]
# two heads of 3 over one key head of 3, so that a block has 4x6, 4x3, 4x3, 6x4, 4x5, 4x5 and 5x4 weights
TINY = Shape(layers=2, hidden=4, intermediate=5, heads=2, groups=1, head_size=3, vocabulary=7, r=2)
WORKS = {"dpo", "sft", "reward_model", "generation[adapter]", "ppo[4-epochs]", "sharing", "overhead"}


def test_flops_of_a_tiny_pass_are_those_counted_by_hand() -> None:
    assert TINY.weights == 24 + 12 + 12 + 24 + 20 + 20 + 20
    assert TINY.lora == 2 * (10 + 7 + 7 + 10 + 9 + 9 + 9)
    # prompt of 2, answers of 1 and 3: tokens 2 + 4; pairs 1+2, then 3, then 3+4+5
    asked = count([([5, 6], 1), ([5, 6], 3)])
    assert asked == Count(tokens=6, seen=3 + 3 + 12, responses=4)
    blocks = 2 * (2 * 132 * 6 + 2 * 122 * 6 + 4 * 6 * 18)
    assert forward(TINY, asked) == blocks + 2 * 4 * 7 * 4
    assert backward(TINY, asked) == 2 * (2 * 132 * 6 + 4 * 122 * 6 + 8 * 6 * 18) + 2 * 4 * 7 * 4


def test_a_torch_pass_has_the_flops_the_floor_counts() -> None:
    """Forward of the bare model at all positions, counted by torch from the products it runs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, attn_implementation="eager",
    ))  # fmt: skip
    shape = Shape(layers=3, hidden=8, intermediate=12, heads=4, groups=2, head_size=6, vocabulary=50)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, 7, dtype=torch.long), use_cache=False)
    square = 7 * 7  # eager attention multiplies also what its mask hides
    assert counter.get_total_flops() == forward(shape, Count(tokens=7, seen=square, responses=7))


def test_generation_cannot_be_faster_than_reading_its_weights() -> None:
    bare = TINY._replace(r=0)
    slow = Machine(flops=1e30, bytes=10.0)
    weights = 2 * 132 + 4 * 7
    cached = 2 * 2 * 1 * 3 * (3 * 2 + 6)  # keys and values, 2 layers, 1 head of 3; answer tokens see 3, 4, 5 tokens
    assert generation_seconds(bare, [2], 3, 3, slow, width=2) == pytest.approx(2 * (weights * 3 + cached) / 10)


def test_batches_are_those_the_engine_draws() -> None:
    import random

    rng = random.Random(0)
    first, second = rng.sample(range(4), 4), rng.sample(range(4), 4)
    assert (in_order_of(0, "abcd"), in_order_of(0, "abcd", epoch=2)) == (
        ["abcd"[i] for i in first],
        ["abcd"[i] for i in second],
    )
    ids = [{"prompt": [1], "chosen": [2] * n, "rejected": [3]} for n in (9, 9, 2, 3)]
    (timed,) = counts(ids, 2, 1, ("chosen",), has_vocabulary=False)
    assert timed == [Count(tokens=6, seen=1 + 2 + 3 + 2 + 3 + 4, responses=0)]
    two_steps = counts(ids, 1, 2, ("chosen",), has_vocabulary=False)
    assert two_steps == [[Count(3, 1 + 2 + 3, 0), Count(4, 1 + 2 + 3 + 4, 0)]]


def test_a_row_shows_ratios_and_the_share_of_the_floor() -> None:
    row = Row("DPO step", "tokens/s", 400.0, 100.0, 3.5, ">= 4", (2e9, 5e9), 0.5, 2.0, (0.7, 0.69))
    line = "| DPO step | 400 tokens/s | 100 | 4.00 | 3.50 | >= 4 | 2.00 / 5.00 | 0.40 | 0.5 | 25% | 0.7000 / 0.6900 |"
    assert render("here", [row], []).splitlines()[-2] == line


def test_every_work_is_collected() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/perf", "--collect-only"], cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout + out.stderr
    names = {line.split("::test_")[1] for line in out.stdout.splitlines() if "::test_" in line}
    assert names >= WORKS
