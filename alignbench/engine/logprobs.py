"""Log-probabilities, entropy and KL of the response tokens: pure functions of plain tensors.

Only response positions meet the vocabulary: N is their number in a batch, V the vocabulary. `spread` puts per-position
values back in their (B, T) places, so that nothing downstream is shifted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS_PER_BLOCK = 256  # rows of logits held at once without gradient: 256 x 49152 float32 is 50 MB
FLOAT_ROWS = 32  # rows read in float32 at a time: 6 MB, which stays in a CPU's cache


class LogprobEntropy(NamedTuple):
    logprobs: Tensor  # (N,) nats
    entropies: Tensor  # (N,) nats


class _Nats(torch.autograd.Function):
    """Log-probability of one token a row and, if wanted, the row's entropy. Only the logits are kept for the backward
    pass, in their own dtype; float32 is held for a block of rows at a time.

    With l = log softmax(z), p = exp(l), H = -sum p l:  dl_y/dz = e_y - p  and  dH/dz = -p (l + H).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, temperature: float, wants_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)  # an output nobody used costs nothing
        parts = []
        for z, y in zip(logits.split(FLOAT_ROWS), labels.split(FLOAT_ROWS), strict=True):
            z = z.float() / temperature
            total = z.logsumexp(-1)
            log_p = z.sub_(total[:, None])
            chosen = log_p.gather(-1, y[:, None]).squeeze(-1)
            entropy = -log_p.exp().mul_(log_p).sum(-1) if wants_entropy else total
            parts.append((total, chosen, entropy))
        totals, chosen, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(logits, labels, totals, entropies)
        ctx.temperature = temperature
        return chosen, entropies if wants_entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, labels, totals, entropies = ctx.saved_tensors
        grad_chosen, grad_entropy = grads
        grad = torch.empty_like(logits)
        for start in range(0, len(logits), FLOAT_ROWS):
            rows = slice(start, start + FLOAT_ROWS)
            log_p = (logits[rows].float() / ctx.temperature).sub_(totals[rows, None])
            scale = torch.zeros_like(log_p[:, :1]) if grad_chosen is None else -grad_chosen[rows, None]
            if grad_entropy is not None:
                scale = scale - grad_entropy[rows, None] * (log_p + entropies[rows, None])
            block = log_p.exp_().mul_(scale)
            if grad_chosen is not None:
                block.scatter_add_(-1, labels[rows, None], grad_chosen[rows, None])
            grad[rows] = block.div_(ctx.temperature)
        return grad, None, None, None


def logprobs_and_entropies(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> LogprobEntropy:
    """(N, V) logits, (N,) token ids -> nats, both at `temperature`, float32, differentiable."""
    return LogprobEntropy(*_Nats.apply(logits, labels, temperature, True))


def token_logprobs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """(N, V) logits, (N,) token ids -> (N,) log-probabilities in nats at `temperature`, float32, differentiable."""
    return _Nats.apply(logits, labels, temperature, False)[0]


def exact_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(N, V) log-probabilities of policy and reference -> (N,) KL(policy || reference), nats. Never clamped."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def spread(values: Tensor, is_response: Tensor) -> Tensor:
    """(N,) values in row-major order of the True places -> (B, T), zero elsewhere, differentiable."""
    return values.new_zeros(is_response.shape).masked_scatter(is_response, values)


def is_before(is_response: Tensor) -> Tensor:
    """(B, T) True one place to the left of each response token: where it was predicted."""
    return torch.nn.functional.pad(is_response[:, 1:], (0, 1))


def before(hidden: Tensor, is_response: Tensor) -> Tensor:
    """(B, T, H) -> (N, H): the states from which the response tokens were predicted, one place to their left."""
    return hidden[:, :-1][is_response[:, 1:]]
