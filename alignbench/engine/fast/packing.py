"""One row of tokens in place of a padded batch: no padding is computed, and a prompt that rows share passes once.

Everything in a transformer but its attention works token by token, so the tokens of all sequences can lie side by side
in one row. Attention alone needs to know who sees whom. It is plugged in through transformers' own registry: queries
and keys are picked out of the row into small padded blocks, two batched products and a softmax run on these, and the
results go back into the row. On a CPU two products beat torch's fused kernel at the lengths trained here.

Exact: a causal model's states of a prompt do not depend on what follows it. A model whose attention does more than
scale, mask and softmax (capping, sinks) raises `UnpackableError` and runs padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel

from alignbench.api import TokenBatch

ATTENTION = "alignbench_packed"
ATTENTION_EXTRAS = ("softcap", "s_aux")  # what transformers' attention functions may be asked for besides
LONGEST = 512  # tokens of a sequence on a CPU; beyond it the blocks' (T, T) scores cost more than the padding saved


class UnpackableError(Exception):
    """The model's attention is not one that the packed row can stand in for."""


class Heads(NamedTuple):
    """Where the packed attention picks its rows for a number of heads."""

    queries: Tensor  # (B * H * Tq,) rows of (N * H, D)
    keys: Tensor  # (B * G * Tk,) rows of (N * G, D)
    slots: Tensor  # (N * H,) rows of (B * H * Tq, D): each token's own query
    homes: Tensor  # (N * G,) rows of (B * G * Tk, D): each token's key in its own sequence
    lent: Tensor  # (S,) rows of (B * G * Tk, D): keys of a prompt that another sequence owns
    owners: Tensor  # (S,) rows of (N * G, D): the tokens they are keys of


class Layout:
    """Where each token of a batch lies in the packed row. N tokens in all, Tq and Tk queries and keys a sequence."""

    def __init__(self, batch: TokenBatch) -> None:
        device = batch.ids.device
        lengths = batch.is_token.sum(-1)  # (B,)
        own, owner = _own(batch, lengths)  # (B,) first token that is not an earlier row's, (B,) whose the others are
        offsets = (lengths - own).cumsum(0) - (lengths - own)  # (B,) where a row's own tokens begin
        self.longest = int(lengths.max())
        self._lengths = lengths
        ranks = torch.arange(self.longest, device=device)[None]  # (1, Tk)
        place = torch.where(ranks >= own[:, None], (offsets - own)[:, None], offsets[owner][:, None]) + ranks
        is_key = ranks < lengths[:, None]
        self._keys = place * is_key  # (B, Tk)
        self._homes, self._lent = (  # (N,) and (S / G,) places of (B, Tk), the first in the packed row's order
            (is_key & is_own).flatten().nonzero().squeeze(1) for is_own in (ranks >= own[:, None], ranks < own[:, None])
        )
        width = int((lengths - own).max())
        order = own[:, None] + torch.arange(width, device=device)[None]  # (B, Tq) a query's rank in its sequence
        is_query = order < lengths[:, None]
        self._queries = place.gather(1, order.clamp_max(self.longest - 1)) * is_query
        self._slots = is_query.flatten().nonzero().squeeze(1)  # (N,) in the row's own order
        self._order = order
        self._is_seen = is_key[:, None] & (ranks[:, None] <= order[..., None])  # (B, Tq, Tk)
        rank = (batch.is_token.cumsum(-1) - 1).clamp_min(0)
        self.place = self._keys.gather(1, rank.clamp_max(self.longest - 1))  # (B, T); on padding any
        is_own = batch.is_token & (rank >= own[:, None])
        self.ids = batch.ids[is_own][None]  # (1, N)
        self.positions = rank[is_own][None]
        self.own, self.lengths = own.tolist(), lengths.tolist()
        self._heads: dict[tuple[int, int], Heads] = {}
        self._bias: dict[tuple[int | None, torch.dtype, int, int], Tensor] = {}

    def right_aligned(self) -> tuple[Tensor, Tensor]:
        """(B, Tk) the packed place of each sequence's tokens, its last in the last column; (B, Tk) which are tokens."""
        ranks = torch.arange(self.longest, device=self._keys.device)[None] + self._lengths[:, None] - self.longest
        return self._keys.gather(1, ranks.clamp_min(0)), ranks >= 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sequences, queries and keys of each, padded ones too: what attention computes."""
        return *self._queries.shape, self.longest

    @property
    def saw_no_window(self) -> bool:
        """Whether the attention that used this layout was handed no sliding window."""
        return all(window is None for window, *_ in self._bias)

    def heads(self, count: int, groups: int) -> Heads:
        """`count` query heads over `groups` key heads."""
        if (count, groups) not in self._heads:
            device, width = self._order.device, self._order.shape[1]
            head, group = (torch.arange(n, device=device) for n in (count, groups))

            def in_blocks(place: Tensor, wide: int, of: Tensor) -> Tensor:
                """Places of (B, wide) -> of (B, len(of), wide), those of a place together."""
                row, column = place // wide, place % wide
                return ((row[:, None] * len(of) + of) * wide + column[:, None]).flatten()

            self._heads[count, groups] = Heads(
                (self._queries[:, None] * count + head[:, None]).flatten(),
                (self._keys[:, None] * groups + group[:, None]).flatten(),
                in_blocks(self._slots, width, head),
                in_blocks(self._homes, self.longest, group),
                in_blocks(self._lent, self.longest, group),
                (self._keys.flatten()[self._lent][:, None] * groups + group).flatten(),
            )
        return self._heads[count, groups]

    def bias(self, window: int | None, dtype: torch.dtype, count: int, groups: int) -> Tensor:
        """(B * G, H / G * Tq, Tk) 0 where a query sees a key, else the lowest number; `window`: how far back."""
        if (window, dtype, count, groups) not in self._bias:
            is_seen = self._is_seen
            if window is not None and window < self.longest:
                ranks = torch.arange(self.longest, device=is_seen.device)
                is_seen = is_seen & (self._order[..., None] - ranks < window)
            rows, width, longest = is_seen.shape
            blank = torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device)
            of_rows = blank.masked_fill_(~is_seen, torch.finfo(dtype).min)[:, None]
            of_heads = of_rows.expand(rows, count, width, longest).reshape(rows * groups, -1, longest)
            self._bias[window, dtype, count, groups] = of_heads
        return self._bias[window, dtype, count, groups]


def _own(batch: TokenBatch, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) how many first tokens of a row another row holds already, and (B,) which. Only prompts are shared."""
    is_prompt = batch.is_token & (batch.is_response.cumsum(-1) == 0)
    first: dict[tuple[int, ...], int] = {}
    own, owner = [], []
    for row, (ids, real) in enumerate(zip(batch.ids.tolist(), is_prompt.tolist(), strict=True)):
        prompt = tuple(token for token, is_real in zip(ids, real, strict=True) if is_real)
        owner.append(first.setdefault(prompt, row))
        # a row that is all prompt keeps its last token, so that every row has a query
        own.append(0 if owner[-1] == row else max(0, min(len(prompt), int(lengths[row]) - 1)))
    return torch.tensor(own, device=lengths.device), torch.tensor(owner, device=lengths.device)


