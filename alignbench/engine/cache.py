"""Keys and values of a sample as it grows: room is made once, and heads that share keys read them where they lie.

transformers' dynamic cache copies all it holds for every token, and its eager attention writes the keys out once per
query head. Both are most of what a step costs beside its matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from alignbench.engine.packing import ATTENTION_EXTRAS, LONGEST, Layout, UnpackableError, attending
from alignbench.errors import UserError

if TYPE_CHECKING:  # an annotation alone
    from alignbench.engine.resident import Resident

ATTENTION = "alignbench_grouped"
LONGEST_ON_GPU = 128  # tokens of a prompt; seen on an H100 with 40


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


def make_cache(model: PreTrainedModel) -> DynamicCache:
    """transformers' own. UserError for a model that keeps something else than keys and values."""
    cache = DynamicCache(config=model.config)
    if strange := [layer for layer in cache.layers if not isinstance(layer, DynamicLayer)]:
        raise UserError(
            f"{type(model).__name__} keeps a {type(strange[0]).__name__}, of which rows cannot be dropped or repeated: "
            "use a model whose layers all attend"
        )
    return cache


def is_roomy(resident: Resident, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether `start` may be used: a model that can pack, whose layers keep all they have seen, and prompts that are
    not too long for it."""
    layers = make_cache(resident.base).layers
    keeps_all = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    is_plain = resident.trunk.packs and resident.has_plain_head
    longest = LONGEST if resident.device.type == "cpu" else LONGEST_ON_GPU
    return is_plain and keeps_all and max(map(len, prompts)) <= longest


def start(resident: Resident, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, DynamicCache, Tensor]:
    """(B, V) logits after each prompt, a cache of the prompts with room for `room` tokens more, and (B, T) which of its
    columns are tokens. Prompts are packed: no padding is computed, and equal ones pass once."""
    batch = resident.codec.pack(prompts, [[]] * len(prompts))
    layout, seen = Layout(batch), DynamicCache(config=resident.base.config)
    with attending(resident.base, layout):
        states = resident.base.base_model(
            input_ids=layout.ids, position_ids=layout.positions, past_key_values=seen, use_cache=True
        ).last_hidden_state[0]
    rows, is_token = layout.right_aligned()
    cache = DynamicCache()
    for packed in seen.layers:
        assert isinstance(packed, DynamicLayer)  # `is_roomy` has seen to it
        own = _Roomy(rows.shape[1] + room)
        own.update(*(x[0][:, rows].transpose(0, 1) for x in (packed.keys, packed.values) if x is not None))
        cache.layers.append(own)
    return resident.head(states[rows[:, -1]]), cache, is_token


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
