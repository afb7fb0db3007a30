"""Maths that methods of reinforcement learning share: rewards of tokens, advantages, clipped losses, estimators of KL.

Pure functions of (B, T) tensors and of a mask that is True on the response, so that a method takes the formula it wants
and tests hold each against its paper. They call only what a tensor brings along: importing this imports no torch, and a
plugin may do so at the top of its module.

Ziegler et al. 2019 (arXiv:1909.08593); Schulman et al. 2016 (arXiv:1506.02438) and 2017 (arXiv:1707.06347);
Schulman 2020, "Approximating KL divergence".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_over(values: Tensor, is_counted: Tensor) -> Tensor:
    """Mean of (B, T) values over the True places."""
    return (values * is_counted).sum() / is_counted.sum()


def whiten(values: Tensor, is_counted: Tensor, keep_mean: bool = False) -> Tensor:
    """(B, T) -> (B, T) of unit variance, and zero mean unless kept, over all True places of the batch; 0 elsewhere.

    A lone value has no spread: it is its own mean, and comes out as 0, or as it is with the mean kept.
    """
    mean = mean_over(values, is_counted)
    count = is_counted.sum()
    variance = mean_over((values - mean) ** 2, is_counted) * count / (count - 1).clamp_min(1)  # unbiased
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    return (whitened + mean if keep_mean else whitened) * is_counted


# ----------------------------------------------------------------------------------------------- rewards and advantages


def token_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, is_response: Tensor, kl_coef: float) -> Tensor:
    """(B,) scores and (B, T) log-probabilities -> (B, T): -kl_coef (log p - log p_ref) on each response token, and the
    score on the last one (Ziegler et al. eq. 2, spread over tokens)."""
    rewards = -kl_coef * (logprobs - reference) * is_response
    columns = is_response.shape[1]
    last = columns - 1 - is_response.flip(1).int().argmax(1)  # (B,)
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, is_response: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(B, T) rewards, values -> (B, T) advantages, returns; zero outside responses (Schulman et al. 2016, eq. 16).

    The value after the last response token is 0: the episode is over there, whether by end of sequence or by length.
    """
    advantages = rewards.new_zeros(rewards.shape)
    values = values * is_response
    ahead, next_value = rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        ahead = (delta + gamma * lam * ahead) * is_response[:, t]
        advantages[:, t] = ahead
        next_value = values[:, t]
    return advantages, (advantages + values) * is_response


# --------------------------------------------------------------------------------------------------------------- losses


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, is_response: Tensor, cliprange: float) -> Tensor:
    """Schulman et al. 2017, eq. 7, negated; mean over response tokens."""
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    return mean_over((-advantages * ratio).maximum(-advantages * clipped), is_response)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, is_response: Tensor, cliprange_value: float
) -> Tensor:
    """Half the squared error of the value or of its clipped change, whichever is larger; mean over response tokens."""
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * mean_over(((values - returns) ** 2).maximum((clipped - returns) ** 2), is_response)


# ------------------------------------------------------------------------------------------------------------------- KL


def k1(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q of sampled tokens: an unbiased estimate of KL(p || q) that may be negative."""
    return log_p - log_q


def k3(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(q/p - 1) - log(q/p) of sampled tokens: unbiased too, of less variance, never negative (Schulman 2020)."""
    log_ratio = log_q - log_p
    return log_ratio.exp() - 1 - log_ratio


def exact_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(N, V) log-probabilities of policy and reference -> (N,) KL(policy || reference), nats. Never clamped."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def adapted(kl_coef: float, kl_nats: float, target: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after a round of episodes: proportional control in log space, the error clipped to 0.2
    (Ziegler et al. section 2.2)."""
    error = min(max(kl_nats / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)
