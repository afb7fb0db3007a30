"""The hand-written kernels and layouts, behind one door.

`install` tries each kernel that a model has a use for, there and back beside transformers' or peft's own modules, and
switches on those that end where these do. What it returns is a way through the model, and what is active:

- `packing`: a batch passes as one row without padding, and a prompt that rows share passes once
- `frozen_blocks`: blocks below the adapters run once per sequence
- `sampling`: a sample grows in a cache that has room for it, whose heads read shared keys in place
- `logprobs`: gradients are pulled back to the states at once, and no logits are kept
- `norms`: RMS norms keep their input alone for the backward pass
- `products`: frozen weights are laid out as the CPU's matrix kernels read them
- `adapters`: a LoRA layer's sum within its product, and long samples from weights with the adapter added

`kernels: plain` does without all of them: padded batches through transformers' and peft's own modules, log-softmax by
autograd. What is no kernel is the same in both: drawing from the logits, dropping rows that ended, gathering the
response positions before the vocabulary projection, the optimiser.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from alignbench.engine.fast import switches
from alignbench.engine.fast.passes import FastPasses
from alignbench.engine.fast.probe import UnfitError
from alignbench.engine.passes import Passes

# In this order: a way through the whole model is probed while its modules are still the library's own. Each switches
# itself on and says so; False where the model or the device has no use for it.
KERNELS: dict[str, Callable[[FastPasses, int], bool]] = {
    "packing": switches.packing,
    "frozen_blocks": switches.frozen_blocks,
    "sampling": switches.sampling,
    "logprobs": switches.logprobs,
    "norms": switches.norms,
    "products": switches.products,
    "adapters": switches.adapters,
}


@dataclass(frozen=True)
class Active:
    """Which kernels run, and why others that were tried do not."""

    is_plain: bool = True  # none was asked for
    names: tuple[str, ...] = ()
    fallen: tuple[tuple[str, str], ...] = ()  # kernel, reason

    def __str__(self) -> str:
        """'plain', or 'fast: norms, products; not packing: its output is ...'."""
        if self.is_plain:
            return "plain"
        return "; ".join(
            [f"fast: {', '.join(self.names) or 'none'}", *(f"not {name}: {why}" for name, why in self.fallen)]
        )


class Installed(NamedTuple):
    passes: Passes
    active: Active


def install(
    model: PreTrainedModel, kernels: str, *, adapted: int | None = None, without: Collection[str] = ()
) -> Installed:
    """Kernels for a frozen model, or none of them where `kernels` is 'plain'. `adapted`: how many of the topmost blocks
    will carry adapters (None: all); `without`: kernels to leave out, for whoever measures them.

    A kernel that is not fit falls back to the plain module, with one warning. ValueError for an unknown name."""
    if kernels not in ("fast", "plain") or not KERNELS.keys() >= set(without):
        raise ValueError(f"kernels are 'fast' or 'plain', without some of {', '.join(KERNELS)}: {kernels}, {without}")
    if kernels == "plain":
        return Installed(Passes(model), Active())
    passes = FastPasses(model)
    names, fallen = [], []
    for name, switch_on in KERNELS.items():
        if name in without:
            continue
        try:
            with torch.autocast(model.device.type, enabled=False):  # what a caller trains under is no part of a probe
                if switch_on(passes, len(passes.blocks) if adapted is None else adapted):
                    names.append(name)
        except UnfitError as reason:
            fallen.append((name, str(reason)))
            warnings.warn(f"kernel '{name}' is not used, the plain module runs: {reason}", stacklevel=2)
    return Installed(passes, Active(False, tuple(names), tuple(fallen)))
