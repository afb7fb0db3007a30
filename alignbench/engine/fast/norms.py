"""Root mean square norms that keep their input alone for the backward pass.

Written out in torch, as transformers has it, a norm keeps a float32 copy of a bfloat16 row, of twice its size, and
walks it a dozen times on the way back. Here (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4) with
n = x / rms(x), y = w n:  dx = (w dy - n mean(n w dy)) / rms(x). The weight is frozen and gets no gradient.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alignbench.engine.fast.probe import compare, limit, there_and_back


class _RmsNorm(torch.autograd.Function):
    """(..., H) -> (..., H), computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)  # 1 / rms(x)
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        grad = (grads[0] * weight).float()
        share = torch.linalg.vecdot(grad, wide)[..., None] * inverse.pow(3) / x.shape[-1]
        return grad.mul_(inverse).addcmul_(wide, share, value=-1).to(x.dtype), None, None


def shorten(model: nn.Module) -> int:
    """Give the frozen model's RMS norms the short backward pass, each if it gives what the formula gives. Returns how
    many have it. UnfitError if the short pass ends elsewhere than the library's."""
    found: list[Any] = [layer for layer in model.modules() if type(layer).__name__.endswith("RMSNorm")]
    layers = [layer for layer in found if not isinstance(layer, _Short) and _is_plain(layer)]
    for layer in {(type(layer), layer.weight.shape, layer.weight.dtype): layer for layer in layers}.values():
        _try_backward(layer)
    for layer in layers:
        layer.__class__ = _shortened(type(layer))  # type: ignore[arg-type]  # a module's own hash is not a class's
    return sum(isinstance(layer, _Short) for layer in model.modules())


def lengthen(model: nn.Module) -> None:
    """The switch: back to the library's own."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, _Short)]
    for layer in layers:
        layer.__class__ = layer.usual


class _Short(nn.Module):
    weight: Tensor
    variance_epsilon: float
    usual: Any  # the library's class

    def forward(self, x: Tensor) -> Tensor:
        is_mixed = x.dtype != self.weight.dtype or torch.is_autocast_enabled(x.device.type)
        if is_mixed or self.weight.requires_grad:
            return self.usual.forward(self, x)
        return _RmsNorm.apply(x, self.weight, self.variance_epsilon)


@cache
def _shortened(kind: Any) -> Any:
    return type(f"Short{kind.__name__}", (_Short, kind), {"usual": kind})


def _try_backward(layer: Any) -> None:
    x = _rows(layer.weight).requires_grad_()
    compare(
        lambda: there_and_back(_RmsNorm.apply(x, layer.weight, layer.variance_epsilon), x),
        lambda: there_and_back(layer(x), x),
        limit(x.dtype),
    )


def _rows(weight: Tensor) -> Tensor:
    return torch.linspace(-3, 2, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)


@torch.no_grad()
def _is_plain(layer: nn.Module) -> bool:
    """Whether it is a root mean square norm as above: some centre, some add 1 to the weight."""
    weight, eps = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or weight.requires_grad:
        return False
    x = _rows(weight)
    return torch.equal(layer(x), _RmsNorm.apply(x, weight, eps))
