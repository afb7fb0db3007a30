"""Log-probabilities, entropy and KL of the response tokens: pure functions of plain tensors.

Only response positions meet the vocabulary: N is their number in a batch, V the vocabulary. `spread` puts per-position
values back in their (B, T) places, so that nothing downstream is shifted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS_PER_BLOCK = 256  # rows of logits held at once without gradient: 256 x 49152 float32 is 50 MB


class LogprobEntropy(NamedTuple):
    logprobs: Tensor  # (N,) nats
    entropies: Tensor  # (N,) nats


class _LogprobEntropy(torch.autograd.Function):
    """Log-probability of one token a row and entropy of the row, keeping a single (N, V) tensor for backward.

    With l = log softmax(z), p = exp(l), H = -sum p l:  dl_y/dz = e_y - p  and  dH/dz = -p (l + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(logits.float(), dim=-1)
        entropies = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(log_p, labels, entropies)
        ctx.dtype = logits.dtype
        return log_p.gather(-1, labels[:, None]).squeeze(-1), entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        log_p, labels, entropies = ctx.saved_tensors
        grad_logprob, grad_entropy = grads
        scale = -grad_logprob[:, None] - grad_entropy[:, None] * (log_p + entropies[:, None])
        grad = scale.mul_(log_p.exp())
        grad.scatter_add_(-1, labels[:, None], grad_logprob[:, None])
        return grad.to(ctx.dtype), None


def logprobs_and_entropies(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> LogprobEntropy:
    """(N, V) logits, (N,) token ids -> nats, both at `temperature`, differentiable."""
    if temperature != 1.0:
        logits = logits / temperature
    return LogprobEntropy(*_LogprobEntropy.apply(logits, labels))


def token_logprobs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """(N, V) logits, (N,) token ids -> (N,) log-probabilities in nats at `temperature`, float32, differentiable."""
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    return -torch.nn.functional.cross_entropy(logits, labels, reduction="none")


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
