"""One model in memory, any number of adapters on it.

The supervised start is an adapter merged at load: the merged model *is* the start point, so "adapter off" is the right
reference. Policy and reward model are named adapters on the same weights; switching costs nothing but a flag.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignbench.api import TokenBatch
from alignbench.engine.device import keep_freed_memory
from alignbench.engine.frozen import FrozenStates
from alignbench.engine.logprobs import ROWS_PER_BLOCK, before, logprobs_and_entropies, spread, token_logprobs
from alignbench.engine.tokens import Codec
from alignbench.errors import UserError
from alignbench.suite.spec import Lora


class Resident:
    """A base model with start adapters merged in, frozen, in eval mode."""

    def __init__(
        self, folder: Path | str, starts: Sequence[Path], lora: Lora, device: torch.device, dtype: torch.dtype
    ) -> None:
        keep_freed_memory()
        self.lora = lora
        self.device = device
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            # torch's fused CPU attention loses to two batched products at the short lengths trained here
            attention = "eager" if device.type == "cpu" else "sdpa"
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model '{folder}' does not load: {reason}; name an alias, a Hub id or a folder") from error
        placed = model.to(device)  # type: ignore[arg-type]  # as typed, transformers' wrapper of `to` takes the model itself
        self.base: PreTrainedModel = placed.eval().requires_grad_(False)
        self.codec = Codec(tokenizer, _window(model), device)
        self._peft: PeftModel | None = None
        self._is_off = False  # whether passes go round the adapters
        self._targets = _targets(self.base, lora)  # by block, named before any adapter wraps them
        self._layers_of: dict[str, int] = {}  # adapter -> how many of the topmost blocks carry it
        for start in starts:
            self.load_adapter("start", start)
            assert self._peft is not None
            self.base = self._peft.merge_and_unload().requires_grad_(False)
            self._peft = None
        self.hidden_size: int = self.base.get_input_embeddings().weight.shape[1]
        self._blocks = blocks(self.base)
        self._stack = _home(self.base, self._blocks)
        self._frozen = FrozenStates()
        self.shares_frozen_blocks = False  # the two probes below run the whole model
        self.has_plain_head = self._head_is_last_step()
        self.shares_frozen_blocks = self._adapted_layers() < len(self._blocks) and self._upper_blocks_take_states()

    # ------------------------------------------------------------------------------------------------------ adapters

    @property
    def module(self) -> nn.Module:
        """What a trainer calls: the PEFT model, or the bare one while there is no adapter."""
        return self.base if self._peft is None else self._peft

    def add_adapter(self, name: str, seed: int, layers: int | None = None) -> list[nn.Parameter]:
        """A fresh LoRA adapter on the topmost `layers` blocks (None: `lora.layers`), B = 0, so it changes nothing yet.
        Returns its parameters, ready to train."""
        count = layers or self.lora.layers or len(self._targets)
        if count > len(self._targets):
            have = len(self._targets)
            raise UserError(f"lora.layers: {count} asked for, the model has {have}; lower it or leave it out")
        self._layers_of[name] = count
        config = LoraConfig(
            r=self.lora.r,
            lora_alpha=self.lora.alpha,
            lora_dropout=self.lora.dropout,
            target_modules=[target for block in self._targets[-count:] for target in block],
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self._peft is None:
                self._peft = get_peft_model(self.base, config, adapter_name=name, autocast_adapter_dtype=False)
            else:
                self._peft.add_adapter(name, config, autocast_adapter_dtype=False)
        self._peft.eval()
        return self.activate(name)

    def load_adapter(self, name: str, folder: Path, layers: int | None = None) -> list[nn.Parameter]:
        """An adapter saved by `save_adapter`, under `name`; `layers` as it was made with."""
        parameters = self.add_adapter(name, seed=0, layers=layers)
        assert self._peft is not None
        set_peft_model_state_dict(
            self._peft, load_file(folder / "adapter_model.safetensors", device=str(self.device)), adapter_name=name
        )
        return parameters

    def save_adapter(self, name: str, folder: Path) -> None:
        """PEFT's own two files, loadable by any PEFT user."""
        assert self._peft is not None
        self._peft.save_pretrained(str(folder), selected_adapters=[name])
        if (folder / name).is_dir():  # PEFT puts a named adapter into a subfolder
            for file in (folder / name).iterdir():
                file.rename(folder / file.name)
            (folder / name).rmdir()
        (folder / "README.md").unlink(missing_ok=True)

    def drop_adapters(self) -> None:
        """Back to the bare start point."""
        if self._peft is not None:
            self.base = self._peft.unload()
            self.base.requires_grad_(False)
            self._peft, self._is_off = None, False
        self.base.eval()  # a run that failed while it trained leaves dropout on
        self._frozen = FrozenStates()  # their last bits depend on the batches seen: each stage begins with none

    def activate(self, name: str) -> list[nn.Parameter]:
        """Make `name` the adapter every pass goes through, and the only one with gradients."""
        assert self._peft is not None
        if self._peft.active_adapter != name:
            self._peft.set_adapter(name)
        return [p for p in self._peft.parameters() if p.requires_grad]

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Run passes through one adapter (None: through none) without dropout, then restore what was before. May be
        nested. What is read here is a sample, a reference or a score, also while a method trains with dropout."""
        if self._peft is None and name is not None:
            raise KeyError(name)
        outer = None if self._is_off or self._peft is None else self._peft.active_adapter
        was_training = self.base.training
        if was_training:
            self.base.eval()
        if self._peft is not None:
            self._switch(name)
        try:
            yield
        finally:
            if self._peft is not None:
                self._switch(outer)
            if was_training:
                self.base.train()

    def _switch(self, name: str | None) -> None:
        assert self._peft is not None
        wrapper = self._peft.base_model
        assert isinstance(wrapper, LoraModel)
        if name is None:
            if not self._is_off:
                wrapper.disable_adapter_layers()
        else:
            if self._is_off:
                wrapper.enable_adapter_layers()
            self.activate(name)
        self._is_off = name is None

    # -------------------------------------------------------------------------------------------------------- passes

    def hidden(self, batch: TokenBatch) -> Tensor:
        """(B, T, H) final hidden states under the active adapter. Positions count real tokens only.

        Blocks below the adapters give the same states to policy, reference and reward model, so each sequence passes
        them once and its states are kept; switched off where weights below may be in training mode (dropout).
        """
        if not self.shares_frozen_blocks or self.base.training:
            return self._run(input_ids=batch.ids, batch=batch)
        layers = self._adapted_layers()
        if layers == len(self._blocks):
            return self._run(input_ids=batch.ids, batch=batch)
        below = self._frozen_states(batch, len(self._blocks) - layers - 1)
        setattr(*self._stack, nn.ModuleList(self._blocks[-layers:]))
        try:
            return self._run(inputs_embeds=below, batch=batch)
        finally:
            setattr(*self._stack, self._blocks)

    def _run(self, batch: TokenBatch, **inputs: Tensor) -> Tensor:
        return self.base.base_model(
            **inputs, attention_mask=batch.is_token.long(), position_ids=positions(batch.is_token), use_cache=False
        ).last_hidden_state

    def _adapted_layers(self) -> int:
        """How many of the topmost blocks the active adapter may change."""
        if self._peft is None or self._is_off:
            return self.lora.layers or len(self._blocks)
        return self._layers_of[str(self._peft.active_adapter)]

    @torch.no_grad()
    def _frozen_states(self, batch: TokenBatch, depth: int) -> Tensor:
        """(B, T, H) output of block `depth`, which no active adapter lies below."""
        rows = [(depth, *ids[real].tolist()) for ids, real in zip(batch.ids.cpu(), batch.is_token.cpu(), strict=True)]
        unseen = [i for i, row in enumerate(rows) if row not in self._frozen]
        known = {row: self._frozen.take(row) for row in rows if row in self._frozen}
        if unseen:
            part = TokenBatch(*(t[unseen] for t in batch))
            (states,) = self.block_states(part, [depth])
            for i, state, real in zip(unseen, states, part.is_token, strict=True):
                known[rows[i]] = state[real]  # a copy: the batch it was computed in can go
                self._frozen.put(rows[i], known[rows[i]])
        out = torch.zeros(*batch.ids.shape, self.hidden_size, dtype=self.base.dtype, device=self.device)
        for i, row in enumerate(rows):
            out[i, batch.is_token[i]] = known[row]
        return out

    @torch.no_grad()
    def block_states(self, batch: TokenBatch, depths: Sequence[int]) -> list[Tensor]:
        """(B, T, H) output of each block numbered in `depths`, without adapters; none above the last is computed."""
        seen: dict[int, Tensor] = {}

        def keep(depth: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                seen[depth] = output[0] if isinstance(output, tuple) else output
                if depth == max(depths):
                    raise _EnoughError

            return hook

        hooks = [self._blocks[depth].register_forward_hook(keep(depth)) for depth in depths]
        try:
            with self.using(None):
                self._run(input_ids=batch.ids, batch=batch)
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[depth] for depth in depths]

    def response_states(self, batch: TokenBatch) -> Tensor:
        """(N, H) states from which the N response tokens were predicted; (N, V) logits where a model does more after
        its final states than project them."""
        if self.has_plain_head:
            return before(self.hidden(batch), batch.is_response)
        out = self.base(
            input_ids=batch.ids, attention_mask=batch.is_token.long(), position_ids=positions(batch.is_token),
            use_cache=False,
        )  # fmt: skip
        return before(out.logits, batch.is_response)

    def project(self, states: Tensor) -> Tensor:
        """What `response_states` gave -> (N, V) logits."""
        return self.head(states) if self.has_plain_head else states

    def head(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V) by the output embeddings."""
        return self.base.get_output_embeddings()(hidden)

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """(B, T) log-probabilities of the response tokens, nats, zero elsewhere."""
        states, labels = self.response_states(batch), batch.ids[batch.is_response]
        return spread(self._in_blocks(token_logprobs, states, labels, temperature), batch.is_response)

    def logprobs_and_entropies(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) log-probabilities, (B, T) entropies, nats, and the (N, H) final states both were read from."""
        states, labels = before(self.hidden(batch), batch.is_response), batch.ids[batch.is_response]
        inputs = states if self.has_plain_head else self.response_states(batch)
        nats = self._in_blocks(logprobs_and_entropies, inputs, labels, temperature)
        return spread(nats[0], batch.is_response), spread(nats[1], batch.is_response), states

    def _in_blocks(self, read: Callable[..., Any], states: Tensor, labels: Tensor, temperature: float) -> Any:
        """`read(logits, labels, temperature)`; without gradient a block of rows at a time, so that memory does not grow
        with the batch."""
        if torch.is_grad_enabled() or len(states) <= ROWS_PER_BLOCK:
            return read(self.project(states), labels, temperature)
        parts = [
            read(self.project(s), y, temperature)
            for s, y in zip(states.split(ROWS_PER_BLOCK), labels.split(ROWS_PER_BLOCK), strict=True)
        ]
        return torch.cat(parts) if isinstance(parts[0], Tensor) else [torch.cat(c) for c in zip(*parts, strict=True)]

    def _probe(self, rows: int) -> Tensor:
        """(rows, 4) ids that differ as far as the vocabulary has that many."""
        ids = torch.arange(4 * rows, device=self.device).view(rows, 4) + 3
        return ids % self.base.config.vocab_size

    @torch.no_grad()
    def _head_is_last_step(self) -> bool:
        """Whether logits are the output embeddings of the final hidden state, with nothing (scaling, capping) after."""
        ids = self._probe(1)
        everything = torch.ones_like(ids, dtype=torch.bool)
        ours = self.head(self.hidden(TokenBatch(ids, everything, everything)))
        return torch.allclose(ours, self.base(input_ids=ids, use_cache=False).logits, rtol=1e-3, atol=1e-3)

    @torch.no_grad()
    def _upper_blocks_take_states(self) -> bool:
        """Whether the upper blocks alone, given states in place of embeddings, end where the whole model does. Models
        that scale or add to their embeddings (GPT-2, Gemma) do not, and run whole."""
        ids = self._probe(2)
        everything = torch.ones_like(ids, dtype=torch.bool)
        batch = TokenBatch(ids, everything, everything)
        whole = self._run(input_ids=ids, batch=batch)
        self.shares_frozen_blocks = True
        shared = self.hidden(batch)
        tolerance = 1e-4 if self.base.dtype == torch.float32 else 5e-2
        return torch.allclose(shared, whole, rtol=tolerance, atol=tolerance)


class Engine(NamedTuple):
    """Where residents come from: a few are kept, the least recently used leaves first."""

    folder: Path | str
    lora: Lora
    device: torch.device
    dtype: torch.dtype
    kept: OrderedDict[tuple[Path, ...], Resident]
    most: int = 2  # a start point for training and the base model for the gold reward

    @contextmanager
    def resident(self, starts: Sequence[Path] = ()) -> Iterator[Resident]:
        """The model with `starts` merged, without adapters, and without adapters again afterwards."""
        key = tuple(starts)
        if key not in self.kept:
            while len(self.kept) >= self.most:
                self.kept.popitem(last=False)
            self.kept[key] = Resident(self.folder, key, self.lora, self.device, self.dtype)
        self.kept.move_to_end(key)
        resident = self.kept[key]
        try:
            yield resident
        finally:
            resident.drop_adapters()


def positions(is_token: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) position of each real token among its row's real tokens; 0 on padding, on either side."""
    return (is_token.cumsum(-1) - 1).clamp_min(0)


