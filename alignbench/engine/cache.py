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

from alignbench.engine.packing import ATTENTION_EXTRAS, UnpackableError
from alignbench.errors import UserError

ATTENTION = "alignbench_grouped"


class _Roomy(DynamicLayer):
    """A layer's keys and values, views of buffers that hold `room` tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            both = (key_states, value_states)
            self._buffers = tuple(x.new_empty(*x.shape[:2], self.room, x.shape[-1]) for x in both)
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        end = self.get_seq_length()
        self._buffers = tuple(buffer[indices] for buffer in self._buffers)
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)


def make_cache(model: PreTrainedModel, room: int, is_plain: bool) -> DynamicCache:
    """A cache with room for `room` tokens a row; transformers' own where the attention is not plain, or some layer
    forgets what is far back. UserError for a model that keeps something else than keys and values."""
    cache = DynamicCache(config=model.config)
    if strange := [layer for layer in cache.layers if not isinstance(layer, DynamicLayer)]:
        raise UserError(
            f"{type(model).__name__} keeps a {type(strange[0]).__name__}, of which rows cannot be dropped or repeated: "
            "use a model whose layers all attend"
        )
    if is_plain and all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_Roomy(room) for _ in cache.layers]
    return cache


@contextmanager
def grouped(model: PreTrainedModel, is_plain: bool) -> Iterator[None]:
    """Passes of `model` with a cache use the attention below, if theirs is plain."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION if is_plain else usual
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
