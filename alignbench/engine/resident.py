"""One model in memory, any number of adapters on it.

The supervised start is an adapter merged at load: the merged model *is* the start point, so "adapter off" is the right
reference. Policy and reward model are named adapters on the same weights; switching costs nothing but a flag.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignbench.api import TokenBatch
from alignbench.engine.device import keep_freed_memory
from alignbench.engine.fast import Active, install
from alignbench.engine.flops import Watch
from alignbench.engine.logprobs import is_before, spread
from alignbench.engine.passes import blocks
from alignbench.engine.tokens import Codec
from alignbench.errors import UserError
from alignbench.suite.spec import Lora

POLICY, CRITIC = "policy", "critic"  # adapters of a trial


class Resident:
    """A base model with start adapters merged in, frozen, in eval mode."""

    def __init__(
        self, folder: Path | str, starts: Sequence[Path], lora: Lora, device: torch.device, dtype: torch.dtype,
        codec: Codec | None = None, kernels: str = "fast", without: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`codec`: that of another resident of the same folder; a tokenizer may take longer to read than a model.
        `kernels` and `without` as in `fast.install`."""
        keep_freed_memory()
        self.name = Path(folder).resolve().name if Path(folder).exists() else str(folder)  # a Hub id as it stands
        self.lora = lora
        self.device = device
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder) if codec is None else codec.tokenizer
            # torch's fused CPU attention loses to two batched products at the short lengths trained here; elsewhere the
            # model's own choice, for not every model has a fused one
            attention = "eager" if device.type == "cpu" else None
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model '{folder}' does not load: {reason}; name an alias, a Hub id or a folder") from error
        placed = model.to(device)  # type: ignore[arg-type]  # as typed, transformers' wrapper of `to` takes the model itself
        self.base: PreTrainedModel = placed.eval().requires_grad_(False)
        self.codec = codec or Codec(tokenizer, _window(model), device)
        self._peft: PeftModel | None = None
        self._is_off = False  # whether passes go round the adapters
        self._targets = _targets(self.base, lora)  # by block, named before any adapter wraps them
        self._layers_of: dict[str, int] = {}  # adapter -> how many of the topmost blocks carry it
        for start in starts:
            self._put_on("start", 0, None)  # on all layers: it adds nothing where the file has none
            self.base = self._filled("start", start).merge_and_unload().requires_grad_(False)
            self._peft = None
        self.passes, self.active = install(self.base, kernels, adapted=lora.layers, without=without)
        self.hidden_size = self.passes.hidden_size
        self._watch = Watch(self.base)  # from here on: probes are nobody's cost

    # ------------------------------------------------------------------------------------------------------ adapters

    @property
    def module(self) -> nn.Module:
        """What a trainer calls: the PEFT model, or the bare one while there is no adapter."""
        return self.base if self._peft is None else self._peft

    def add_adapter(self, name: str, seed: int, layers: int | None = None) -> list[nn.Parameter]:
        """A fresh LoRA adapter on the topmost `layers` blocks (None: `lora.layers`), B = 0, so it changes nothing yet.
        Returns its parameters, ready to train. UserError if the model has fewer blocks."""
        self.passes.adapt(self._put_on(name, seed, layers or self.lora.layers))
        self._watch.refresh()
        return self.activate(name)

    def load_adapter(self, name: str, folder: Path, layers: int | None = None) -> list[nn.Parameter]:
        """An adapter saved by `save_adapter`, under `name`; `layers` as it was made with."""
        parameters = self.add_adapter(name, seed=0, layers=layers)
        self._filled(name, folder)
        return parameters

    def _put_on(self, name: str, seed: int, layers: int | None) -> PeftModel:
        """A fresh adapter as PEFT makes it."""
        count = layers or len(self._targets)
        if count > len(self._targets):
            have = len(self._targets)
            raise UserError(
                f"layers: {count} asked for adapter '{name}', the model has {have}; lower it or leave it out"
            )
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
                made = get_peft_model(self.base, config, adapter_name=name, autocast_adapter_dtype=False)
                assert isinstance(made, PeftModel)
                self._peft = made
            else:
                self._peft.add_adapter(name, config, autocast_adapter_dtype=False)
        self._peft.eval()
        return self._peft

    def _filled(self, name: str, folder: Path) -> PeftModel:
        """Adapter `name` has the weights that `save_adapter` left in `folder`."""
        assert self._peft is not None
        weights = load_file(folder / "adapter_model.safetensors", device=str(self.device))
        set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        return self._peft

    def save_adapter(self, name: str, folder: Path) -> None:
        """PEFT's own two files, loadable by any PEFT user."""
        assert self._peft is not None
        self._peft.save_pretrained(str(folder), selected_adapters=[name])
        if (folder / name).is_dir():  # PEFT puts a named adapter into a subfolder
            for file in (folder / name).iterdir():
                file.rename(folder / file.name)
            (folder / name).rmdir()
        (folder / "README.md").unlink(missing_ok=True)
        self._name_the_model_alone(folder / "adapter_config.json")

    def _name_the_model_alone(self, config: Path) -> None:
        """PEFT notes the folder the model was loaded from, which no other machine has and no reader should see."""
        kept = json.loads(config.read_text(encoding="utf-8"))
        kept["base_model_name_or_path"] = self.name
        kept["target_modules"] = sorted(kept["target_modules"])  # a set, whose order is another in every process
        config.write_text(json.dumps(kept, indent=2, sort_keys=True), encoding="utf-8")

    def drop_adapters(self) -> None:
        """Back to the bare start point."""
        if self._peft is not None:
            self.base = self._peft.unload()
            self.base.requires_grad_(False)
            self._peft, self._is_off = None, False
            self._watch.refresh()
        self.base.eval()  # a run that failed while it trained leaves dropout on
        self.passes.forget()

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
        try:
            if was_training:
                self.base.eval()
            if self._peft is not None:
                self._switch(name)
            yield
        finally:
            if self._peft is not None:
                self._switch(outer)
            if was_training:
                self.base.train()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """For many passes through the active adapter: where there is a quicker way than to pass it each time, take
        that for as long as this is open."""
        name = None if self._is_off or self._peft is None else str(self._peft.active_adapter)
        if name is None or not self.passes.can_merge(self.module):
            yield
            return
        with self.passes.merged(self.module, name), self.using(None):
            yield

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
        """(B, T, H) final hidden states under the active adapter; what stands on padding means nothing."""
        return self.passes.states(batch, self._adapted_layers()).padded()

    def _adapted_layers(self) -> int:
        """How many of the topmost blocks the active adapter may change."""
        if self._peft is None or self._is_off:
            return self.lora.layers or len(self.passes.blocks)
        return self._layers_of[str(self._peft.active_adapter)]

    def block_states(self, batch: TokenBatch, depths: Sequence[int]) -> list[Tensor]:
        """(B, T, H) output of each block numbered in `depths`, without adapters; none above the last is computed."""
        with self.using(None):
            return self.passes.block_states(batch, depths)

    def response_states(self, batch: TokenBatch) -> Tensor:
        """(N, H) states from which the N response tokens were predicted; (N, V) logits where a model does more after
        its final states than project them."""
        return self.passes.response_states(batch, self._adapted_layers())

    def states_before(self, batch: TokenBatch) -> Tensor:
        """(N, H) final states one place to the left of the response tokens."""
        return self.passes.states(batch, self._adapted_layers()).at(is_before(batch.is_response))

    def project(self, states: Tensor) -> Tensor:
        """What `response_states` gave -> (N, V) logits."""
        return self.passes.project(states)

    def head(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V) by the output embeddings."""
        return self.passes.head(hidden)

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """(B, T) log-probabilities of the response tokens, nats, zero elsewhere."""
        states, labels = self.response_states(batch), batch.ids[batch.is_response]
        nats = self.passes.nats(states, labels, temperature, has_entropy_gradient=False)
        return spread(nats.logprobs, batch.is_response)

    def logprobs_and_entropies(
        self, batch: TokenBatch, temperature: float = 1.0, *, has_entropy_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) log-probabilities, (B, T) entropies, nats, and the (N, H) final states both were read from."""
        states, labels = self.states_before(batch), batch.ids[batch.is_response]
        inputs = states if self.passes.has_plain_head else self.response_states(batch)
        nats = self.passes.nats(inputs, labels, temperature, has_entropy_gradient=has_entropy_gradient)
        return spread(nats.logprobs, batch.is_response), spread(nats.entropies, batch.is_response), states


