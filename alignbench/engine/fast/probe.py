"""How a kernel is tried: there and back beside what it stands in for, before anything is trained with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Way = Callable[[], Sequence[Tensor]]  # to an output and its gradients


class UnfitError(Exception):
    """The kernel gives something else than the plain module here, or cannot run. The message says what was seen."""


def limit(dtype: torch.dtype) -> float:
    """How far apart two ways through a whole model may end: the norm of the difference by that of the plain way's."""
    return 1e-4 if dtype == torch.float32 else 0.05


def there_and_back(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradients of the inputs for a fixed gradient of the output."""
    pull = torch.arange(output.numel(), device=output.device).sin().view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, pull)]


def compare(ours: Way, theirs: Way, most: float) -> None:
    """UnfitError where the two ways differ by more than `most`, or ours raises."""
    with torch.enable_grad():
        plain = theirs()
        try:
            fast = ours()
        except Exception as error:  # whatever torch's or a model's code says of it, the plain way runs
            said = (str(error).strip().splitlines() or [""])[0]
            raise UnfitError(f"{type(error).__name__}: {said}") from error
    for number, (a, b) in enumerate(zip(fast, plain, strict=True)):
        what = f"gradient {number}" if number else "output"
        if a.shape != b.shape:
            raise UnfitError(f"its {what} has shape {tuple(a.shape)}, the plain one {tuple(b.shape)}")
        if not (gap := distance(a, b)) <= most:  # also where it is not a number
            raise UnfitError(f"its {what} is {gap:.1g} away from the plain one, and {most:.1g} is allowed")


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference by the norm of theirs."""
    wide = theirs.float()
    return float((ours.float() - wide).norm() / wide.norm().clamp_min(1e-30))
