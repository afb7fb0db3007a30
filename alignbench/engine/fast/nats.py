"""Log-probabilities and entropy whose gradient is pulled back to the states at once, so that no logits are kept.

N is the number of response tokens in a batch, V the vocabulary. The plain way, by autograd, is `engine.logprobs`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignbench.engine.fast.products import Product
from alignbench.engine.logprobs import ROWS_PER_BLOCK, LogprobEntropy

FLOAT_ROWS = 32  # rows read in float32 at a time: 6 MB, which stays in a CPU's cache


class Logits:
    """The product of a model that gives its logits itself."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def pull(self, grad: Tensor) -> Tensor:
        return grad


class _Nats(torch.autograd.Function):
    """Log-probability of one token a row and the row's entropy, from the states before the projection to logits z.

    With l = log softmax(z), p = exp(l), H = -sum p l:  dl_y/dz = e_y - p  and  dH/dz = -p (l + H). Neither depends on
    what becomes of the outputs but by a factor a row, so both are pulled back to the states at once, while a block's
    logits are at hand, and no logits are kept. (Where a model gives its logits itself there is nothing to pull them
    through, and a slope is as wide as they are.)
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, labels: Tensor, product: Product, temperature: float, slopes: int
    ) -> tuple[Tensor, Tensor]:
        """`slopes`: 0 for values alone, 1 for the log-probability's gradient, 2 for the entropy's too."""
        blocks = [
            _read(product, x, y, temperature, slopes)
            for x, y in zip(states.split(ROWS_PER_BLOCK), labels.split(ROWS_PER_BLOCK), strict=True)
        ]
        columns = blocks[0] if len(blocks) == 1 else [torch.cat(column) for column in zip(*blocks, strict=True)]
        logprobs, entropies, *pulled = columns
        ctx.save_for_backward(*pulled)
        ctx.set_materialize_grads(False)  # an output nobody used costs nothing
        if slopes < 2:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        used = [(g, pulled) for g, pulled in zip(grads, ctx.saved_tensors, strict=False) if g is not None]
        total = sum(pulled * g[:, None] for g, pulled in used)
        return total.to(ctx.saved_tensors[0].dtype), None, None, None, None


def _read(product: Product, states: Tensor, labels: Tensor, temperature: float, slopes: int) -> list[Tensor]:
    """(n,) log-probabilities, (n,) entropies, and as many slopes as asked for, pulled back to the (n, H) states."""
    logits = product(states)
    by_logit = [torch.empty_like(logits) for _ in range(slopes)]
    logprobs, entropies = (torch.empty(len(logits), device=logits.device) for _ in range(2))
    for start in range(0, len(logits), FLOAT_ROWS):
        rows = slice(start, start + FLOAT_ROWS)
        z, y = logits[rows].to(torch.float32, copy=True), labels[rows, None]
        if temperature != 1:
            z.div_(temperature)
        z.sub_(z.amax(-1, keepdim=True))
        p = torch.softmax(z, -1)
        total = -p.amax(-1).log()  # log of the sum of exp(z), whose largest term is now 1
        logprobs[rows] = z.gather(-1, y).squeeze(-1) - total
        entropies[rows] = total - torch.linalg.vecdot(p, z)
        if slopes > 1:
            shift = (entropies[rows] - total)[:, None]
            by_logit[1][rows] = z.add_(shift).mul_(p).div_(-temperature)
        if slopes > 0:
            one_hot_less_p = p.neg_().scatter_add_(-1, y, torch.ones_like(p[:, :1]))
            by_logit[0][rows] = one_hot_less_p if temperature == 1 else one_hot_less_p.div_(temperature)
    return [logprobs, entropies, *map(product.pull, by_logit)]


def logprobs_and_entropies(
    states: Tensor, labels: Tensor, product: Product, temperature: float = 1.0, *, has_entropy_gradient: bool = True
) -> LogprobEntropy:
    """(N, H) states, (N,) token ids, the projection of states to (N, V) logits -> nats, both at `temperature`, float32,
    differentiable; the entropies' gradient costs a product with the vocabulary and may be left out."""
    slopes = slopes_of(states, has_entropy_gradient)
    return LogprobEntropy(*_Nats.apply(states, labels, product, temperature, slopes))


def slopes_of(states: Tensor, has_entropy_gradient: bool) -> int:
    """How many gradients are pulled back to the states, each by a product with the vocabulary."""
    return 1 + has_entropy_gradient if states.requires_grad and torch.is_grad_enabled() else 0
