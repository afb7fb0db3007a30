"""Passes through a model's stack of blocks: packed (on a CPU), and with the blocks below the adapters run once per
sequence.

Both shorten the way to the same numbers, both are probed when a model is loaded, and both have a switch: `packs` and
`shares_frozen_blocks`. A model that fails a probe runs as transformers runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignbench.api import TokenBatch
from alignbench.engine.frozen import FrozenStates
from alignbench.engine.packing import LONGEST, Layout, attending
from alignbench.errors import UserError


class States(NamedTuple):
    """Final hidden states of a batch, as they lie after a pass."""

    rows: Tensor  # (N, H)
    place: Tensor  # (B, T) the row of each token; on padding any row

    def at(self, is_wanted: Tensor) -> Tensor:
        """(B, T) bool -> (M, H) in row-major order."""
        return self.rows[self.place[is_wanted]]

    def padded(self) -> Tensor:
        """(B, T, H); what stands on padding means nothing."""
        return self.rows[self.place]


class Trunk:
    """The blocks of `model`, frozen; adapters may sit on the topmost ones."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.blocks = blocks(model)
        self.vocabulary, self.hidden_size = (int(n) for n in embeddings(model).shape)
        self._home = _home(model, self.blocks)
        self._frozen = FrozenStates()
        self.packs = self.shares_frozen_blocks = False  # the probes compare with the whole model, padded
        self.packs = self._row_equals_batch()

    def forget(self) -> None:
        """Drop the kept states: their last bits depend on the batches seen, so each stage begins with none."""
        self._frozen = FrozenStates()

    def states(self, batch: TokenBatch, adapted: int) -> States:
        """Final states; positions count real tokens only. `adapted`: how many of the topmost blocks may differ from the
        bare model's. Those below give the same states to policy, reference and reward model, so each sequence passes
        them once; not where weights below may be in training mode (dropout)."""
        layout = self._layout(batch)
        if not self.shares_frozen_blocks or self._is_training or adapted >= len(self.blocks):
            return self._run(batch, layout)
        below = self._frozen_states(batch, layout, len(self.blocks) - adapted - 1)
        setattr(*self._home, nn.ModuleList(self.blocks[-adapted:]))
        try:
            return self._run(batch, layout, below)
        finally:
            setattr(*self._home, self.blocks)

    def _layout(self, batch: TokenBatch) -> Layout | None:
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

    def _run(self, batch: TokenBatch, layout: Layout | None, below: Tensor | None = None) -> States:
        if layout is None:
            inputs = {"input_ids": batch.ids} if below is None else {"inputs_embeds": below}
            hidden = self.model.base_model(
                **inputs, attention_mask=batch.is_token.long(), position_ids=positions(batch.is_token), use_cache=False
            ).last_hidden_state
            return States(
                hidden.flatten(0, 1), torch.arange(batch.ids.numel(), device=hidden.device).view_as(batch.ids)
            )
        inputs = {"input_ids": layout.ids} if below is None else {"inputs_embeds": below}
        with attending(self.model, layout):
            out = self.model.base_model(**inputs, position_ids=layout.positions, use_cache=False)
        return States(out.last_hidden_state[0], layout.place)

    @torch.no_grad()
    def _frozen_states(self, batch: TokenBatch, layout: Layout | None, depth: int) -> Tensor:
        """Output of block `depth`, which no active adapter lies below: (B, T, H), or (1, N, H) in a packed row."""
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

    @torch.no_grad()
    def block_states(self, batch: TokenBatch, depths: Sequence[int]) -> list[Tensor]:
        """(B, T, H) output of each block numbered in `depths`; none above the last is computed. Adapters should be
        off."""
        seen: dict[int, Tensor] = {}

        def keep(depth: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                seen[depth] = output[0] if isinstance(output, tuple) else output
                if depth == max(depths):
                    raise _EnoughError

            return hook

        layout = self._layout(batch)
        hooks = [self.blocks[depth].register_forward_hook(keep(depth)) for depth in depths]
        try:
            self._run(batch, layout)
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[depth] if layout is None else seen[depth][0][layout.place] for depth in depths]

    # -------------------------------------------------------------------------------------------------------- probes

    def probe(self) -> TokenBatch:
        """Three short sequences of ordinary tokens; the first two share a prompt."""
        ids = torch.tensor([[1, 2, 1, 2, 3], [1, 2, 3, 3, 0], [2, 1, 3, 1, 0]])
        is_token = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
        is_response = is_token & (torch.arange(5) >= 2)
        ids = ids * max(1, self.vocabulary // 4)
        return TokenBatch(*(t.to(self.model.device) for t in (ids, is_token, is_response)))

    @torch.no_grad()
    def _row_equals_batch(self) -> bool:
        """Whether sequences of several lengths, two with one prompt, end in a packed row where they do in a batch."""
        batch = self.probe()
        whole, layout = self._run(batch, None), Layout(batch)
        try:
            packed = self._run(batch, layout)
        except Exception:  # whatever a model's code says of such a row, it runs padded
            return False
        config = self.model.config
        window = getattr(config, "attention_chunk_size", None) or getattr(config, "sliding_window", None) or LONGEST
        if window < LONGEST and layout.saw_no_window:  # it lives in the mask alone, which a packed row replaces
            return False
        return self.is_close(packed.at(batch.is_token), whole.at(batch.is_token))

    @torch.no_grad()
    def try_sharing_frozen_blocks(self, adapted: int) -> None:
        """Share the blocks below the topmost `adapted` ones if the upper blocks alone, given states in place of
        embeddings, end where the whole model does. Models that scale or add to their embeddings (GPT-2, Gemma) do not;
        models whose layers attend in different ways by number are not asked, for a stack cut short renumbers them."""
        if adapted >= len(self.blocks) or len(set(getattr(self.model.config, "layer_types", None) or ())) > 1:
            return
        batch = self.probe()
        whole = self._run(batch, self._layout(batch))
        self.shares_frozen_blocks = True
        try:
            shared = self.states(batch, adapted).at(batch.is_token)
        except Exception:  # as above
            shared = torch.full_like(whole.rows[:1], torch.nan)
        self.shares_frozen_blocks = self.is_close(shared, whole.at(batch.is_token))
        self.forget()

    def is_close(self, ours: Tensor, theirs: Tensor) -> bool:
        """Equal up to the rounding of the model's dtype."""
        distance = (ours - theirs).float().norm() / theirs.float().norm()
        return float(distance) < (1e-4 if self.model.dtype == torch.float32 else 0.05)


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


def _home(model: nn.Module, stack: nn.ModuleList) -> tuple[nn.Module, str]:
    """The module that holds the stack, and the attribute it is under."""
    return next((m, name) for m in model.modules() for name, child in m.named_children() if child is stack)


class _EnoughError(Exception):
    """Raised by a hook to end a pass early."""
