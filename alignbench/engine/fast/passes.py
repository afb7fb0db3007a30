"""Passes through a model with whatever kernels are on: `install` switches each on that is fit for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from alignbench.api import TokenBatch
from alignbench.engine import tally
from alignbench.engine.fast.cache import RoomyCache, grouped, roomy
from alignbench.engine.fast.frozen import FrozenStates, stack_of
from alignbench.engine.fast.lora import merged, merging, quicken
from alignbench.engine.fast.nats import Logits, logprobs_and_entropies, slopes_of
from alignbench.engine.fast.packing import LONGEST, Layout, attending
from alignbench.engine.fast.products import Product, product_of
from alignbench.engine.logprobs import LogprobEntropy
from alignbench.engine.passes import Passes, Prompted, States, make_cache

LONGEST_ON_GPU = 128  # tokens of a prompt that is packed; seen on an H100 with 40


class FastPasses(Passes):
    """Each flag is one kernel, off until its probe has passed."""

    packs = False  # batches pass as one row without padding
    shares_frozen_blocks = False  # blocks below the adapters run once per sequence
    makes_room = False  # samples grow in a cache that has room for them
    pulls_back = False  # log-probabilities keep no logits
    quickens = False  # adapters are added within their layer's product
    merges = True  # with `quickens`: long samples are drawn from weights with the adapter added

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._frozen = FrozenStates()

    # ------------------------------------------------------------------------------------------------------ adapters

    def adapt(self, module: nn.Module) -> None:
        if self.quickens:
            quicken(module)

    def can_merge(self, module: nn.Module) -> bool:
        return self.quickens and self.merges and not any(type(m) is PeftLinear for m in module.modules())

    def merged(self, module: nn.Module, name: str) -> AbstractContextManager[None]:
        for layer in merging(module, name):  # here and not where probes merge, which are nobody's cost
            tally.add(2 * layer.r[name] * layer.in_features * layer.out_features)
        return merged(module, name)

    # -------------------------------------------------------------------------------------------------------- states

    def states(self, batch: TokenBatch, adapted: int) -> States:
        """The blocks below the adapted ones give the same states to policy, reference and reward model, so each
        sequence passes them once; not where weights below may be in training mode (dropout)."""
        if not self.shares_frozen_blocks or self._is_training or adapted >= len(self.blocks):
            return self.run(batch)
        layout = self.layout(batch)
        return self.upper(batch, layout, self.below(batch, layout, adapted), adapted)

    def run(self, batch: TokenBatch) -> States:
        layout = self.layout(batch)
        return super().run(batch) if layout is None else self.packed(layout, input_ids=layout.ids)

    def packed(self, layout: Layout, **inputs: Tensor) -> States:
        """One pass over a packed row, given its `input_ids`, or `inputs_embeds` in their place."""
        with attending(self.model, layout):
            out = self.model.base_model(**inputs, position_ids=layout.positions, use_cache=False)
        return States(out.last_hidden_state[0], layout.place)

    def upper(self, batch: TokenBatch, layout: Layout | None, below: Tensor, adapted: int) -> States:
        """The pass through the topmost `adapted` blocks alone, from the states `below` them."""
        with stack_of(self.model, self.blocks, adapted):
            if layout is None:
                return self.padded(batch, inputs_embeds=below)
            return self.packed(layout, inputs_embeds=below)

    def layout(self, batch: TokenBatch) -> Layout | None:
        """None where a batch runs padded: dropout draws by place, autocast changes dtypes within a step, long sequences
        have kernels of their own, and a GPU waits for launches, of which a packed pass has more (figures in
        benchmarks/README.md)."""
        device = batch.ids.device.type
        is_mixed = torch.is_autocast_enabled(device)
        is_unfit = self._is_training or is_mixed or device != "cpu" or batch.ids.shape[1] > LONGEST
        return Layout(batch) if self.packs and not is_unfit else None

    @property
    def _is_training(self) -> bool:
        return any(block.training for block in self.blocks)

    @torch.no_grad()
    def below(self, batch: TokenBatch, layout: Layout | None, adapted: int) -> Tensor:
        """Output of the last block below the topmost `adapted`: (B, T, H), or (1, N, H) in a packed row."""
        depth = len(self.blocks) - adapted - 1
        rows = [(depth, *ids[real].tolist()) for ids, real in zip(batch.ids.cpu(), batch.is_token.cpu(), strict=True)]
        unseen = list({row: i for i, row in enumerate(rows) if row not in self._frozen}.values())
        known = {row: self._frozen.take(row) for row in rows if row in self._frozen}
        if unseen:
            part = TokenBatch(*(t[unseen] for t in batch))
            (states,) = self.block_states(part, [depth])
            for i, state, real in zip(unseen, states, part.is_token, strict=True):
                known[rows[i]] = state[real]  # a copy: the batch it was computed in can go
                self._frozen.put(rows[i], known[rows[i]])
        if layout is not None:
            return torch.cat([known[row][own:] for row, own in zip(rows, layout.own, strict=True)])[None]
        out = torch.zeros(*batch.ids.shape, self.hidden_size, dtype=self.model.dtype, device=batch.ids.device)
        for i, row in enumerate(rows):
            out[i, batch.is_token[i]] = known[row]
        return out

    def forget(self) -> None:
        self._frozen = FrozenStates()

    def kept(self) -> dict[str, Tensor]:
        is_exact = self.model.device.type == "cpu"  # nowhere else are a resumed fit's bits promised
        return self._frozen.tensors() if is_exact else {}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        self._frozen = FrozenStates.of(kept, self.model.device)

    @torch.no_grad()
    def block_states(self, batch: TokenBatch, depths: Sequence[int]) -> list[Tensor]:
        layout = self.layout(batch)
        if layout is None:
            return super().block_states(batch, depths)
        with self.watching(depths) as seen:
            self.packed(layout, input_ids=layout.ids)
        return [seen[depth][0][layout.place] for depth in depths]

    # ------------------------------------------------------------------------------------------------ log-probabilities

    def nats(self, states: Tensor, labels: Tensor, temperature: float, *, has_entropy_gradient: bool) -> LogprobEntropy:
        if not self.pulls_back:
            return super().nats(states, labels, temperature, has_entropy_gradient=has_entropy_gradient)
        if self.has_plain_head:  # whose weights are multiplied without a call of the module, which would be counted
            products = 1 + slopes_of(states, has_entropy_gradient)
            tally.add(2 * products * len(states) * self.hidden_size * self.vocabulary)
        return logprobs_and_entropies(
            states, labels, self.projection, temperature, has_entropy_gradient=has_entropy_gradient
        )

    @property
    def projection(self) -> Product:
        return product_of(self.model.get_output_embeddings()) if self.has_plain_head else Logits()

    # ------------------------------------------------------------------------------------------------------- samples

    def start(self, batch: TokenBatch, room: int) -> Prompted:
        longest = LONGEST if batch.ids.device.type == "cpu" else LONGEST_ON_GPU
        if not self.makes_room or batch.ids.shape[1] > longest:
            return super().start(batch, room)
        layout, seen = Layout(batch), make_cache(self.model)
        with attending(self.model, layout):
            states = self.model.base_model(
                input_ids=layout.ids, position_ids=layout.positions, past_key_values=seen, use_cache=True
            ).last_hidden_state[0]
        rows, is_token = layout.right_aligned()
        return Prompted(self.head(states[rows[:, -1]]), roomy(seen, rows, room), is_token)

    def next_logits(self, ids: Tensor, is_token: Tensor, place: Tensor, cache: DynamicCache) -> Tensor:
        if not isinstance(cache, RoomyCache):
            return super().next_logits(ids, is_token, place, cache)
        with grouped(self.model):
            return super().next_logits(ids, is_token, place, cache)
