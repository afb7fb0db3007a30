"""A LoRA layer's product in three matrix products forward and five backward.

PEFT's own forward writes the layer's wide output four times (product, adapter, scaling, sum) and lets autograd keep
what each step read. Here the adapter is added by the product that computes it, and only the input and its r-wide image
are kept. The arithmetic is LoRA's (Hu et al. 2021, arXiv:2106.09685, eq. 3): y = W x + b + s B A x.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from alignbench.engine.fast.products import LINEAR_LAYERS, Product, prepacked_of, product_of, repack


class _LoraProduct(torch.autograd.Function):
    """(N, I) x (O, I) -> (N, O); the frozen product's weight and bias get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        low = nn.functional.linear(x, a)  # (N, r)
        ctx.save_for_backward(x, low, a, b)
        ctx.product, ctx.scaling = product, scaling
        return product(x).addmm_(low, b.T, alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        (grad,) = grads
        grad_low = _scaled_mm(grad, b, ctx.scaling)  # in a row what reads the wide gradient, while it is in the cache
        grad_b = _scaled_mm(grad.T, low, ctx.scaling)
        grad_x = ctx.product.pull(grad).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_low.T.mm(x), grad_b, None


def _scaled_mm(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """scaling a b without another walk over the product; with beta 0 the first operand is never read."""
    return torch.addmm(a.new_empty(1), a, b, beta=0, alpha=scaling)


def quicken(module: nn.Module) -> None:
    """Give every plain LoRA layer below `module` the short forward; PEFT's own stays for what that doesn't cover."""
    for layer in module.modules():
        if type(layer) is PeftLinear and type(layer.base_layer) in LINEAR_LAYERS:
            layer.__class__ = Quick


def _forward(layer: PeftLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters and not layer.merged:
        return layer.base_layer(x, *args, **kwargs)
    name = layer.active_adapters[0]
    if len(layer.active_adapters) > 1 or args or kwargs or layer.merged or name in layer.lora_variant:
        return PeftLinear.forward(layer, x, *args, **kwargs)
    if name not in layer.lora_A:
        return layer.base_layer(x)
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    a, b = layer.lora_A[name], layer.lora_B[name]
    is_dropping = layer.training and not isinstance(dropout, nn.Identity)
    is_hooked = base._forward_hooks or base._forward_pre_hooks  # they would not be called
    is_mixed = not x.dtype == base.weight.dtype == a.weight.dtype or torch.is_autocast_enabled(x.device.type)
    if is_dropping or is_hooked or is_mixed or b.bias is not None:
        return PeftLinear.forward(layer, x)
    rows = x.reshape(-1, x.shape[-1])
    out = _LoraProduct.apply(rows, product_of(base), a.weight, b.weight, layer.scaling[name])
    return out.view(*x.shape[:-1], out.shape[-1])


class Quick(PeftLinear):
    """A PEFT layer with the forward above. A class, because a method put on the layer itself would be a cycle that
    keeps an evicted model's weights in memory until the collector comes round."""

    forward = _forward

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """PEFT's own, which a plugin may call."""
        super().merge(*args, **kwargs)
        repack(self.base_layer)

    def unmerge(self) -> None:
        super().unmerge()
        repack(self.base_layer)


def merging(module: nn.Module, name: str) -> list[Quick]:
    """The layers whose weights adapter `name` is added to."""
    return [layer for layer in module.modules() if isinstance(layer, Quick) and name in layer.lora_A]


@contextmanager
def merged(module: nn.Module, name: str) -> Iterator[None]:
    """The base weights below `module` with adapter `name` added to them. They are put back, not subtracted back, so
    that every bit stays. In bfloat16 the sums are rounded once more, which moves a policy by what bfloat16 itself does:
    12-token samples of a supervised SmolLM2-135M are 0.014 nats from float32's merged and 0.011 unmerged."""
    layers = merging(module, name)
    owners: list[Any] = [layer.base_layer for layer in layers]
    usual = [(owner.weight.data, prepacked_of(owner)) for owner in owners]
    try:
        for layer, owner in zip(layers, owners, strict=True):
            a, b = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
            factors: tuple[Any, Any] = (a.T, b.T) if isinstance(owner, Conv1D) else (b, a)
            owner.weight.data = torch.addmm(owner.weight.data, *factors, alpha=layer.scaling[name])
            repack(owner)
        yield
    finally:
        for owner, (weight, prepacked) in zip(owners, usual, strict=True):
            owner.weight.data = weight
            if prepacked is not None:
                owner.prepacked = prepacked