def _window(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 10**9


def _home(model: nn.Module, stack: nn.ModuleList) -> tuple[nn.Module, str]:
    """The module that holds the stack, and the attribute it is under."""
    return next((m, name) for m in model.modules() for name, child in m.named_children() if child is stack)


class _EnoughError(Exception):
    """Raised by a hook to end a pass early."""


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's stack of transformer blocks: its longest list of modules."""
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    if not stacks:
        raise UserError(f"model '{type(model).__name__}' has no stack of blocks to adapt; use a decoder-only model")
    return max(stacks, key=len)


def _targets(model: PreTrainedModel, lora: Lora) -> list[list[str]]:
    """Full names of the linear layers an adapter goes on, block by block."""
    inside = [{id(m) for m in block.modules()} for block in blocks(model)]
    linear = [(name, id(m)) for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    by_block = [[name for name, module in linear if module in block] for block in inside]
    if lora.target_modules == "all-linear":
        return by_block
    seen = {name.rsplit(".", 1)[-1] for block in by_block for name in block}
    missing = set(lora.target_modules) - seen
    if missing:
        have = ", ".join(sorted(seen))
        raise UserError(f"lora.target_modules: no layer named {', '.join(sorted(missing))}; the model has {have}")
    return [[name for name in block if name.rsplit(".", 1)[-1] in lora.target_modules] for block in by_block]
