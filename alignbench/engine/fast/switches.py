"""One function per kernel: whether the model has a use for it, the probe beside the plain way, and the switch.

Each returns False where there is nothing for it to do, and raises `UnfitError` where it was tried and is not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alignbench.api import TokenBatch
from alignbench.engine.fast import lora, nats
from alignbench.engine.fast import products as weights
from alignbench.engine.fast.cache import keeps_all
from alignbench.engine.fast.norms import shorten
from alignbench.engine.fast.packing import LONGEST, Layout
from alignbench.engine.fast.passes import FastPasses
from alignbench.engine.fast.probe import UnfitError, compare, limit, there_and_back
from alignbench.engine.logprobs import logprobs_and_entropies
from alignbench.engine.passes import Passes


def packing(passes: FastPasses, adapted: int) -> bool:
    """Sequences of several lengths, two with one prompt, end in a packed row where they do in a batch, and so does the
    gradient of each token's embedding. On a GPU the row is for prompts alone."""
    batch = passes.probe()
    layout = Layout(batch)

    def row() -> list[Tensor]:
        with _leaf_after(passes.model.get_input_embeddings()) as leaves:
            out = passes.packed(layout, input_ids=layout.ids).at(batch.is_token)
        return there_and_back(out, *leaves)

    def padded() -> list[Tensor]:
        with _leaf_after(passes.model.get_input_embeddings()) as leaves:
            out = Passes.run(passes, batch).at(batch.is_token)
        out, grad = there_and_back(out, *leaves)
        of_row = grad.new_zeros(layout.ids.shape[1], passes.hidden_size)
        of_row.index_add_(0, layout.place[batch.is_token], grad[batch.is_token])  # a shared prompt's are summed
        return [out, of_row[None]]

    compare(row, padded, limit(passes.model.dtype))
    config = passes.model.config
    window = getattr(config, "attention_chunk_size", None) or getattr(config, "sliding_window", None) or LONGEST
    if window < LONGEST and layout.saw_no_window:
        raise UnfitError("its sliding window is in the attention mask alone, which a packed row replaces")
    passes.packs = True
    return passes.model.device.type == "cpu"


def frozen_blocks(passes: FastPasses, adapted: int) -> bool:
    """The upper blocks alone, given states in place of embeddings, end where the whole model does, there and back.
    Models that scale or add to their embeddings (GPT-2, Gemma) do not; models whose layers attend in different ways by
    number are not asked, for a stack cut short renumbers them."""
    kinds = set(getattr(passes.model.config, "layer_types", None) or ())
    if adapted >= len(passes.blocks) or len(kinds) > 1:
        return False
    batch, depth = passes.probe(), len(passes.blocks) - adapted - 1
    layout = passes.layout(batch)

    def upper() -> list[Tensor]:
        below = passes.below(batch, layout, adapted).requires_grad_()
        return there_and_back(passes.upper(batch, layout, below, adapted).at(batch.is_token), below)

    def whole() -> list[Tensor]:
        with _leaf_after(passes.blocks[depth]) as leaves:
            out = passes.run(batch).at(batch.is_token)
        out, grad = there_and_back(out, *leaves)
        return [out, grad if layout is not None else grad * batch.is_token[..., None]]

    try:
        compare(upper, whole, limit(passes.model.dtype))
    finally:
        passes.forget()
    passes.shares_frozen_blocks = True
    return True


def sampling(passes: FastPasses, adapted: int) -> bool:
    """Logits after prompts, two of them equal, and after a token more. Nothing is trained through a sample, so there is
    no way back to try. For models that can pack, whose layers keep all they have seen."""
    if not (passes.packs and passes.has_plain_head and keeps_all(passes.model)):
        return False
    prompts = TokenBatch(*(x[[0, 1, 2, 0]] for x in passes.probe()))
    prompts = prompts._replace(is_response=torch.zeros_like(prompts.is_token))

    @torch.no_grad()
    def grown(way: Any) -> list[Tensor]:
        first = way.start(passes, prompts, 1)
        is_token = torch.cat([first.is_token, torch.ones_like(first.is_token[:, :1])], 1)
        place = first.is_token.sum(-1, keepdim=True)
        return [first.logits, way.next_logits(passes, prompts.ids[:, :1], is_token, place, first.cache)]

    passes.makes_room = True
    try:
        compare(lambda: grown(FastPasses), lambda: grown(Passes), limit(passes.model.dtype))
    except UnfitError:
        passes.makes_room = False
        raise
    return True


