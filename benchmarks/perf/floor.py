"""The least a work can take here: its FLOPs over the measured matrix-product rate, or its bytes over the bandwidth.

Counted are matrix products alone: a weight costs 2 FLOPs a token forward and, being frozen, 2 backward (the gradient of
its input); an adapter's weights 2 and 4; a pair of query and key 4 x head size forward, 8 backward; the vocabulary as a
frozen weight, at response positions. A prompt that several answers share is computed once. Norms, softmax, activations,
the optimiser and recomputation are not in it, so the floor cannot be reached.

    python -m benchmarks.perf.floor       # prints the machine's rates as JSON
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """A Llama-like model. Weights are counted per block."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int  # key and value heads
    head_size: int
    vocabulary: int
    r: int = 0  # of the adapters on every linear layer; 0: none

    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of a block's linear layers."""
        wide, narrow = self.heads * self.head_size, self.groups * self.head_size
        attention = [(self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden)]
        return attention + [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]

    @property
    def weights(self) -> int:
        return sum(i * o for i, o in self.linears())

    @property
    def lora(self) -> int:
        return sum(self.r * (i + o) for i, o in self.linears())


class Count(NamedTuple):
    """What a batch asks for."""

    tokens: int  # that pass the blocks
    seen: int  # pairs of a query and a key it attends to, itself included
    responses: int  # positions that meet the vocabulary


class Machine(NamedTuple):
    """Rates of this machine in one dtype."""

    flops: float  # a second, matrix products
    bytes: float  # a second, read


def count(texts: Sequence[tuple[Sequence[int], int]], has_vocabulary: bool = True) -> Count:
    """Prompts' ids and answers' lengths; equal prompts pass once."""
    prompts = {tuple(prompt) for prompt, _ in texts}
    tokens = sum(map(len, prompts)) + sum(answer for _, answer in texts)
    seen = sum(len(p) * (len(p) + 1) // 2 for p in prompts)
    seen += sum(answer * len(p) + answer * (answer + 1) // 2 for p, answer in texts)
    return Count(tokens, seen, sum(answer for _, answer in texts) if has_vocabulary else 0)


def forward(shape: Shape, c: Count) -> int:
    """FLOPs."""
    blocks = 2 * (shape.weights + shape.lora) * c.tokens + 4 * shape.heads * shape.head_size * c.seen
    return shape.layers * blocks + 2 * shape.hidden * shape.vocabulary * c.responses


def backward(shape: Shape, c: Count) -> int:
    """FLOPs; the base weights are frozen, the adapters train."""
    blocks = (2 * shape.weights + 4 * shape.lora) * c.tokens + 8 * shape.heads * shape.head_size * c.seen
    return shape.layers * blocks + 2 * shape.hidden * shape.vocabulary * c.responses


def training_seconds(shape: Shape, c: Count, machine: Machine) -> float:
    return (forward(shape, c) + backward(shape, c)) / machine.flops


def forward_seconds(shape: Shape, c: Count, machine: Machine) -> float:
    return forward(shape, c) / machine.flops


def generation_seconds(
    shape: Shape, prompts: Sequence[int], answer: float, steps: int, machine: Machine, width: int
) -> float:
    """Prompts of these lengths, answers of `answer` tokens on average, `steps` passes after the prompts'; `width`:
    bytes of a number. A step reads all weights, and the keys and values so far."""
    rows, mean = len(prompts), sum(prompts) / len(prompts)
    prefill = forward(shape, Count(sum(prompts), sum(p * (p + 1) // 2 for p in prompts), rows)) / machine.flops
    seen = rows * (answer * mean + answer * (answer + 1) / 2)
    flops = forward(shape, Count(round(rows * answer), round(seen), round(rows * answer)))
    weights = shape.layers * (shape.weights + shape.lora) + shape.hidden * shape.vocabulary
    cached = 2 * shape.layers * shape.groups * shape.head_size * seen
    return prefill + max(flops / machine.flops, width * (weights * steps + cached) / machine.bytes)


# ----------------------------------------------------------------------------------------------------------- measuring


def measure(device: str) -> dict[str, dict[str, float]]:
    """By dtype: the best rate over the model's own products, prepacked or not; bandwidths of a read and a copy."""
    import torch

    from alignbench.engine.fast.products import Plain, Prepacked, can_prepack

    rows = 1024
    sizes = [(576, 576), (576, 1536), (1536, 576), (576, 49152)]

    def seconds(run: Callable[[], Any], least: float = 0.3) -> float:
        best, began = float("inf"), time.perf_counter()
        while time.perf_counter() - began < least:
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    rates = {}
    with torch.no_grad():
        block = torch.ones(2**26, device=device)
        other = torch.empty_like(block)
        bandwidth = max(block.nbytes / seconds(block.sum), 2 * block.nbytes / seconds(lambda: other.copy_(block)))
        for dtype in (torch.bfloat16, torch.float32):
            flops = 0.0
            for i, o in sizes:
                x = torch.randn(rows, i, device=device, dtype=dtype)
                plain = Plain(torch.randn(o, i, device=device, dtype=dtype), None)
                ways = [plain, Prepacked(plain)] if can_prepack(x.device, dtype) else [plain]
                flops = max([flops, *(2 * rows * i * o / seconds(lambda x=x, way=way: way(x)) for way in ways)])
            rates[str(dtype).removeprefix("torch.")] = {"flops": flops, "bytes": bandwidth}
    return rates


if __name__ == "__main__":
    from alignbench.engine.device import resolve_device

    print(json.dumps(measure(resolve_device("auto").type)))