# ------------------------------------------------------------------------------------------------------------ attention

_layout: ContextVar[Layout] = ContextVar("layout")


def current_layout() -> Layout | None:
    """Of the packed row that is passing; None where none is."""
    return _layout.get(None)


@contextmanager
def attending(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """Passes of `model` take a packed row of this layout."""
    usual, token = model.config._attn_implementation, _layout.set(layout)
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = usual
        _layout.reset(token)


class _Attention(torch.autograd.Function):
    """softmax(s q k^T + bias) v over the blocks of a layout; the gradient is written out, so that little is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: Heads, bias: Tensor, scale: float) -> Tensor:
        """(N, H, D), (N, G, D), (N, G, D) -> (N, H, D)."""
        queries, keys, values = _blocks(q, k, v, heads, len(bias))
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads, ctx.scale = heads, scale
        return torch.bmm(weights, values).view(-1, q.shape[-1]).index_select(0, heads.slots).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        heads, scale, size = ctx.heads, ctx.scale, q.shape[-1]
        queries, keys, values = _blocks(q, k, v, heads, len(weights))
        grad_out = torch.zeros_like(queries)
        grad_out.view(-1, size).index_copy_(0, heads.slots, grads[0].reshape(-1, size))
        grad_values = torch.bmm(weights.transpose(1, 2), grad_out)
        grad_weights = torch.bmm(grad_out, values.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_queries = _scaled_bmm(grad_scores, keys, scale).view(-1, size).index_select(0, heads.slots)
        grad_keys = _scaled_bmm(grad_scores.transpose(1, 2), queries, scale)
        back = [_of_tokens(grad, heads).view(k.shape) for grad in (grad_keys, grad_values)]
        return grad_queries.view(q.shape), *back, None, None, None


def _blocks(q: Tensor, k: Tensor, v: Tensor, heads: Heads, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, H, D), (N, G, D), (N, G, D) -> (B G, H / G Tq, D), (B G, Tk, D), (B G, Tk, D)."""
    size = q.shape[-1]
    queries, keys, values = (
        x.reshape(-1, size).index_select(0, places).view(count, -1, size)
        for x, places in ((q, heads.queries), (k, heads.keys), (v, heads.keys))
    )
    return queries, keys, values


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale a b without another walk over the product; with beta 0 the first operand is never read."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _of_tokens(blocks: Tensor, heads: Heads) -> Tensor:
    """(B G, Tk, D) gradients of keys or values -> (N G, D). A shared prompt's are summed, in float32."""
    rows = blocks.view(-1, blocks.shape[-1])
    own = rows.index_select(0, heads.homes)
    if len(heads.lent) == 0:
        return own
    return own.float().index_add_(0, heads.owners, rows.index_select(0, heads.lent).float()).to(rows.dtype)


def _packed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention function: (1, H, N, D), (1, G, N, D), (1, G, N, D) -> (1, N, H, D)."""
    unknown = [name for name in ATTENTION_EXTRAS if kwargs.get(name) is not None]
    if unknown or dropout or value.shape[-1] != key.shape[-1]:
        raise UnpackableError(f"attention with {', '.join(unknown) or 'dropout or values of another size'}")
    layout = _layout.get()
    count, groups = query.shape[1], key.shape[1]
    bias = layout.bias(sliding_window, query.dtype, count, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states.transpose(1, 2)[0] for states in (query, key, value))
    return _Attention.apply(q, k, v, layout.heads(count, groups), bias, scale)[None], None


AttentionInterface.register(ATTENTION, _packed)
