"""Sampling from the whole distribution: no top-k, no top-p, one uniform number per row and token.

The log-probability a trainer gives a sampled token is then the sampler's own, and the samples' KL is the policy's; in
bfloat16 up to the rounding of weights that long samples are drawn from (see `Resident.merged`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from alignbench.api import Rollout
from alignbench.engine.passes import make_cache, positions
from alignbench.engine.resident import Resident

SAMPLING_ROWS = 128
WORTH_MERGING = 16  # new tokens from which on adding an adapter to the weights costs less than passing it at each
COLUMNS = 256  # the vocabulary is searched in two steps: which block of columns, then which column


def sample_texts(
    resident: Resident, prompts: Sequence[str], max_new_tokens: int, temperature: float, generator: torch.Generator,
    rows: int = SAMPLING_ROWS, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rollout:  # fmt: skip
    """Completions of `prompts` by whatever adapter is active, `rows` prompts at a time."""
    heads = [resident.codec.fitting(prompt, max_new_tokens) for prompt in prompts]
    tails: list[list[int]] = []
    for first in range(0, len(heads), rows):
        tails += sample(resident, heads[first : first + rows], max_new_tokens, temperature, generator)
        progress(len(tails), len(heads))
    return Rollout(
        prompts=list(prompts),
        completions=[resident.codec.text(tail) for tail in tails],
        tokens=resident.codec.padded(heads, tails),
        is_ended=torch.tensor([tail[-1] == resident.codec.eos for tail in tails], device=resident.device),
    )


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """(B, V) logits, (B,) uniform in [0, 1) -> (B,) ids by inverse CDF: exact, and 8 times a multinomial's speed."""
    scaled = logits if temperature == 1.0 else logits.float() / temperature
    weights = torch.softmax(scaled, dim=-1, dtype=torch.float32)
    rows, vocabulary = weights.shape
    if vocabulary % COLUMNS:  # padding by nothing would copy
        weights = torch.nn.functional.pad(weights, (0, -vocabulary % COLUMNS))
    blocks = weights.view(rows, -1, COLUMNS)
    edges = blocks.sum(-1).cumsum(-1)  # (B, V / COLUMNS)
    target = uniform.to(edges.dtype)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True).clamp_max(edges.shape[1] - 1)
    rest = target - torch.where(block > 0, edges.gather(1, (block - 1).clamp_min(0)), 0)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, COLUMNS)).squeeze(1).cumsum(-1)
    # rounding may leave `rest` at or past the block's own sum: stay on the last column that has weight
    rest = torch.minimum(rest, inside[:, -1:] * (1 - 1e-6))
    column = torch.searchsorted(inside, rest, right=True)
    return (block * COLUMNS + column).squeeze(1).clamp_max(vocabulary - 1)


@torch.no_grad()
def sample(
    resident: Resident,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    """Response ids per prompt, the end-of-sequence id included where it was reached. `generator` lives on the CPU.

    A row's draws do not depend on the rows beside it; rows that ended leave the batch once they are a quarter of it.
    """
    with resident.merged() if max_new_tokens >= WORTH_MERGING else nullcontext():
        return _sample(resident, prompts, max_new_tokens, temperature, generator)


def _sample(
    resident: Resident, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:  # fmt: skip
    eos, device = resident.codec.eos, resident.device
    uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator).to(device)
    out = torch.full((len(prompts), max_new_tokens), eos, dtype=torch.long, device=device)
    rows = torch.arange(len(prompts), device=device)  # which prompt each live row answers
    is_live = torch.ones(len(prompts), dtype=torch.bool, device=device)
    batch = resident.codec.padded(prompts, [[]] * len(prompts))
    logits, cache, is_token = resident.passes.start(batch, max_new_tokens)
    place = is_token.sum(-1, keepdim=True)  # position of the next token
    for step in range(max_new_tokens):
        token = draw(logits, uniforms[rows, step], temperature)
        out[rows[is_live], step] = token[is_live]
        is_live = is_live & (token != eos)
        live = int(is_live.sum())
        if live == 0 or step == max_new_tokens - 1:
            break
        if live <= 0.75 * len(rows):
            keep = is_live.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, token, place, is_token, is_live = (t[keep] for t in (rows, token, place, is_token, is_live))
        is_token = torch.cat([is_token, torch.ones_like(is_token[:, :1])], dim=1)
        logits = resident.passes.next_logits(token[:, None], is_token, place, cache)
        place = place + 1
    answers = out.tolist()
    return [a[: a.index(eos) + 1] if eos in a else a for a in answers]


@torch.no_grad()
def next_logits(resident: Resident, prefix: Sequence[int], rests: Sequence[Sequence[int]]) -> Tensor:
    """(B, V) logits of the token after `prefix + rest`, for rests of any length; the prefix is computed once."""
    codec, device, count = resident.codec, resident.device, len(rests)
    if not all(rests):  # a text of no tokens is answered where the prefix ends
        prefix, rests = prefix[:-1], [[prefix[-1], *rest] for rest in rests]
    cache = make_cache(resident.base)
    if prefix:
        ids = torch.tensor([list(prefix)], device=device)
        resident.base.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(count)
    batch = codec.padded(rests, [[]] * count)
    is_token = torch.cat([batch.is_token.new_ones(count, len(prefix)), batch.is_token], dim=1)
    inputs = {
        "input_ids": batch.ids, "attention_mask": is_token.long(), "past_key_values": cache, "use_cache": True,
        "position_ids": positions(is_token)[:, len(prefix) :],
    }  # fmt: skip
    at = (torch.arange(count, device=device), batch.is_token.sum(-1) - 1)
    if resident.passes.has_plain_head:
        return resident.head(resident.base.base_model(**inputs).last_hidden_state[at])
    return resident.base(**inputs).logits[at]
