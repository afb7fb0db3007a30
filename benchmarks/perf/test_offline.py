"""DPO, SFT and reward-model steps against TRL 1.16's trainers on the same batches, and the same losses."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.perf.conftest import BATCH, ROUNDS, ROWS, STEPS, Rates
from benchmarks.perf.floor import Shape, training_seconds
from benchmarks.perf.sides import alternate, farthest
from benchmarks.perf.works import BOTH, counts, in_order_of, token_row

# nats; the margin of a pair is a difference of sums over some 60 tokens, each off by a part in 256 in bfloat16;
# `--dtype float32` shows that no more than rounding is between the sides
CLOSE = {
    "dpo": {"bfloat16": 0.08, "float32": 1e-3},
    "sft": {"bfloat16": 0.03, "float32": 1e-3},
    "reward_model": {"bfloat16": 0.05, "float32": 1e-3},
}


def compare(
    name: str, sides: tuple[str, ...], title: str, aim: str, benchmark: Any, base: dict[str, Any], data: Any,
    shape: Shape, rates: Rates, start: Callable, *, epochs: int = 1,
) -> Any:  # fmt: skip
    """`epochs`: the timed one is the last, and the others are our side's alone."""
    rows = list(zip(data.pairs[:ROWS], data.ids[:ROWS], strict=True))
    ordered = in_order_of(0, rows, epochs)
    work = {**base, "work": name, "steps": STEPS}
    warm = (epochs - 1) * (ROUNDS + 1) + 1
    ours = start("ours", {**work, "pairs": data.pairs[:ROWS], "warm": warm})
    peer = start("trl_trainers", {**work, "ordered_pairs": [row for row, _ in ordered]})
    us, them = alternate(benchmark, ours, peer, rounds=ROUNDS)
    assert us.tokens == them.tokens
    assert farthest(us, them) < CLOSE[name][base["dtype"]]
    asked = counts([ids for _, ids in ordered], BATCH, STEPS, sides, has_vocabulary=name != "reward_model")
    floor = statistics.median(sum(training_seconds(shape, c, rates.this) for c in steps) for steps in asked)
    return token_row(title, us, them, floor, aim)


def test_dpo(benchmark: Any, base: Any, data: Any, shape: Any, rates: Any, start: Any, add: Callable) -> None:
    """The reference is at hand on both sides: TRL's is precomputed, ours kept from a first epoch."""
    title, aim = "DPO step", ">= 4 (6), memory <= 0.6"
    add(compare("dpo", BOTH, title, aim, benchmark, base, data, shape, rates, start, epochs=2))


def test_sft(benchmark: Any, base: Any, data: Any, shape: Any, rates: Any, start: Any, add: Callable) -> None:
    add(compare("sft", BOTH[:1], "SFT step", ">= 2.5 (4)", benchmark, base, data, shape, rates, start))


def test_reward_model(benchmark: Any, base: Any, data: Any, shape: Any, rates: Any, start: Any, add: Callable) -> None:
    """Last-token pooling, the only one TRL has."""
    title, aim = "reward-model step", ">= 1.8 (2.5)"
    add(compare("reward_model", BOTH, title, aim, benchmark, base, data, shape, rates, start))