def has_moved(folder: Path) -> bool:
    """Whether a saved adapter changes the model at all. B is zero at the start of a run, and while it is, so is B A."""
    weights = load_file(folder / "adapter_model.safetensors")
    return any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)


class Engine(NamedTuple):
    """Where residents come from: a few are kept, the least recently used leaves first."""

    folder: Path | str
    lora: Lora
    device: torch.device
    dtype: torch.dtype
    kept: OrderedDict[tuple[Path, ...], Resident]
    most: int = 2  # a start point for training and the base model for the gold reward
    kernels: str = "fast"

    @property
    def active(self) -> Active | None:
        """The kernels of the resident that was asked for last; None before the first."""
        return next(reversed(self.kept.values())).active if self.kept else None

    @contextmanager
    def resident(self, starts: Sequence[Path] = ()) -> Iterator[Resident]:
        """The model with `starts` merged, without adapters, and without adapters again afterwards."""
        key = tuple(starts)
        if key not in self.kept:
            while len(self.kept) >= self.most:
                self.kept.popitem(last=False)
            codec = next((other.codec for other in self.kept.values()), None)
            self.kept[key] = Resident(self.folder, key, self.lora, self.device, self.dtype, codec, self.kernels)
        self.kept.move_to_end(key)
        resident = self.kept[key]
        try:
            yield resident
        finally:
            resident.drop_adapters()


def _window(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 10**9


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
