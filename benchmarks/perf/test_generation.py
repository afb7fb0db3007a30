"""Generation, batch 32, up to 48 new tokens, against transformers' generate; samples are of one distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.perf.conftest import ROUNDS
from benchmarks.perf.floor import generation_seconds
from benchmarks.perf.sides import alternate
from benchmarks.perf.works import token_row

PROMPTS, NEW = 32, 48
NATS = 0.35  # between the mean surprise of two samples of some 1,000 tokens: about four standard errors
WIDTH = {"bfloat16": 2, "float32": 4}  # bytes of a number
CASES = {
    "adapter": ("generation, sampled, adapter attached", True, False, ">= 2.5 (half the floor)"),
    "plain": ("generation, sampled, no adapter", False, False, ""),
    "greedy": ("generation, ours sampled, peer greedy, no adapter", False, True, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_generation(
    case: str, benchmark: Any, base: dict[str, Any], data: Any, shape: Any, rates: Any, start: Any, add: Callable
) -> None:
    title, has_adapter, is_greedy, aim = CASES[case]
    rounds = ROUNDS if aim else 3
    prompts = [ids["prompt"] for ids in data.ids[:PROMPTS]]
    work = {
        **base, "work": "generation", "prompts": prompts, "max_new_tokens": NEW, "has_adapter": has_adapter,
        "is_greedy": is_greedy, "pad": data.pad, "eos": data.eos, "rounds": rounds,
    }  # fmt: skip
    us, them = alternate(benchmark, start("ours", work), start("hf_generate", work), rounds=rounds)
    if not is_greedy:
        assert abs(us.losses[0] - them.losses[0]) < NATS
    floor = generation_seconds(
        shape if has_adapter else shape._replace(r=0), [len(p) for p in prompts], us.tokens / PROMPTS, NEW,
        rates.this, WIDTH[base["dtype"]],
    )  # fmt: skip
    add(token_row(title, us, them, floor, aim))
