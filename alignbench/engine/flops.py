"""Floating-point operations of a model's passes, counted at its blocks and at its vocabulary projection.

torch's `FlopCounterMode` sees every product, for 15 % of the CPU time of a DPO step on SmolLM2-135M and five times that
of a step on a toy, and knows nothing of products that a CPU's kernels do by themselves. A block's products follow from
its shapes: with N tokens through it, r the rank of the adapter it carries, P pairs of a query and a key, H heads of
size D, a pass forward takes

    2 N sum over layers (I O + r (I + O))  +  4 P H D

and the way back as much again for each gradient that is taken: of a layer's input, of the adapter's factors. What is
padded is computed, so it counts; a sequence's frozen states that were kept, and blocks that a pass ended below, don't.
Whoever calls the model, be it a plugin's own loop, passes the hooks here. Tests hold the counts against
`FlopCounterMode`. Not counted: modules that a method adds, such as a value head, and experts of a mixture, of which a
token meets only some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignbench.engine import tally
from alignbench.engine.fast import cache, packing
from alignbench.engine.fast.packing import current_layout
from alignbench.engine.passes import blocks

UNFUSED = ("eager", packing.ATTENTION, cache.ATTENTION)  # two products and a softmax, whose weights are kept
Active = tuple[str, ...]  # names of the adapters a pass goes through; () for none


class Layer(NamedTuple):
    """A linear layer of a block, (N, inputs) -> (N, outputs)."""

    inputs: int
    outputs: int
    rank: int  # of the adapter on it; 0: none
    is_entry: bool  # reads what the block is given, and not what another of its layers made


class Cost(NamedTuple):
    """Of one block, in floating-point operations."""

    forward: int  # per token
    backward: int
    pair: int  # of a query and a key, forward
    pair_backward: int


def cost_of(
    layers: Sequence[Layer], width: int, *, is_trained: bool, has_input_gradient: bool, is_fused: bool = False
) -> Cost:
    """Layers in the order in which they follow each other; `width`: heads times their size. The block's own weights are
    frozen, its adapters get gradients where they are trained. Fused attention computes its scores again on the way
    back."""
    forward = backward = 0
    is_reached = False  # whether an adapter below gets its gradient through here
    for inputs, outputs, rank, is_entry in layers:
        forward += 2 * (inputs * outputs + rank * (inputs + outputs))
        takes_input = has_input_gradient or (is_reached and not is_entry)
        takes_factors = is_trained and rank > 0
        if takes_input:
            backward += 2 * (inputs * outputs + rank * inputs)
        if takes_input or takes_factors:
            backward += 2 * rank * outputs  # of the narrow image between the factors
        if takes_factors:
            backward += 2 * rank * (inputs + outputs)
        is_reached = is_reached or takes_factors
    reaches_keys = has_input_gradient or (is_trained and any(layer.rank for layer in layers if layer.is_entry))
    return Cost(forward, backward, 4 * width, (10 if is_fused else 8) * width if reaches_keys else 0)


class Watch:
    """Counts the passes of a model from now on. `refresh` after an adapter came or went."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._blocks = blocks(model)
        self._watched = [_Block(model.config) for _ in self._blocks]
        for block, watched in zip(self._blocks, self._watched, strict=True):
            block.register_forward_hook(watched.hook(), with_kwargs=True)
        head: Any = model.get_output_embeddings()
        if isinstance(head, nn.Linear | Conv1D):
            head.register_forward_hook(_projected)
        self.refresh()

    def refresh(self) -> None:
        for block, watched in zip(self._blocks, self._watched, strict=True):
            watched.look_at(block)


class _Block:
    """What is known of one block. It holds the block's layers, never the block: a cycle would keep an evicted model's
    weights in memory until the collector comes round."""

    def __init__(self, config: Any) -> None:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.config = config
        self.width = config.num_attention_heads * size
        self.layers: list[tuple[Any, bool]] = []  # linear, with or without adapters; whether it is an entry
        self.adapted: Any = None  # a layer whose adapters tell of all
        self._costs: dict[tuple[Active, bool, bool, bool], Cost] = {}

    def look_at(self, block: nn.Module) -> None:
        """The first part of a block that has layers is its attention: all but the last read the block's input."""
        parts = [found for child in block.children() if (found := list(_linear(child)))]
        self.layers = [(x, i == 0 and x is not part[-1]) for i, part in enumerate(parts) for x in part]
        self.adapted = next((layer for layer, _ in self.layers if isinstance(layer, LoraLayer)), None)
        self._costs = {}

    def cost(self, has_input_gradient: bool) -> Cost:
        active, is_trained = _active(self.adapted)
        is_fused = self.config._attn_implementation not in UNFUSED
        key = (active, is_trained, has_input_gradient, is_fused)
        if key not in self._costs:
            layers = [Layer(*_sizes(layer), _rank(layer, active), is_entry) for layer, is_entry in self.layers]
            self._costs[key] = cost_of(
                layers, self.width, is_trained=is_trained, has_input_gradient=has_input_gradient, is_fused=is_fused
            )
        return self._costs[key]

    def hook(self) -> Callable[..., None]:
        def passed(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            out = output[0] if isinstance(output, tuple) else output
            cost = self.cost(hidden.requires_grad)
            tokens, pairs = hidden.shape[0] * hidden.shape[1], _pairs(hidden, (*args, *kwargs.values()))
            tally.add(tokens * cost.forward + pairs * cost.pair)
            if out.requires_grad:
                back = tokens * cost.backward + pairs * cost.pair_backward
                out.register_hook(lambda grad: tally.add(back))

        return passed


def _projected(head: Any, args: Any, output: Tensor) -> None:
    flops = 2 * output.numel() // output.shape[-1] * head.weight.numel()
    tally.add(flops)
    if output.requires_grad:
        output.register_hook(lambda grad: tally.add(flops))


def _pairs(hidden: Tensor, given: Iterable[Any]) -> int:
    """Of a query and a key, masked ones too where they are computed. The mask tells how many keys there are; where the
    attention needs none, the cache does."""
    layout = current_layout()
    if layout is not None:
        rows, queries, keys = layout.shape
        return rows * queries * keys
    cached = hidden.shape[1]
    for x in given:
        if isinstance(x, Tensor) and x.ndim == 4:
            return hidden.shape[0] * hidden.shape[1] * x.shape[-1]
        if isinstance(x, Cache):
            cached = x.get_seq_length()
    return hidden.shape[0] * hidden.shape[1] * cached


def _linear(module: nn.Module) -> Iterator[Any]:
    """Linear layers in `module`, adapters counted with the layer they are on."""
    if isinstance(module, LoraLayer | nn.Linear | Conv1D):
        yield module
        return
    for child in module.children():
        yield from _linear(child)


def _active(layer: Any) -> tuple[Active, bool]:
    """The adapters a pass goes through, and whether they get gradients."""
    if layer is None or layer.disable_adapters or layer.merged:
        return (), False
    active = tuple(name for name in layer.active_adapters if name in layer.lora_A)
    return active, any(layer.lora_A[name].weight.requires_grad for name in active)


def _sizes(layer: Any) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        inputs, outputs = layer.weight.shape
        return inputs, outputs
    return layer.in_features, layer.out_features


def _rank(layer: Any, active: Active) -> int:
    return sum(layer.r[name] for name in active if name in layer.r) if isinstance(layer, LoraLayer) else 0
