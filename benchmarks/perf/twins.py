"""Weights that two sides can both make, and a score of samples that neither side's own code computes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def scatter(module: nn.Module, scale: float = 0.03) -> None:
    """Give every LoRA weight random values that depend on its place alone, so that the adapter changes the model."""
    named = {re.sub(r"(lora_[AB])\.\w+", r"\1", name): p for name, p in module.named_parameters() if "lora_" in name}
    for place, name in enumerate(sorted(named)):
        generator = torch.Generator().manual_seed(place)
        named[name].copy_(torch.randn(named[name].shape, generator=generator) * scale)


@torch.no_grad()
def scatter_head(weight: Tensor) -> None:
    """(1, H) random values for a scalar head."""
    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.02)


@torch.no_grad()
def mean_nll(model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """Nats per response token, by transformers' own forward, one text at a time."""
    device, total = next(model.parameters()).device, 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        total += float(nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
    return total / sum(map(len, answers))
