"""Every pass through a model by transformers' and peft's own modules, on padded batches.

This is what `kernels: plain` means, and what each kernel of `alignbench.engine.fast` is probed against. `FastPasses`
overrides these methods where a kernel stands in; nobody else need know which do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D

from alignbench.api import TokenBatch
from alignbench.engine.logprobs import LogprobEntropy, before, is_before, logprobs_and_entropies
from alignbench.errors import UserError


class States(NamedTuple):
    """Final hidden states of a batch, as they lie after a pass. Sequences may share rows, and a shared row's gradients
    are summed: `index_select` does it in a fixed order, `rows[place]` in float32 in whichever order threads come."""

    rows: Tensor  # (N, H)
    place: Tensor  # (B, T) the row of each token; on padding any row

    def at(self, is_wanted: Tensor) -> Tensor:
        """(B, T) bool -> (M, H) in row-major order."""
        return self.rows.index_select(0, self.place[is_wanted])

    def padded(self) -> Tensor:
        """(B, T, H); what stands on padding means nothing."""
        return self.rows.index_select(0, self.place.flatten()).view(*self.place.shape, -1)


class Prompted(NamedTuple):
    """Where a sample stands when its prompts have passed."""

    logits: Tensor  # (B, V) after each prompt
    cache: DynamicCache
    is_token: Tensor  # (B, T) which columns of the cache are tokens; each row's last one is in the last column


class Passes:
    """The ways through `model`, which is frozen; adapters may sit on its topmost blocks."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.blocks = blocks(model)
        self.vocabulary, self.hidden_size = (int(n) for n in embeddings(model).shape)
        self.has_plain_head = self._head_is_last_step()

    # ------------------------------------------------------------------------------------------------------ adapters

    def adapt(self, module: nn.Module) -> None:
        """An adapter was put on somewhere below `module`."""

    def can_merge(self, module: nn.Module) -> bool:
        """Whether many passes are better run with an adapter's product added to the weights."""
        return False

    def merged(self, module: nn.Module, name: str) -> AbstractContextManager[None]:
        """Adapter `name` is added to the weights for as long as this is open, if `can_merge`."""
        return nullcontext()

    # -------------------------------------------------------------------------------------------------------- states

    def states(self, batch: TokenBatch, adapted: int) -> States:
        """Final states; positions count real tokens only. `adapted`: how many of the topmost blocks may differ from the
        bare model's."""
        return self.run(batch)

    def run(self, batch: TokenBatch) -> States:
        """One whole pass."""
        return self.padded(batch, input_ids=batch.ids)

    def padded(self, batch: TokenBatch, **inputs: Tensor) -> States:
        """One pass over a padded batch, given its `input_ids`, or `inputs_embeds` in their place."""
        hidden = self.model.base_model(
            **inputs, attention_mask=batch.is_token.long(), position_ids=positions(batch.is_token), use_cache=False
        ).last_hidden_state
        return States(hidden.flatten(0, 1), torch.arange(batch.ids.numel(), device=hidden.device).view_as(batch.ids))

    def forget(self) -> None:
        """Drop what is kept of the sequences seen."""

    def kept(self) -> dict[str, Tensor]:
        """What is kept of them, for a checkpoint: its last bits tell in which batches they passed, and a fit that goes
        on in another process is to have the same."""
        return {}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """What `kept` gave, among other tensors, in place of what is kept now."""

    @torch.no_grad()
    def block_states(self, batch: TokenBatch, depths: Sequence[int]) -> list[Tensor]:
        """(B, T, H) output of each block numbered in `depths`; none above the last is computed. Adapters should be
        off."""
        with self.watching(depths) as seen:
            self.run(batch)
        return [seen[depth] for depth in depths]

    @contextmanager
    def watching(self, depths: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """The outputs of blocks `depths` in the pass inside, which ends at the last of them."""
        seen: dict[int, Tensor] = {}

        def keep(depth: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                seen[depth] = output[0] if isinstance(output, tuple) else output
                if depth == max(depths):
                    raise _EnoughError

            return hook

        hooks = [self.blocks[depth].register_forward_hook(keep(depth)) for depth in depths]
        try:
            yield seen
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()

    # ------------------------------------------------------------------------------------------------ log-probabilities

    def response_states(self, batch: TokenBatch, adapted: int) -> Tensor:
        """(N, H) states from which the N response tokens were predicted; (N, V) logits where a model does more after
        its final states than project them."""
        if self.has_plain_head:
            return self.states(batch, adapted).at(is_before(batch.is_response))
        out = self.model(
            input_ids=batch.ids, attention_mask=batch.is_token.long(), position_ids=positions(batch.is_token),
            use_cache=False,
        )  # fmt: skip
        return before(out.logits, batch.is_response)

    def head(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V) by the output embeddings."""
        return self.model.get_output_embeddings()(hidden)

    def project(self, states: Tensor) -> Tensor:
        """What `response_states` gave -> (N, V) logits."""
        return self.head(states) if self.has_plain_head else states

    def nats(self, states: Tensor, labels: Tensor, temperature: float, *, has_entropy_gradient: bool) -> LogprobEntropy:
        """(N,) log-probabilities of `labels`, and entropies, after what `response_states` gave."""
        return logprobs_and_entropies(
            states, labels, self.project, temperature, has_entropy_gradient=has_entropy_gradient
        )

    @torch.no_grad()
    def _head_is_last_step(self) -> bool:
        """Whether logits are the output embeddings of the final hidden state, with nothing (scaling, capping) after."""
        if type(self.model.get_output_embeddings()) not in (nn.Linear, Conv1D):
            return False
        ids = self.probe().ids[:1]
        ours = self.head(self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        # to the last bit: a cap or a scale that changes little here may change much on other logits
        return torch.equal(ours, self.model(input_ids=ids, use_cache=False).logits)

    # ------------------------------------------------------------------------------------------------------- samples

    def start(self, batch: TokenBatch, room: int) -> Prompted:
        """The pass over a batch of prompts, with `room` tokens to come. They stand left-padded in the cache, so that
        every row's next token is in the same column."""
        width = batch.ids.shape[1]
        ranks = torch.arange(width, device=batch.ids.device)[None]
        turned = (ranks + batch.is_token.sum(-1, keepdim=True)) % width
        ids, is_token = (x.gather(1, turned) for x in (batch.ids, batch.is_token))
        cache = make_cache(self.model)
        return Prompted(self.next_logits(ids, is_token, positions(is_token), cache), cache, is_token)

    def next_logits(self, ids: Tensor, is_token: Tensor, place: Tensor, cache: DynamicCache) -> Tensor:
        """(B, V) logits of the last column of (B, T) `ids`, which go into the cache. The head reads a copy: given a
        slice, a product in bfloat16 on the CPU becomes one per row, each with a copy of the whole vocabulary matrix."""
        inputs = {
            "input_ids": ids, "attention_mask": is_token.long(), "position_ids": place, "past_key_values": cache,
            "use_cache": True,
        }  # fmt: skip
        if self.has_plain_head:
            return self.head(self.model.base_model(**inputs).last_hidden_state[:, -1].contiguous())
        return self.model(**inputs, logits_to_keep=1).logits[:, -1]

    # --------------------------------------------------------------------------------------------------------- probe

    def probe(self) -> TokenBatch:
        """Three short sequences of ordinary tokens; the first two share a prompt."""
        ids = torch.tensor([[1, 2, 1, 2, 3], [1, 2, 3, 3, 0], [2, 1, 3, 1, 0]])
        is_token = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
        is_response = is_token & (torch.arange(5) >= 2)
        ids = ids * max(1, self.vocabulary // 4)
        return TokenBatch(*(t.to(self.model.device) for t in (ids, is_token, is_response)))


def make_cache(model: PreTrainedModel) -> DynamicCache:
    """transformers' own. UserError for a model that keeps something else than keys and values."""
    cache = DynamicCache(config=model.config)
    if strange := [layer for layer in cache.layers if not isinstance(layer, DynamicLayer)]:
        raise UserError(
            f"{type(model).__name__} keeps a {type(strange[0]).__name__}, of which rows cannot be dropped or repeated: "
            "use a model whose layers all attend"
        )
    return cache


def positions(is_token: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) position of each real token among its row's real tokens; 0 on padding, on either side."""
    return (is_token.cumsum(-1) - 1).clamp_min(0)


def embeddings(model: PreTrainedModel) -> Tensor:
    """(V, H)"""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's stack of transformer blocks: its longest list of modules."""
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    if not stacks:
        raise UserError(f"model '{type(model).__name__}' has no stack of blocks to adapt; use a decoder-only model")
    return max(stacks, key=len)


class _EnoughError(Exception):
    """Raised by a hook to end a pass early."""
