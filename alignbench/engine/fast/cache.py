"""Keys and values of a sample as it grows: room is made once, and heads that share keys read them where they lie.

transformers' dynamic cache copies all it holds for every token, and its eager attention writes the keys out once per
query head. Both are most of what a step costs beside its matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from alignbench.engine.fast.packing import ATTENTION_EXTRAS, UnpackableError
from alignbench.engine.passes import make_cache

ATTENTION = "alignbench_grouped"


class _Roomy(DynamicLayer):
    """A layer's keys and values in buffers of `room` tokens, handed out whole: a view of the filled part would be
    copied by every product. The columns ahead are zero, and masked."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                x.new_zeros(*x.shape[:2], self.room, x.shape[-1]) for x in (key_states, value_states)
            )
        assert self.keys is not None
        assert self.values is not None
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.room, 0


class RoomyCache(DynamicCache):
    """Layers as above, which the attention below reads."""


def keeps_all(model: PreTrainedModel) -> bool:
    """Whether every layer of the model's cache keeps all it has seen."""
    layers = make_cache(model).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def roomy(seen: DynamicCache, rows: Tensor, room: int) -> RoomyCache:
    """A packed row's cache -> (B, T) `rows` of it, with room for `room` tokens more."""
    cache = RoomyCache()
    for packed in seen.layers:
        assert isinstance(packed, DynamicLayer)  # `keeps_all` has seen to it
        own = _Roomy(rows.shape[1] + room)
        own.update(*(x[0][:, rows].transpose(0, 1) for x in (packed.keys, packed.values) if x is not None))
        cache.layers.append(own)
    return cache


@contextmanager
def grouped(model: PreTrainedModel) -> Iterator[None]:
    """Passes of `model` use the attention below."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = usual


def _grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention function: (B, H, T, D), (B, G, S, D), (B, G, S, D), (B, 1, T, S) -> (B, T, H, D)."""
    if dropout or any(kwargs.get(name) is not None for name in ATTENTION_EXTRAS):
        raise UnpackableError("attention that does more than scale, mask and softmax")
    (rows, heads, width, size), length = query.shape, key.shape[2]
    scale = size**-0.5 if scaling is None else scaling
    blocks = query.reshape(rows * key.shape[1], -1, size)  # (B G, H / G T, D)
    scores = torch.bmm(blocks, key.flatten(0, 1).transpose(1, 2)).view(rows, heads, width, length).mul_(scale)
    if attention_mask is not None:
        scores = scores.add_(attention_mask)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    out = torch.bmm(weights.view(len(blocks), -1, length), value.flatten(0, 1))
    return out.view(rows, heads, width, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _grouped)
AttentionMaskInterface.register(ATTENTION, eager_mask)