def logprobs(passes: FastPasses, adapted: int) -> bool:
    """Values and gradients of the log-softmax by autograd, through the model's own vocabulary."""
    width = passes.hidden_size if passes.has_plain_head else passes.vocabulary
    model = passes.model
    states = _waves(8, width, device=model.device, dtype=model.dtype).requires_grad_()
    labels = torch.arange(8, device=model.device) * max(1, passes.vocabulary // 8) % passes.vocabulary

    def back(nats_: Any) -> list[Tensor]:
        return there_and_back(torch.cat([nats_.logprobs, nats_.entropies]), states)

    compare(
        lambda: back(nats.logprobs_and_entropies(states, labels, passes.projection, 0.7)),
        lambda: back(logprobs_and_entropies(states, labels, passes.project, 0.7)),
        limit(model.dtype),
    )
    passes.pulls_back = True
    return True


def norms(passes: FastPasses, adapted: int) -> bool:
    return shorten(passes.model) > 0


def products(passes: FastPasses, adapted: int) -> bool:
    model = passes.model
    if model.device.type != "cpu" or not weights.worthwhile(model):
        return False
    if (reason := weights.why_not(model.dtype)) is not None:
        raise UnfitError(reason)
    return weights.prepack(model) > 0


def adapters(passes: FastPasses, adapted: int) -> bool:
    """A layer of each of the model's kinds under an adapter: output, gradients of the input and of both factors, and
    the output of the merged weights."""
    model = passes.model
    for kind in (nn.Linear, Conv1D):
        if any(isinstance(module, kind) for module in model.modules()):
            _try_adapter(kind, model.device, model.dtype)
    passes.quickens = True
    return True


def _try_adapter(kind: type[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], fan_in_fan_out=kind is Conv1D)
    with torch.random.fork_rng(devices=[]):
        stack: Any = LoraModel(nn.Sequential(kind(40, 24) if kind is Conv1D else kind(24, 40)), config, "probe")
    stack = stack.to(device, dtype).requires_grad_(False)
    layer: Any = stack.model[0]
    for seed, p in enumerate(layer.parameters()):
        p.data = _waves(*p.shape, device=device, dtype=dtype, seed=seed) * 0.3
    factors = [layer.lora_A["probe"].weight.requires_grad_(), layer.lora_B["probe"].weight.requires_grad_()]
    x = _waves(5, 24, device=device, dtype=dtype, seed=9).requires_grad_()

    def plain() -> list[Tensor]:
        seen = there_and_back(layer(x), x, *factors)
        return [*seen, seen[0]]

    def fast() -> list[Tensor]:
        lora.quicken(stack)
        seen = there_and_back(layer(x), x, *factors)
        with lora.merged(stack, "probe"):
            return [*seen, layer.base_layer(x).detach()]

    compare(fast, plain, limit(dtype))


@contextmanager
def _leaf_after(module: nn.Module) -> Iterator[list[Tensor]]:
    """What `module` gives in the pass inside is a leaf that gets a gradient; it is put into the list."""
    leaves: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        first, *rest = output if isinstance(output, tuple) else (output,)
        leaves.append(first.detach().requires_grad_())
        return (leaves[0], *rest) if isinstance(output, tuple) else leaves[0]

    handle = module.register_forward_hook(hook)
    try:
        yield leaves
    finally:
        handle.remove()


def _waves(*size: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers in [-1, 1] that no generator is asked for."""
    count = torch.Size(size).numel()
    return (torch.arange(count, device=device) + 1.7 * seed).sin().view(size).to(dtype)
