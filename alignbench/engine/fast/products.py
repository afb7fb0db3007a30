"""Products with a frozen weight that is laid out once as the CPU's matrix kernels read it.

oneDNN multiplies by blocks and rearranges a plain weight at every call, which is up to a third of a sampling step's
products and a tenth of a training step's; in float32 torch would not even ask it (figures in benchmarks/README.md). The
call is one that torch keeps for its own compiler, so it is probed: where it is missing, or ends elsewhere than the
plain product does, plain products run.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from alignbench.engine.fast.probe import UnfitError, compare, there_and_back

WORTH_PREPACKING = 2**14  # numbers in a weight; below, the call itself costs more than the product


class Product(Protocol):
    """y = W x + b with a weight that gets no gradient."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""

    def pull(self, grad: Tensor) -> Tensor:
        """(N, O) -> (N, I): the gradient of the input, from the output's."""


class Plain(NamedTuple):
    weight: Tensor  # (O, I)
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def pull(self, grad: Tensor) -> Tensor:
        return grad.mm(self.weight)


class Prepacked:
    """The same by blocks, which cost the weight's memory once more, and again from the first gradient on."""

    def __init__(self, plain: Plain) -> None:
        self._plain = plain
        self.dtype = plain.weight.dtype
        self._blocks = _in_blocks(plain.weight)
        self._blocks_back: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return _multiply(x, self._blocks, self._plain.bias)

    def pull(self, grad: Tensor) -> Tensor:
        if self._blocks_back is None:
            self._blocks_back = _in_blocks(self._plain.weight.T)
        return _multiply(grad, self._blocks_back, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepacked:
        """oneDNN's blocks cannot be copied."""
        return Prepacked(copy.deepcopy(self._plain, memo))


def _in_blocks(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def _multiply(x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product) -> Tensor:
        ctx.product = product
        return product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.product.pull(grads[0]), None


# --------------------------------------------------------------------------------------------------------------- layers


def product_of(layer: Any) -> Product:
    """What a linear layer computes, prepacked if `prepack` has been there."""
    return prepacked_of(layer) or plain_of(layer)


def prepacked_of(layer: Any) -> Prepacked | None:
    """None also where somebody has cast the layer since, or trains it."""
    prepacked: Prepacked | None = getattr(layer, "prepacked", None)
    is_as_it_was = prepacked is not None and prepacked.dtype == layer.weight.dtype and not layer.weight.requires_grad
    return prepacked if is_as_it_was else None


def plain_of(layer: Any) -> Plain:
    weight = layer.weight.detach()  # these numbers, also while the layer is lent others (`lora.merged`)
    return Plain(weight.T if isinstance(layer, Conv1D) else weight, layer.bias)


def _forward(layer: Any, input: Tensor) -> Tensor:  # torch's name for it
    x, product = input, prepacked_of(layer)
    if product is None or x.dtype != product.dtype or torch.is_autocast_enabled(x.device.type):
        return type(layer).usual.forward(layer, x)
    rows = x.reshape(-1, x.shape[-1])
    out = _Through.apply(rows, product) if rows.requires_grad and torch.is_grad_enabled() else product(rows)
    return out.view(*x.shape[:-1], out.shape[-1])


class PrepackedLinear(nn.Linear):
    prepacked: Prepacked
    usual = nn.Linear
    forward = _forward


class PrepackedConv1D(Conv1D):
    prepacked: Prepacked
    usual = Conv1D
    forward = _forward


CLASSES: dict[type[nn.Module], Any] = {nn.Linear: PrepackedLinear, Conv1D: PrepackedConv1D}
LINEAR_LAYERS = frozenset((*CLASSES, *CLASSES.values()))


def worthwhile(model: nn.Module, least: int | None = None) -> list[Any]:
    """The linear layers whose weights are frozen and have `least` numbers or more (None: as many as it takes to be
    worth it); a quantised weight is of another class."""
    least = WORTH_PREPACKING if least is None else least
    layers: list[Any] = [layer for layer in model.modules() if type(layer) in CLASSES]
    return [
        layer for layer in layers
        if type(w := layer.weight.data) is Tensor and not layer.weight.requires_grad and w.numel() >= least
    ]  # fmt: skip


def prepack(model: nn.Module, least: int | None = None) -> int:
    """Prepack those layers, where it can be done. Returns how many were."""
    layers = [x for x in worthwhile(model, least) if can_prepack(x.weight.device, x.weight.dtype)]
    for layer in layers:
        layer.prepacked = Prepacked(plain_of(layer))
        layer.__class__ = CLASSES[type(layer)]
    return len(layers)


def repack(layer: Any) -> None:
    """After a layer's weight has changed."""
    if prepacked_of(layer) is not None:
        layer.prepacked = Prepacked(plain_of(layer))


def unpack(model: nn.Module) -> None:
    """The switch: back to plain products."""
    layers: list[Any] = [m for m in model.modules() if isinstance(m, PrepackedLinear | PrepackedConv1D)]
    for layer in layers:
        layer.__class__ = layer.usual
        del layer.prepacked


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and why_not(dtype) is None


@cache
def why_not(dtype: torch.dtype) -> str | None:
    """Why a prepacked product cannot stand in for the plain one on this machine; None where both end alike, there and
    back."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, dtype=dtype, generator=generator) for size in ((5, 96), (160, 96), (160,)))
    x.requires_grad_()
    try:
        compare(
            lambda: there_and_back(_Through.apply(x, Prepacked(Plain(weight, bias))), x),
            lambda: there_and_back(nn.functional.linear(x, weight, bias), x),
            8 * torch.finfo(dtype).eps,
        )
    except UnfitError as reason:
        return str(reason)
    return None
