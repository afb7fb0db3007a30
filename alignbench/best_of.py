"""Best-of-n: which of N samples a reward would return from a random n of them.

From N >= n samples a prompt the expected reward of the best of n is estimated without bias (Nakano et al. 2021,
arXiv:2112.09332, appendix): sort by the reward that chooses; the i-th worst of N is the best of a random n-subset with
probability C(i-1, n-1) / C(N, n).
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def best_of_weights(chooser: Tensor, n: int) -> Tensor:
    """(P, N) rewards that choose, n of 1 to N -> (P, N) probability that each sample is the best of n: rows sum to 1.
    Samples that the reward cannot tell apart share their weight."""
    samples = chooser.shape[1]
    by_rank = chooser.new_tensor([comb(rank, n - 1) / comb(samples, n) for rank in range(samples)])
    weights = by_rank[chooser.argsort(dim=1, stable=True).argsort(dim=1, stable=True)]
    is_tied = chooser[:, :, None] == chooser[:, None, :]  # (P, N, N)
    return (is_tied * weights[:, None, :]).sum(2) / is_tied.sum(2)
