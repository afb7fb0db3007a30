"""A policy against the optimum of its own objective, where every completion can be listed.

For J(pi) = E_pi[r] - beta KL(pi || pi_ref) the optimum is pi* proportional to pi_ref exp(r / beta), and
J(pi*) - J(pi) = beta KL(pi || pi*) (Rafailov et al. 2023, arXiv:2305.18290, eq. 4 and appendix A.1). Nothing here is
sampled: expected rewards and KL are sums over the C completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignbench.engine.resident import Resident
from alignbench.errors import UserError

TOLERANCE = 1e-3  # by which listed probabilities may miss 1: float32 rounding is far below


class Distance(NamedTuple):
    """From a policy to the optimum, mean over prompts."""

    optimum_tv: float  # total variation, 0 to 1
    optimum_kl_nats: float  # KL(pi || pi*)
    objective_share: float  # (J(pi) - J(pi_ref)) / (J(pi*) - J(pi_ref)): 0 at the start, 1 at the optimum


def optimum(log_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """(P, C) log-probabilities of the reference, (P, C) rewards -> (P, C) log pi*."""
    return torch.log_softmax(log_ref + rewards / beta, dim=-1)


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(P, C) log-probabilities twice -> (P,) half the sum of |p - q|."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(P, C) log-probabilities twice -> (P,) KL(p || q), nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mean_reward(log_p: Tensor, rewards: Tensor) -> Tensor:
    """(P, C) log-probabilities, (P, C) rewards -> (P,) expectations."""
    return (log_p.exp() * rewards).sum(-1)


def objective(log_p: Tensor, log_ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """(P, C) three times -> (P,) J(p), reward points."""
    return mean_reward(log_p, rewards) - beta * kl(log_p, log_ref)


def distance(log_p: Tensor, log_ref: Tensor, rewards: Tensor, beta: float) -> Distance:
    """(P, C) log-probabilities of policy and reference, (P, C) rewards. The share is of the prompts' mean objective, so
    that a prompt with nothing to gain has no say."""
    best = optimum(log_ref, rewards, beta)
    start, reached, attainable = (
        objective(log, log_ref, rewards, beta).mean() for log in (log_ref, log_p, best)
    )  # fmt: skip
    return Distance(
        optimum_tv=float(total_variation(log_p, best).mean()),
        optimum_kl_nats=float(kl(log_p, best).mean()),
        objective_share=float((reached - start) / (attainable - start)),
    )


@torch.no_grad()
def completion_logprobs(
    resident: Resident, adapter: str | None, prompts: Sequence[str], completions: Sequence[Sequence[str]], limit: int,
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """(P, C) float64 log-probabilities, nats, of all C completions of each prompt under an adapter (None: the start
    point's own); `limit` is the task's `max_new_tokens`. UserError unless they sum to 1 for every prompt."""
    rows = []
    with resident.using(adapter):
        for prompt, texts in zip(prompts, completions, strict=True):
            tokens = resident.codec.encode([prompt] * len(texts), texts, max_new_tokens=limit)
            rows.append(resident.logprobs(tokens, temperature).sum(-1).double().cpu())
            total = float(rows[-1].exp().sum())
            if abs(total - 1) > TOLERANCE:
                raise UserError(
                    f"the {len(texts)} completions the task lists for '{prompt}' have probability {total:.3g} "
                    "together, not 1: set `model` to one whose whole vocabulary the task's language is"
                )
    return torch.stack(rows)
