"""Log-probabilities and entropy of the response tokens: pure functions of plain tensors.

Only response positions meet the vocabulary: N is their number in a batch, V the vocabulary. `spread` puts per-position
values back in their (B, T) places, so that nothing downstream is shifted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ROWS_PER_BLOCK = 256  # rows of logits held at once: 256 x 49152 bfloat16 is 25 MB


class LogprobEntropy(NamedTuple):
    logprobs: Tensor  # (N,) nats
    entropies: Tensor  # (N,) nats


def logprobs_and_entropies(
    states: Tensor, labels: Tensor, project: Callable[[Tensor], Tensor], temperature: float = 1.0, *,
    has_entropy_gradient: bool = True,
) -> LogprobEntropy:  # fmt: skip
    """(N, H) states, (N,) token ids, the projection of states to (N, V) logits -> nats, both at `temperature`, float32,
    by torch's own log-softmax; autograd keeps what it needs."""
    blocks = [
        _read(project(x), y, temperature)
        for x, y in zip(states.split(ROWS_PER_BLOCK), labels.split(ROWS_PER_BLOCK), strict=True)
    ]
    nats = LogprobEntropy(*(torch.cat(column) for column in zip(*blocks, strict=True)))
    return nats if has_entropy_gradient else nats._replace(entropies=nats.entropies.detach())


def _read(logits: Tensor, labels: Tensor, temperature: float) -> LogprobEntropy:
    log_p = torch.log_softmax(logits.float() / temperature, -1)
    return LogprobEntropy(log_p.gather(-1, labels[:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1))


def spread(values: Tensor, is_response: Tensor) -> Tensor:
    """(N,) values in row-major order of the True places -> (B, T), zero elsewhere, differentiable."""
    return values.new_zeros(is_response.shape).masked_scatter(is_response, values)


def is_before(is_response: Tensor) -> Tensor:
    """(B, T) True one place to the left of each response token: where it was predicted."""
    return torch.nn.functional.pad(is_response[:, 1:], (0, 1))


def before(hidden: Tensor, is_response: Tensor) -> Tensor:
    """(B, T, H) -> (N, H): the states from which the response tokens were predicted, one place to their left."""
    return hidden[:, :-1][is_response[:, 1:]]
